//! How far a run is: the parts of its page that move.

use std::collections::{BTreeMap, BTreeSet};

use headstart_history::{Followed, Span};
use headstart_report::StageState;
use headstart_report::graph::picture;
use headstart_report::text::seconds;
use maud::{Markup, html};

use crate::layout::{breakable, drawn, fragment, in_path, px, state, time, word};

/// Graphs of more items than this are no pictures any more.
const LARGEST_GRAPH: usize = 80;
/// Fan-outs of up to so many instances are unfolded.
const UNFOLDED: usize = 6;
/// The width of a bar's picture: what time is drawn on.
const BAR: f64 = 1000.0;

/// What became of elements of a page, by their ids.
pub(crate) type Changes = BTreeMap<String, String>;

/// How much of a run a reader has seen.
#[derive(Clone, Debug, Default)]
pub(crate) struct Shown {
    /// Events that had been read.
    events: u64,
    /// The length of the time line, in milliseconds.
    axis_ms: u64,
    /// Instances whose bar grows.
    running: BTreeSet<u32>,
    /// The last graph that was sent.
    graph: String,
    /// The last tally that was sent.
    tally: String,
    live: bool,
}

/// The facts above everything.
pub(crate) fn head(now_ms: u64, followed: &Followed) -> Markup {
    let run = &followed.run;
    let until = if run.live { now_ms } else { followed.last_ms() };
    let took = until.saturating_sub(run.started_ms()) as f64 / 1000.0;
    html! {
        p.facts {
            (word(run.outcome())) " " span { (time(run.started_ms())) } span { (seconds(took)) }
            span { "run " code { (breakable(&run.id)) } }
        }
    }
}

/// Whether a run's graph can still be read.
pub(crate) fn has_graph(followed: &Followed) -> bool {
    (1..=LARGEST_GRAPH).contains(&followed.run.plan.items.len())
}

/// The run as a graph.
pub(crate) fn graph(followed: &Followed) -> Markup {
    drawn(picture(&headstart_history::graph::of_run(&followed.run)))
}

/// The instances of an item.
struct Group {
    item: usize,
    instances: Vec<u32>,
}

fn groups(followed: &Followed) -> Vec<Group> {
    let plan = &followed.run.plan;
    let mut groups: Vec<Group> =
        (0..plan.items.len()).map(|item| Group { item, instances: Vec::new() }).collect();
    for (i, inst) in (0u32..).zip(&plan.instances) {
        groups[inst.item as usize].instances.push(i);
    }
    groups.retain(|g| !g.instances.is_empty());
    groups
}

impl Group {
    fn is_fan_out(&self, followed: &Followed) -> bool {
        followed.run.plan.items[self.item].keyed
    }
}

/// When each stage waited and ran: fan-outs folded into one line, all else in tables.
pub(crate) fn waterfall(followed: &Followed, axis: u64) -> Markup {
    let groups = groups(followed);
    let runs = groups.chunk_by(|a, b| !a.is_fan_out(followed) && !b.is_fan_out(followed));
    html! {
        @for several in runs {
            @if several[0].is_fan_out(followed) {
                @for group in several { (fan_out(followed, group, axis)) }
            } @else {
                @let instances: Vec<u32> = several.iter().flat_map(|g| g.instances.iter().copied()).collect();
                (table(followed, &instances, "Stages", axis))
            }
        }
    }
}

fn table(followed: &Followed, instances: &[u32], caption: &str, axis: u64) -> Markup {
    html! {
        table.stages {
            caption.hidden { (caption) }
            thead { tr { th { span.hidden { "stage" } } th { span.hidden { "state" } } th { span.hidden { "time line" } } th { span.hidden { "time" } } } }
            tbody { @for i in instances { tr #(format!("s{i}")) { (cells(followed, *i, axis)) } } }
        }
    }
}

fn fan_out(followed: &Followed, group: &Group, axis: u64) -> Markup {
    let name = &followed.run.plan.items[group.item].name;
    html! {
        details.group open[group.instances.len() <= UNFOLDED] {
            summary #(format!("g{}", group.item)) { (summary(followed, group, axis)) }
            (table(followed, &group.instances, &format!("Instances of {name}"), axis))
        }
    }
}

fn summary(followed: &Followed, group: &Group, axis: u64) -> Markup {
    let item = &followed.run.plan.items[group.item];
    let states: Vec<StageState> = group.instances.iter().map(|i| followed.stage_state(*i)).collect();
    html! {
        span.name { (breakable(&item.name)) span.kind { " × " (group.instances.len()) } }
        @if let Some(p) = headstart_history::graph::progress(&states) {
            span class=(format!("state {}", p.state.word())) { span.mark aria-hidden="true" {} (p.text) }
        }
        span.line aria-hidden="true" { (overview(followed, group, axis)) }
    }
}

/// A fan-out as one bar: when its instances waited, and when they ran.
fn overview(followed: &Followed, group: &Group, axis: u64) -> Markup {
    let spans = || group.instances.iter().map(|i| followed.span(*i));
    let ready = spans().filter_map(|s| s.ready_ms).min();
    let started = spans().filter_map(|s| s.started_ms).min();
    let ended = spans().filter_map(|s| s.ended_ms).max();
    let any = |of: StageState| group.instances.iter().any(|i| followed.stage_state(*i) == of);
    let state = if any(StageState::Failed) || any(StageState::Quarantined) {
        StageState::Failed
    } else if started.is_none() && any(StageState::Cached) {
        StageState::Cached
    } else {
        StageState::Succeeded
    };
    let open = any(StageState::Running);
    let ended_ms = if open { None } else { ended };
    let span = Span { ready_ms: ready, started_ms: started, ended_ms, computed_seconds: None };
    bar(followed, span, state, axis)
}

fn cells(followed: &Followed, instance: u32, axis: u64) -> Markup {
    let run = &followed.run;
    let inst = run.state.instance(instance);
    let span = followed.span(instance);
    let at = followed.stage_state(instance);
    html! {
        th scope="row" { a href=(format!("/runs/{}/stages/{instance}", in_path(&run.id))) { (breakable(&inst.name)) } }
        td { (state(at)) }
        td.line aria-hidden="true" { (bar(followed, span, at, axis)) }
        td.n { @if at != StageState::Cached { @if let Some(took) = took(followed, span) { (took) } } }
    }
}

fn took(followed: &Followed, span: Span) -> Option<String> {
    let end = span.ended_ms.unwrap_or_else(|| followed.last_ms());
    span.started_ms.map(|start| seconds(end.saturating_sub(start) as f64 / 1000.0))
}

/// A step of the time line: it grows by leaps, so that bars stay where they are.
pub(crate) fn axis_ms(followed: &Followed) -> u64 {
    let elapsed = followed.last_ms().saturating_sub(followed.run.started_ms()).max(1);
    if !followed.run.live {
        return elapsed;
    }
    let wanted = elapsed + elapsed / 4;
    let mut step = 10_000;
    while step < wanted {
        step = step * 3 / 2;
    }
    step
}

/// How long the time line is.
pub(crate) fn scale(axis: u64) -> Markup {
    html! { "line: " (seconds(axis as f64 / 1000.0)) }
}

fn bar(followed: &Followed, span: Span, at: StageState, axis: u64) -> Markup {
    let origin = followed.run.started_ms();
    let x = |ms: u64| (ms.saturating_sub(origin) as f64 / axis as f64 * BAR).min(BAR);
    let now = if followed.run.live { followed.last_ms() } else { span.started_ms.unwrap_or(origin) };
    let end = span.ended_ms.unwrap_or(now);
    let part = |class: &str, from: u64, to: u64| {
        let (from, to) = (x(from), x(to));
        html! { @if to > from || class != "waits" { rect class=(class) x=(px(from)) y="1" width=(px((to - from).max(3.0))) height="8" {} } }
    };
    let runs = if at.is_failure() || at == StageState::Interrupted { "fails" } else { "runs" };
    html! {
        svg viewBox="0 0 1000 10" preserveAspectRatio="none" {
            @if let Some(ready) = span.ready_ms { (part("waits", ready, span.started_ms.unwrap_or(end))) }
            @if at == StageState::Cached { (part("cache", end, end)) }
            @else if let Some(start) = span.started_ms {
                @if let Some(computed) = span.computed_seconds {
                    @let begun = end.saturating_sub((computed * 1000.0) as u64).max(start);
                    (part("moves", start, begun)) (part(runs, begun, end))
                } @else { (part(runs, start, end)) }
            }
        }
    }
}

impl Shown {
    /// A page that was made when so many events had been read.
    pub(crate) fn since(followed: &Followed, events: u64, axis_ms: u64) -> Self {
        let running = followed.run.state.running().map(|(_, i)| i).collect();
        Self { events, axis_ms, running, live: true, ..Self::default() }
    }
}

/// What has changed for a reader, as contents of elements by id; what was shown is brought up to date.
pub(crate) fn changes(followed: &Followed, shown: &mut Shown) -> Changes {
    let mut out = Changes::new();
    let axis = axis_ms(followed);
    let moved = axis != shown.axis_ms;
    let running: BTreeSet<u32> = followed.run.state.running().map(|(_, i)| i).collect();
    let mut rows: BTreeSet<u32> = followed.changed_since(shown.events).collect();
    if moved {
        rows = (0..followed.run.plan.instances.len() as u32).collect();
        out.insert("axis".to_owned(), fragment(&scale(axis)));
    } else if followed.run.live {
        rows.extend(running.union(&shown.running));
    }
    let items: BTreeSet<usize> = rows.iter().map(|i| followed.run.state.instance(*i).item as usize).collect();
    for i in &rows {
        out.insert(format!("s{i}"), fragment(&cells(followed, *i, axis)));
    }
    let folded = |g: &&Group| g.is_fan_out(followed) && (moved || items.contains(&g.item));
    for group in groups(followed).iter().filter(folded) {
        out.insert(format!("g{}", group.item), fragment(&summary(followed, group, axis)));
    }
    let tally = followed.run.tally();
    if tally != shown.tally {
        out.insert("tally".to_owned(), fragment(&html! { (tally) }));
        if has_graph(followed) {
            let graph = fragment(&graph(followed));
            if graph != shown.graph {
                out.insert("graph".to_owned(), graph.clone());
                shown.graph = graph;
            }
        }
        shown.tally = tally;
    }
    if followed.run.live || shown.live {
        // By the events' own clock: the last one is never in the future.
        out.insert("head".to_owned(), fragment(&head(followed.last_ms(), followed)));
    }
    shown.events = followed.events();
    shown.axis_ms = axis;
    shown.running = running;
    shown.live = followed.run.live;
    out
}

#[cfg(test)]
mod tests {
    use headstart_core::{Event, EventKind};
    use headstart_driver::{OnFailure, RunHeader};
    use headstart_dsl::MemoryLoader;
    use headstart_protocol::{ArtifactRef, ArtifactType, Digest};
    use headstart_store::{RunLog, Workspace};
    use headstart_testkit::assert_within;

    use super::*;

    /// A workspace with a live run of 1,000 stage instances of which none has begun.
    fn large() -> (Workspace, RunLog) {
        let mut files =
            MemoryLoader::new().with("p/p.pllm", "dataset parts = jsonl(f) for f in glob(\"parts/*\")\n");
        for i in 0..1000 {
            files = files.with(&format!("p/parts/{i}.jsonl"), "");
        }
        let plan = headstart_dsl::check("p/p.pllm", &files, &Default::default()).plan.expect("no errors");
        assert_eq!(plan.instances.len(), 1000);
        let ws = Workspace::temporary().expect("a workspace");
        let header = RunHeader {
            pipeline: "p.pllm".into(),
            source_dir: ".".into(),
            on_failure: OnFailure::KeepGoing,
            plan,
        };
        let log = ws.create_run("large", &header).expect("a run");
        let begun = EventKind::RunStarted {
            run: "large".into(),
            pipeline: "p.pllm".into(),
            plan: Digest::of(b"plan"),
            instances: 1000,
        };
        log.append(&[Event::new(1_000, begun)]).expect("written");
        (ws, log)
    }

    /// Begins and ends the instances `from` to `to`.
    fn work(log: &RunLog, at_ms: u64, instances: std::ops::Range<u32>) {
        let events: Vec<Event> = instances
            .flat_map(|instance| {
                let fence = u64::from(instance) + 1;
                let started = EventKind::AttemptStarted {
                    instance,
                    attempt: 1,
                    fence,
                    runner: "local".into(),
                    key: None,
                    lease_until_ms: None,
                };
                let id = Digest::of(&instance.to_le_bytes());
                let output = ArtifactRef { id, ty: ArtifactType::Dataset, private_to: None };
                let released = BTreeMap::new();
                let usage = Default::default();
                let committed = EventKind::Committed { instance, fence, output, released, usage };
                [Event::new(at_ms, started), Event::new(at_ms + 10, committed)]
            })
            .collect();
        log.append(&events).expect("written");
    }

    #[test]
    fn only_what_has_changed_is_sent() {
        let (ws, log) = large();
        let mut followed = Followed::open(&ws, "large").expect("readable");
        let mut shown = Shown::since(&followed, followed.events(), axis_ms(&followed));
        assert!(!changes(&followed, &mut shown).contains_key("s5"), "nothing has happened to it");
        work(&log, 1_100, 5..7);
        assert!(followed.refresh().expect("readable"));
        let changed = changes(&followed, &mut shown);
        assert!(changed["s5"].contains("succeeded"), "{}", changed["s5"]);
        let rows: Vec<&String> = changed.keys().filter(|k| k.starts_with('s')).collect();
        assert_eq!(rows, ["s5", "s6"]);
        assert!(
            changed["tally"].contains("2 succeeded") && changed["g0"].contains("2 of 1000"),
            "{changed:?}"
        );
        assert!(!followed.refresh().expect("readable"));
        assert!(changes(&followed, &mut shown).keys().all(|k| k == "head"), "nothing is new");
    }

    /// A second of a run of 1,000 stage instances with 60 events, looked at by one reader.
    #[test]
    fn a_second_of_a_large_run_costs_little() {
        let (ws, log) = large();
        let mut followed = Followed::open(&ws, "large").expect("readable");
        let mut shown = Shown::since(&followed, followed.events(), axis_ms(&followed));
        // Ten seconds before: what is over costs nothing.
        work(&log, 2_000, 0..300);
        followed.refresh().expect("readable");
        changes(&followed, &mut shown);
        let seconds = 5;
        let mut sent = 0;
        let begun = std::time::Instant::now();
        for second in 0..seconds {
            for quarter in 0..4 {
                let at = 2_000 + u64::from(second) * 1_000 + u64::from(quarter) * 250;
                let from = 300 + second * 30 + quarter * 30 / 4;
                let to = 300 + second * 30 + (quarter + 1) * 30 / 4;
                work(&log, at, from..to);
                assert!(followed.refresh().expect("readable"));
                let changed = changes(&followed, &mut shown);
                sent += serde_json::to_string(&changed).expect("texts").len();
            }
        }
        let a_second = begun.elapsed() / seconds;
        println!("{} kB are sent in a second", sent / 1000 / seconds as usize);
        assert_within(
            "server time in a second of a run of 1,000 stages, 60 events",
            a_second,
            std::time::Duration::from_millis(100),
        );
    }
}
