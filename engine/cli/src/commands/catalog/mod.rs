//! `headstart catalog`: the pLLMs of a run, in words and numbers.
//!
//! # Layout
//! - [`found`]: the catalog of a run, and what in that run it was made from.
//! - [`show`]: one pLLM. [`nearest`]: the pLLMs nearest to a pLLM or to a person's texts.
//! - [`samples`]: answers in which a pLLM shows its style.
//! - [`training`]: how a pLLM was trained, and what starting from it should save.
//! - [`ephemeral`]: lets a stage run outside of a run.

mod ephemeral;
pub(crate) mod found;
mod nearest;
pub(crate) mod samples;
mod show;
mod training;

use headstart_console::{OutputError, outln};
use headstart_explain::words::Coefficient;
use headstart_store::Workspace;

use crate::args::{Catalog, CatalogCommand, Format};
use crate::exit::CommandError;
use found::Found;

/// Runs the command.
///
/// # Errors
/// If no run has a catalog that can be read.
pub fn run(ws: &Workspace, args: &Catalog) -> Result<(), CommandError> {
    let run = found::run_with_catalog(ws, args.run.as_deref())?;
    let found = Found::of(ws, &run)?.ok_or_else(|| found::gone(&run))?;
    match &args.command {
        None => list(&found, args.format),
        Some(CatalogCommand::Show { name }) => show::run(ws, &found, name, args.format),
        Some(CatalogCommand::Nearest { what, count }) => {
            nearest::run(ws, &found, what, count.get(), args.format)
        }
    }
}

fn list(found: &Found<'_>, format: Format) -> Result<(), CommandError> {
    let pllms = &found.pllms;
    if format == Format::Json {
        outln!("{}", serde_json::json!(pllms))?;
        return Ok(());
    }
    let longest = pllms.iter().map(|p| p.name.chars().count()).max().unwrap_or(0);
    for p in pllms {
        outln!("{:<longest$}  {}", p.name, in_a_line(&p.words))?;
    }
    Ok(())
}

/// A word as it is meant: `less formal` where the coefficient is negative.
fn said(word: &Coefficient) -> String {
    if word.coefficient < 0.0 { format!("less {}", word.word) } else { word.word.clone() }
}

/// Words with coefficients, in a line.
fn in_a_line(words: &[Coefficient]) -> String {
    let word = |w: &Coefficient| format!("{} {:.2}", said(w), w.coefficient.abs());
    let all: Vec<String> = words.iter().map(word).collect();
    if all.is_empty() { "(no word fits)".to_owned() } else { all.join(", ") }
}

/// Columns of a bar.
const BAR: usize = 28;

/// Prints words with bars: solid up to the lower end of the interval, then lighter up to the
/// coefficient, then a dotted line up to the upper end.
fn print_words(words: &[Coefficient], explained: f64) -> Result<(), OutputError> {
    let top = words.iter().map(|w| w.low.abs().max(w.high.abs())).fold(f64::MIN_POSITIVE, f64::max);
    let columns = |x: f64| (x.max(0.0) / top * BAR as f64).round() as usize;
    for w in words {
        // A negative coefficient's interval runs from its end nearer to zero outwards.
        let (near, far) = if w.coefficient < 0.0 { (-w.high, -w.low) } else { (w.low, w.high) };
        let (near, at, far) = (columns(near), columns(w.coefficient.abs()), columns(far));
        let bar =
            "█".repeat(near) + &"▒".repeat(at.saturating_sub(near)) + &"·".repeat(far.saturating_sub(at));
        outln!("  {:<18} {:>5.2}  [{:.2}, {:.2}]  {bar}", said(w), w.coefficient.abs(), w.low, w.high)?;
    }
    let percent = explained * 100.0;
    outln!(
        "  These words explain {percent:.0} % of the difference; {:.0} % stays unexplained.",
        100.0 - percent
    )
}
