//! `headstart serve` and `headstart schedules` over real processes. Times are not waited for: files change, people ask,
//! servers are killed.

mod common;

use std::path::Path;
use std::time::Instant;

use common::Place;
use common::served::{PATIENCE, ROWS, Served, waiting_program};

/// Waits until the list of schedules has this.
#[track_caller]
fn lists(place: &Place, text: &str) {
    let begun = Instant::now();
    while !place.headstart(&["schedules", "list", "--format", "json"]).code(0).out.contains(text) {
        assert!(begun.elapsed() < PATIENCE, "it does not list {text}");
    }
}

/// A time that does not come while a test runs.
const YEARLY: &str = "cron: \"0 0 1 1 *\", timezone: \"UTC\"";

fn plain(path: &Path) -> String {
    path.to_str().expect("a plain path").to_owned()
}

/// A pipeline whose one stage waits until `gate` is there.
fn waiting_pipeline(place: &Place, gate: &str, schedule: &str) -> String {
    let file = plain(&place.path(gate));
    let text = format!(
        "program wait = \"stages/wait.py\"\ndataset rows = jsonl(\"rows.jsonl\")\n\
         stage n: Metrics = wait.gate(rows, file: {file:?})\noutput n = n\n{schedule}\n"
    );
    plain(&place.write("wait.pllm", &text))
}

#[test]
fn each_fire_makes_a_new_plan_of_what_is_there_then() {
    let place = Place::new();
    place.write("parts/a.jsonl", ROWS);
    let text = format!(
        "dataset parts = jsonl(f) for f in glob(\"parts/*.jsonl\")\noutput parts = parts\n\
         schedule yearly {{ {YEARLY} }}\nschedule changes {{ when_changed: \"parts/*.jsonl\" }}\n"
    );
    let file = plain(&place.write("p.pllm", &text));
    let served = Served::start(&place, &[&file]);
    let said = served.says("changes: on change of");
    assert!(said.contains("yearly: next at "), "{said}");
    place.headstart(&["schedules", "run", "yearly"]).code(0);
    served.says("parts ×1");
    place.write("parts/b.jsonl", &ROWS.replace('q', "another"));
    served.says("parts ×2");
    served.says_times(" succeeded", 2);
    let list = place.headstart(&["schedules", "list"]).code(0).out;
    assert!(list.contains("changes  p.pllm  waiting   -"), "{list}");
    place.headstart(&["schedules", "explain", "changes"]).code(0).out_has("parts/*.jsonl` changed");
}

#[test]
fn an_edit_comes_into_force_by_itself_and_a_wrong_one_does_not() {
    let place = Place::new();
    place.write("rows.jsonl", ROWS);
    let text = |output: &str, schedule: &str| {
        format!(
            "dataset rows = jsonl(\"rows.jsonl\")\noutput {output} = rows\nschedule {schedule} {{ {YEARLY} }}\n"
        )
    };
    let file = plain(&place.write("p.pllm", &text("first", "nightly")));
    let served = Served::start(&place, &[&file]);
    served.says("nightly: next at");
    place.write("p.pllm", "dataset rows = jsonl(\"rows.jsonl\"\n");
    served.says("what it said before stays in force");
    place.headstart(&["schedules", "run", "nightly"]).code(0);
    served.says_times(" succeeded", 1);
    place.write("p.pllm", &text("second", "weekly"));
    served.says("changed, and in force from now on");
    served.says("nightly: no longer scheduled");
    served.says("weekly: next at");
    place.headstart(&["schedules", "run", "weekly"]).code(0);
    served.says_times(" succeeded", 2);
    let runs = place.headstart(&["runs", "--format", "json"]).code(0).out;
    assert!(runs.contains("nightly-") && runs.contains("weekly-"), "{runs}");
    place.headstart(&["schedules", "explain", "nightly"]).code(2).err_has("does not have the schedule");
}

#[test]
fn an_interrupted_run_is_gone_on_with_and_its_fire_is_handled_once() {
    let place = Place::new();
    waiting_program(&place);
    let file = waiting_pipeline(&place, "gate", &format!("schedule s {{ {YEARLY} }}"));
    let served = Served::start(&place, &["--unconfined-stages", &file]);
    served.says("s: next at");
    place.headstart(&["schedules", "run", "s"]).code(0);
    served.says("starting run s-");
    served.says("rows");
    served.kill();
    let list = place.headstart(&["runs"]).code(0).out;
    assert_eq!(list.matches("interrupted").count(), 1, "{list}");
    // Nobody asks again: the next server finishes what the first began.
    let served = Served::start(&place, &["--unconfined-stages", &file]);
    served.says("resuming run s-");
    place.write("gate", "");
    served.says(" succeeded");
    let list = place.headstart(&["runs"]).code(0).out;
    assert_eq!((list.matches("s-2").count(), list.matches("succeeded").count()), (1, 1), "{list}");
}

#[test]
fn schedules_of_one_name_and_one_that_fails_leave_each_other_alone() {
    let place = Place::new();
    place.write("rows.jsonl", ROWS);
    let text = |rows: &str| {
        format!("dataset rows = jsonl({rows:?})\noutput rows = rows\nschedule nightly {{ {YEARLY} }}\n")
    };
    place.write("both/a.pllm", &text("missing.jsonl"));
    place.write("both/b.pllm", &text("../rows.jsonl"));
    let served = Served::start(&place, &[&plain(&place.path("both"))]);
    served.says_times("nightly: next at", 2);
    place
        .headstart(&["schedules", "run", "nightly"])
        .code(2)
        .err_has("several files have a schedule `nightly`");
    for name in ["both/a.pllm:nightly", "both/b.pllm:nightly"] {
        place.headstart(&["schedules", "run", name]).code(0);
    }
    served.says(" failed: ");
    served.says(" succeeded");
    // A file that is put into the folder later counts from then on.
    place.write("both/c.pllm", &text("../rows.jsonl").replace("nightly", "weekly"));
    served.says("weekly: next at");
    let list = place.headstart(&["schedules", "list"]).code(0).out;
    assert_eq!(list.matches("both/").count(), 3, "{list}");
}

#[test]
fn a_second_server_takes_over_when_the_first_ends() {
    let place = Place::new();
    place.write("rows.jsonl", ROWS);
    let text =
        format!("dataset rows = jsonl(\"rows.jsonl\")\noutput rows = rows\nschedule s {{ {YEARLY} }}\n");
    let file = plain(&place.write("p.pllm", &text));
    let first = Served::start(&place, &[&file]);
    first.says("s: next at");
    let second = Served::start(&place, &[&file]);
    second.says("another server on this workspace runs it");
    place.headstart(&["schedules", "run", "s"]).code(0);
    lists(&place, "\"outcome\":\"succeeded\"");
    first.kill();
    second.says("s: next at");
    place.headstart(&["schedules", "run", "s"]).code(0);
    let said = second.says(" succeeded");
    assert_eq!(said.matches("starting run").count(), 1, "the first fire is not run again: {said}");
}

#[test]
fn overlapping_fires_do_what_the_schedule_says() {
    for overlap in ["queue", "cancel_other"] {
        let place = Place::new();
        waiting_program(&place);
        place.write("watched", "1");
        let schedule = format!("schedule s {{ when_changed: \"watched\", overlap: {overlap} }}");
        let file = waiting_pipeline(&place, "gate", &schedule);
        let served = Served::start(&place, &["--unconfined-stages", &file, "--now"]);
        served.says("starting run s-");
        place.write("watched", "12");
        if overlap == "queue" {
            lists(&place, "\"waiting\":1");
            place.write("gate", "");
            served.says_times(" succeeded", 2);
        } else {
            served.says(" cancelled");
            served.says_times("starting run s-", 2);
            place.write("gate", "");
            served.says(" succeeded");
        }
    }
}

#[test]
fn pausing_explaining_and_backfilling() {
    let place = Place::new();
    place.write("rows.jsonl", ROWS);
    let text = "dataset rows = jsonl(\"rows.jsonl\")\noutput rows = rows\n\
                schedule nightly { cron: \"30 2 * * *\", timezone: \"America/New_York\" }\n\
                schedule later { after: nightly }\n";
    let file = plain(&place.write("p.pllm", text));
    let served = Served::start(&place, &[&file]);
    served.says("later: on success of `nightly`");
    place.headstart(&["schedules", "pause", "nightly"]).code(0);
    served.says("nightly: paused");
    place.headstart(&["schedules", "list"]).code(0).out_has("paused");
    let explained = place.headstart(&["schedules", "explain", "nightly", "--count", "2"]).code(0).out;
    assert!(explained.contains("… clocks go "), "{explained}");
    let spring = explained.contains("left out by the clocks");
    let autumn = explained.contains("clocks go back");
    assert!(spring || autumn, "{explained}");
    let range = ["--from", "2025-03-08", "--to", "2025-03-09"];
    let backfill: Vec<&str> = ["schedules", "backfill", "nightly"].into_iter().chain(range).collect();
    place.headstart(&backfill).code(0).err_has("asked for 2 runs");
    // Asked for, so paused or not; the other follows each of them.
    let said = served.says_times(" succeeded", 4);
    assert!(
        said.contains("run nightly-20250308T0230-") && said.contains("run nightly-20250309T0230-"),
        "{said}"
    );
    place.headstart(&["schedules", "explain", "later"]).code(0).out_has("of `nightly` succeeded");
    place.headstart(&["schedules", "resume", "nightly"]).code(0);
    served.says("nightly: resumed");
    let none = ["schedules", "backfill", "nightly", "--from", "2025-03-09T12:00", "--to", "2025-03-09T13:00"];
    place.headstart(&none).code(2).err_has("no time of the schedule");
    place.headstart(&["schedules", "pause", "nighly"]).code(2).err_has("did you mean `nightly`?");
}
