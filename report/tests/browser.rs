//! The pages in a real browser, wide and narrow: they load, ask for nothing, need no sideways
//! scrolling, and no label of a picture is cut off or too small to read. They fail where there is no
//! Chromium; `HEADSTART_CHROMIUM` names one that is not on the `PATH`.

mod common;

use std::path::{Path, PathBuf};
use std::process::Command;

use headstart_report::{html, owner_html};
use libtest_mimic::{Arguments, Failed, Trial};

/// Measures the page in a frame of the wanted width, and writes the finding where `--dump-dom` shows it:
/// Chromium's own window cannot be narrower than 500 pixels.
const MEASURE: &str = r#"<script>
onload = () => {
  const page = document.querySelector("iframe").contentWindow, doc = page.document;
  const wide = doc.documentElement.scrollWidth - page.innerWidth;
  const cut = [], small = [], crushed = [];
  for (const svg of doc.querySelectorAll("svg")) {
    const frame = svg.getBoundingClientRect();
    for (const text of svg.querySelectorAll("text")) {
      const box = text.getBoundingClientRect();
      const out = Math.max(frame.left - box.left, box.right - frame.right, frame.top - box.top, box.bottom - frame.bottom);
      if (out > 3) cut.push(text.textContent + " by " + Math.round(out));
      if (box.height && box.height < 9) small.push(text.textContent + " of " + box.height.toFixed(1));
    }
  }
  for (const cell of doc.querySelectorAll("tbody th, td.n")) {
    const name = cell.textContent.trim();
    if (cell.offsetWidth && cell.offsetWidth < Math.min(60, 6 * name.length)) crushed.push(name);
  }
  const asked = page.performance.getEntriesByType("resource").map(e => e.name);
  const scripts = doc.querySelectorAll("script, img, iframe").length;
  const width = page.innerWidth;
  document.body.innerHTML = "";
  document.body.setAttribute("data-found", JSON.stringify({width, wide, cut, small, crushed, asked, scripts}));
};
</script>"#;

fn chromium() -> Option<PathBuf> {
    if let Some(named) = std::env::var_os("HEADSTART_CHROMIUM") {
        return Some(named.into());
    }
    let folders = std::env::var_os("PATH")?;
    let names = ["chromium", "chromium-browser", "google-chrome"];
    std::env::split_paths(&folders).flat_map(|f| names.map(|n| f.join(n))).find(|p| p.is_file())
}

/// A script that leaves a mark, if the page lets it run.
const MARK: &str = "<script>document.body.setAttribute('data-found', 'ran')</script>";

/// The page as the browser has it after loading it.
fn dom(browser: &Path, page: &str) -> Result<String, Failed> {
    let dir = tempfile::tempdir()?;
    let file = dir.path().join("page.html");
    std::fs::write(&file, page)?;
    let output = Command::new(browser)
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--dump-dom"])
        .arg("--window-size=1300,900")
        .arg(format!("--user-data-dir={}", dir.path().join("profile").display()))
        .arg(format!("file://{}", file.display()))
        .output()?;
    let dom = String::from_utf8_lossy(&output.stdout).into_owned();
    if dom.contains("</body>") {
        return Ok(dom);
    }
    Err(format!("the browser shows nothing: {}", String::from_utf8_lossy(&output.stderr)).into())
}

fn no_script_runs(browser: &Path, page: &str) -> Result<(), Failed> {
    let dom = dom(browser, &page.replace("</body>", &format!("{MARK}</body>")))?;
    if !dom.contains("</main>") {
        return Err("the page is not shown".into());
    }
    if dom.contains("data-found=\"ran\"") { Err("a script ran".into()) } else { Ok(()) }
}

fn looks_right(browser: &Path, page: &str, width: u32) -> Result<(), Failed> {
    let framed = page.replace('&', "&amp;").replace('"', "&quot;");
    let frame =
        format!("<iframe style=\"border:0;width:{width}px;height:900px\" srcdoc=\"{framed}\"></iframe>");
    let outer = format!("<!DOCTYPE html><body style=\"margin:0\">{frame}{MEASURE}</body>");
    let dom = dom(browser, &outer)?;
    let found = dom.split_once("data-found=\"").and_then(|(_, rest)| rest.split_once('"'));
    let (found, _) = found.ok_or("nothing was measured")?;
    let found: serde_json::Value =
        serde_json::from_str(&found.replace("&quot;", "\"").replace("&amp;", "&"))?;
    let cut = ["cut", "small", "crushed", "asked"]
        .iter()
        .any(|k| found[k].as_array().is_some_and(|c| !c.is_empty()));
    // A fraction of a pixel may be rounded up.
    let wide = found["wide"].as_f64().is_none_or(|w| w > 1.0);
    if wide || cut || found["width"] != width || found["scripts"] != 0 {
        return Err(format!("at {width} pixels: {found}").into());
    }
    Ok(())
}

/// What is said where there is no browser.
const MISSING: &str =
    "these tests need Chromium: `apt-get install chromium`, or set HEADSTART_CHROMIUM to its path";

/// The sample with other names of pLLMs.
fn renamed(old: &str, new: &str) -> headstart_report::RunReport {
    let sample = serde_json::to_string(&common::sample()).expect("a report is JSON");
    let new = serde_json::to_string(new).expect("a name is JSON");
    serde_json::from_str(&sample.replace(old, new.trim_matches('"'))).expect("still a report")
}

/// A page whose names try to be markup, to turn the text around, or to be endless.
fn hostile_names() -> headstart_report::RunReport {
    const HOSTILE: &str =
        "\"><img src=http://127.0.0.1:9/x><script>document.title='x'</script>\u{202e}txt.\u{200b}&lt;";
    let mut report = renamed("expert-sarcastic", HOSTILE);
    report.pipeline = format!("{HOSTILE}.pllm");
    report.params.insert(HOSTILE.into(), "x".repeat(400));
    for (i, stage) in report.stages.iter_mut().enumerate() {
        stage.name = if i % 2 == 0 { HOSTILE.into() } else { "名前".repeat(60) };
    }
    for output in &mut report.outputs {
        output.doc = HOSTILE.into();
    }
    report
}

/// A page with long names everywhere.
fn long_names() -> headstart_report::RunReport {
    let mut report = renamed("concise-friendly", "elementary-informative-unfriendly-to-all");
    report.pipeline = "experiments/2026/personalization/pipelines/personalize_everything_at_once.pllm".into();
    report.failures.push(headstart_report::FailureView {
        name: "tuned[\"a-very-long-key-that-has-no-place-to-break_at-all_whatever-the-width\"]".into(),
        state: headstart_report::StageState::Failed,
        message:
            "cannot read /home/somebody/projects/personalization/models/base/model-00001-of-00002.safetensors"
                .into(),
        help: Some("put the file there".into()),
        blocks: 2,
    });
    for stage in &mut report.stages {
        stage.name = stage.name.replace("said", "answers_of_every_personalized_model_in_the_catalog");
    }
    report
}

fn main() {
    let browser = chromium();
    let pages = [
        ("the_servers_page", html(&common::sample())),
        ("a_page_of_long_names", html(&long_names())),
        ("a_page_of_hostile_names", html(&hostile_names())),
        ("the_owners_page", owner_html(&common::owner())),
    ];
    let mut trials = Vec::new();
    for (name, page) in pages {
        let (with, of) = (browser.clone(), page.clone());
        let run = move || no_script_runs(&with.ok_or(MISSING)?, &of);
        trials.push(Trial::test(format!("{name}_runs_no_script"), run));
        for width in [1280, 768, 390] {
            let (browser, page) = (browser.clone(), page.clone());
            let run = move || looks_right(&browser.ok_or(MISSING)?, &page, width);
            trials.push(Trial::test(format!("{name}_at_{width}_pixels"), run));
        }
    }
    libtest_mimic::run(&Arguments::from_args(), trials).exit();
}
