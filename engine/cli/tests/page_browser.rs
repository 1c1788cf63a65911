//! The page in a real browser: it looks right on a phone and a desk, in light and dark, moves by itself, can be used
//! with the keyboard and a screen reader, and asks nobody else for anything. Fails where there is no Chromium.

mod common;

use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

use common::browser::Browser;
use common::served::{ROWS, Served, waiting_program};
use common::{Place, root};
use serde_json::Value;

/// axe-core, fetched once with a pinned digest.
fn axe() -> PathBuf {
    static FOUND: OnceLock<PathBuf> = OnceLock::new();
    let find = || {
        let said = Command::new(root().join("scripts/fetch-axe.sh")).output().expect("the script starts");
        assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
        PathBuf::from(String::from_utf8_lossy(&said.stdout).trim())
    };
    FOUND.get_or_init(find).clone()
}

/// What is wrong with how a page lies in its window.
const LAYOUT: &str = r#"(() => {
  const out = [];
  const root = document.documentElement;
  if (root.scrollWidth > innerWidth + 1) out.push(`scrolls sideways by ${root.scrollWidth - innerWidth}`);
  for (const at of document.querySelectorAll("svg text")) {
    const box = at.getBoundingClientRect(), frame = at.closest("svg").getBoundingClientRect();
    const off = Math.max(frame.left - box.left, box.right - frame.right, frame.top - box.top, box.bottom - frame.bottom);
    if (box.height && off > 3) out.push(`${at.textContent} is cut off by ${Math.round(off)}`);
  }
  for (const at of document.querySelectorAll("button, input, select, nav a")) {
    const box = at.getBoundingClientRect();
    if (box.width && box.height < 17) out.push(`${at.outerHTML.slice(0, 60)} is ${box.height} pixels high`);
  }
  return out;
})()"#;

struct Shown {
    place: Place,
    _served: Served,
    origin: String,
    browser: Browser,
}

impl Shown {
    /// A workspace with runs of several kinds, and somebody who has signed in to its page.
    fn start() -> Self {
        let place = Place::new();
        place.write("parts/a.jsonl", ROWS);
        place.write("parts/b.jsonl", &ROWS.replace('q', "another"));
        waiting_program(&place);
        let gate = place.path("gate").display().to_string();
        let text = format!(
            "/// Waits, so that somebody can look.\nprogram wait = \"stages/wait.py\"\nparam size: Int = 3\n\
             dataset rows = jsonl(\"rows.jsonl\")\ndataset parts = jsonl(f) for f in glob(\"parts/*.jsonl\")\n\
             stage gated: Metrics = wait.gate(rows, file: {gate:?})\nstage each: Metrics = wait.gate(p, file: {gate:?}) for p in parts\n\
             output gated = gated\n\
             schedule nightly {{ cron: \"30 1 * * *\", timezone: \"Europe/London\" }}\n\
             schedule changes {{ when_changed: \"parts/*.jsonl\", webhook: \"new-data\" }}\n"
        );
        let file = place.write("wait.pllm", &text).display().to_string();
        let simple = "dataset rows = jsonl(\"rows.jsonl\")\noutput rows = rows\n";
        let quick = place.write("quick.pllm", simple).display().to_string();
        for _ in 0..3 {
            place.headstart(&["run", &quick, "--fresh"]).code(0);
        }
        let missing =
            place.write("missing.pllm", &simple.replace("rows.jsonl", "none.jsonl")).display().to_string();
        place.headstart(&["run", &missing]);
        place.headstart(&["devices", "invite", "phone"]).code(0);
        let token = place.headstart(&["--quiet", "tokens", "create", "ada"]).code(0).out.trim().to_owned();
        let served = Served::start(&place, &[&file, "--page", "127.0.0.1:0", "--unconfined-stages"]);
        let said = served.says("page at http://");
        let (_, rest) = said.split_once("page at ").expect("said");
        let origin = rest.lines().next().expect("a line").to_owned();
        let mut browser = Browser::start();
        browser.window(1280, 900, false);
        browser.open(&format!("{origin}/"));
        browser.value(&format!("document.querySelector('#token').value = {token:?}"));
        browser.leads("document.querySelector('.door button').click()");
        assert_eq!(browser.value("location.pathname"), "/runs");
        Self { place, _served: served, origin, browser }
    }

    /// Looks at a view at all sizes, in light and dark.
    fn look(&mut self, path: &str) {
        let url = format!("{}{path}", self.origin);
        for (width, dark) in [(1280, false), (768, true), (390, false), (390, true)] {
            self.browser.window(width, 900, dark);
            self.browser.open(&url);
            let found = self.browser.value(LAYOUT);
            assert_eq!(found, Value::Array(Vec::new()), "{path} at {width} pixels, dark: {dark}");
            let barriers = self.browser.barriers(&axe());
            assert!(barriers.is_empty(), "{path} at {width} pixels, dark: {dark}: {barriers:#?}");
            if let Some(folder) = std::env::var_os("HEADSTART_PICTURES") {
                let name =
                    format!("{}-{width}{}.png", path.replace('/', "_"), if dark { "-dark" } else { "" });
                self.browser.picture(&PathBuf::from(folder).join(name), false);
            }
        }
        assert!(self.browser.wrong.is_empty(), "{path}: {:?}", self.browser.wrong);
    }
}

#[test]
fn views_are_readable_and_a_run_moves() {
    let mut shown = Shown::start();
    let origin = shown.origin.clone();
    for path in ["/runs", "/catalog", "/schedules", "/devices", "/cache"] {
        shown.look(path);
    }
    // Two runs, ticked and compared.
    shown.browser.window(1280, 900, false);
    shown.browser.open(&format!("{origin}/runs"));
    shown.browser.value("document.querySelectorAll('td.pick input').forEach((at, i) => at.checked = i < 2)");
    shown.browser.leads("document.querySelector('form[action=\"/compare\"] button').click()");
    let compared = shown.browser.value("location.pathname + location.search");
    shown.look(compared.as_str().expect("an address"));

    // Somebody runs a schedule, and sees its run move without loading anything again.
    shown.browser.window(1280, 900, false);
    shown.browser.open(&format!("{origin}/schedules"));
    shown.browser.leads(
        "[...document.querySelectorAll('button')].find(b => b.textContent === 'Run now: nightly').click()",
    );
    shown.browser.until("!!document.querySelector('.past a')  || (location.reload(), false)");
    shown.browser.leads("document.querySelector('.past a').click()");
    let run = shown.browser.value("location.pathname").as_str().expect("a path").to_owned();
    assert!(run.starts_with("/runs/nightly-"), "{run}");
    shown.browser.until("document.querySelector('#tally').textContent.includes('running')");
    shown.browser.value("window.same = true; document.querySelector('#time a').focus()");
    let held = shown.browser.value("document.activeElement.getAttribute('href')");
    shown.look_live(&run);
    shown.browser.open(&format!("{origin}{run}"));
    shown.browser.value("window.same = true; document.querySelector('#time a').focus()");
    shown.place.write("gate", "");
    shown.browser.until("document.querySelector('#head').textContent.includes('succeeded')");
    assert_eq!(shown.browser.value("window.same"), true, "nothing was loaded again");
    assert_eq!(shown.browser.value("document.activeElement.getAttribute('href')"), held, "the focus stays");
    shown.look(&run);
    shown.look(&format!("{run}/outputs"));
    shown.look(&format!("{run}/stages/3"));

    // With the keyboard alone.
    shown.browser.open(&format!("{origin}/runs"));
    shown.browser.press("Tab", 9);
    assert_eq!(shown.browser.value("document.activeElement.textContent"), "Skip to content");
    for _ in 0..3 {
        shown.browser.press("Tab", 9);
    }
    assert_eq!(shown.browser.value("document.activeElement.textContent"), "Catalog");
    shown.browser.value("window.left = true");
    shown.browser.press("Enter", 13);
    shown.browser.until("location.pathname === '/catalog'");

    let elsewhere: Vec<&String> =
        shown.browser.asked.iter().filter(|url| !url.starts_with(&origin) && *url != "about:blank").collect();
    assert!(elsewhere.is_empty(), "the page asks others: {elsewhere:?}");
}

impl Shown {
    /// A run while it is running.
    fn look_live(&mut self, run: &str) {
        self.look(run);
    }
}
