//! The pages in a real browser, wide and narrow: they load, ask for nothing, need no sideways
//! scrolling, and no label of a picture is cut off or too small to read. They fail where there is no
//! Chromium; `HEADSTART_CHROMIUM` names one that is not on the `PATH`.

mod common;

use std::path::{Path, PathBuf};
use std::process::Command;

use headstart_report::{html, owner_html};
use libtest_mimic::{Arguments, Failed, Trial};

/// Measures the page once it is laid out, and writes the finding where `--dump-dom` shows it. The
/// pages themselves have no scripts, and their policy lets none run; this is in a copy that allows it.
const MEASURE: &str = r#"<script>
const wide = document.documentElement.scrollWidth - window.innerWidth;
const cut = [], small = [];
for (const svg of document.querySelectorAll("svg")) {
  const frame = svg.getBoundingClientRect();
  for (const text of svg.querySelectorAll("text")) {
    const box = text.getBoundingClientRect();
    const out = Math.max(frame.left - box.left, box.right - frame.right, frame.top - box.top, box.bottom - frame.bottom);
    if (out > 3) cut.push(text.textContent + " by " + Math.round(out));
    if (box.height && box.height < 9) small.push(text.textContent + " of " + box.height.toFixed(1));
  }
}
const asked = performance.getEntriesByType("resource").map(e => e.name);
document.body.innerHTML = "";
document.body.setAttribute("data-found", JSON.stringify({wide, cut, small, asked}));
</script>"#;

fn chromium() -> Option<PathBuf> {
    if let Some(named) = std::env::var_os("HEADSTART_CHROMIUM") {
        return Some(named.into());
    }
    let folders = std::env::var_os("PATH")?;
    let names = ["chromium", "chromium-browser", "google-chrome"];
    std::env::split_paths(&folders).flat_map(|f| names.map(|n| f.join(n))).find(|p| p.is_file())
}

/// The policy of every page, and that of the copies.
const POLICY: [&str; 2] = ["default-src 'none';", "default-src 'none'; script-src 'unsafe-inline';"];

/// What a script that is put into the page finds, if the page lets it run; else what the browser said.
fn measured(browser: &Path, page: &str, width: u32) -> Result<Result<serde_json::Value, String>, Failed> {
    let dir = tempfile::tempdir()?;
    let file = dir.path().join("page.html");
    std::fs::write(&file, page.replace("</body>", &format!("{MEASURE}</body>")))?;
    let output = Command::new(browser)
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--dump-dom"])
        .arg(format!("--window-size={width},900"))
        .arg(format!("--user-data-dir={}", dir.path().join("profile").display()))
        .arg(format!("file://{}", file.display()))
        .output()?;
    let dom = String::from_utf8_lossy(&output.stdout);
    let found = dom.split_once("data-found=\"").and_then(|(_, rest)| rest.split_once('"'));
    let Some((found, _)) = found else {
        let rendered = dom.contains("</main>");
        return Ok(Err(format!("rendered: {rendered}; {}", String::from_utf8_lossy(&output.stderr))));
    };
    Ok(Ok(serde_json::from_str(&found.replace("&quot;", "\"").replace("&amp;", "&"))?))
}

fn no_script_runs(browser: &Path, page: &str) -> Result<(), Failed> {
    match measured(browser, page, 1280)? {
        Ok(found) => Err(format!("a script ran and found {found}").into()),
        Err(said) if said.starts_with("rendered: true") => Ok(()),
        Err(said) => Err(said.into()),
    }
}

fn looks_right(browser: &Path, page: &str, width: u32) -> Result<(), Failed> {
    let found = measured(browser, &page.replace(POLICY[0], POLICY[1]), width)?;
    let found = found.map_err(|said| format!("nothing was measured; {said}"))?;
    let cut = ["cut", "small"].iter().any(|k| found[k].as_array().is_some_and(|c| !c.is_empty()));
    // A fraction of a pixel may be rounded up.
    if found["wide"].as_f64().is_none_or(|w| w > 1.0) || cut || found["asked"] != serde_json::json!([]) {
        return Err(format!("at {width} pixels: {found}").into());
    }
    Ok(())
}

/// What is said where there is no browser.
const MISSING: &str =
    "these tests need Chromium: `apt-get install chromium`, or set HEADSTART_CHROMIUM to its path";

/// A page with long names everywhere.
fn long_names() -> headstart_report::RunReport {
    let mut report = common::sample();
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
        ("the_owners_page", owner_html(&common::owner())),
    ];
    let mut trials = Vec::new();
    for (name, page) in pages {
        let (with, of) = (browser.clone(), page.clone());
        let run = move || no_script_runs(&with.ok_or(MISSING)?, &of);
        trials.push(Trial::test(format!("{name}_runs_no_script"), run));
        for width in [1280, 500, 390] {
            let (browser, page) = (browser.clone(), page.clone());
            let run = move || looks_right(&browser.ok_or(MISSING)?, &page, width);
            trials.push(Trial::test(format!("{name}_at_{width}_pixels"), run));
        }
    }
    libtest_mimic::run(&Arguments::from_args(), trials).exit();
}
