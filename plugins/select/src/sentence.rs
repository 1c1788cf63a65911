//! The choice in a sentence that a phone can show.

use headstart_explain::catalog::Catalog;
use headstart_explain::words::Coefficient;

/// Words that a sentence names at most.
const NAMED: usize = 3;

/// Why the choice was made, for the user. `names` are the chosen pLLMs with weights; none where the
/// base was chosen. `ending` is what the choice should save, where that is known.
pub fn sentence(
    catalog: &Catalog,
    names: &[(&str, f64)],
    user: &[Coefficient],
    ending: Option<&str>,
) -> String {
    if names.is_empty() {
        return "None of the models writes like you; yours starts from the base.".to_owned();
    }
    let choice = match names {
        [_] => "Chosen".to_owned(),
        several => {
            let part = |(name, weight): &(&str, f64)| format!("{name} ({weight:.1})");
            format!("Mixed from {}", join(&several.iter().map(part).collect::<Vec<_>>()))
        }
    };
    let adverb = |w: &Coefficient| {
        let about = catalog.about.words.iter().find(|a| a.word == w.word)?;
        let less = if w.coefficient < 0.0 { "less " } else { "" };
        Some(format!("{less}{} ({:.1})", about.adverb, w.coefficient.abs()))
    };
    // A word whose interval reaches zero is not worth a claim.
    let sure = user.iter().filter(|w| w.low > 0.0 || w.high < 0.0);
    let words: Vec<String> = sure.filter_map(adverb).take(NAMED).collect();
    let why = match words.as_slice() {
        [] => "as the nearest to how you write".to_owned(),
        words => format!("because you write {}", join(words)),
    };
    let ending = ending.map(|e| format!("; {e}")).unwrap_or_default();
    format!("{choice} {why}{ending}.")
}

fn join(parts: &[String]) -> String {
    match parts {
        [] => String::new(),
        [one] => one.clone(),
        [first @ .., last] => format!("{} and {last}", first.join(", ")),
    }
}
