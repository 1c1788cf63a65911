//! Renders a report from JSON: `cargo run -p headstart-report --example render REPORT.json OUT.html`.
//! Without arguments, the sample of the tests, as text only.

use headstart_report::{RunReport, html, terminal};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let text = match args.next() {
        Some(path) => std::fs::read_to_string(path)?,
        None => include_str!("../tests/sample.json").to_owned(),
    };
    let report: RunReport = serde_json::from_str(&text)?;
    print!("{}", terminal(&report, 100, true));
    if let Some(out) = args.next() {
        std::fs::write(out, html(&report))?;
    }
    Ok(())
}
