//! The choice in a sentence that a phone can show.

use headstart_explain::catalog::Catalog;
use headstart_protocol::artifacts::{Coefficient, Selection};

/// Words that a sentence names at most.
const NAMED: usize = 3;

/// Why the choice was made, for the user. `ending` is what the start should save, where that is known.
pub fn sentence(catalog: &Catalog, selection: &Selection, ending: Option<&str>) -> String {
    if selection.abstained {
        return match &selection.style {
            Some(style) => format!("You write like {style} now and then, but the base is the better start."),
            None => "None of the models writes like you; yours starts from the base.".to_owned(),
        };
    }
    let user = &selection.user.words;
    let choice = match selection.heaviest_first().as_slice() {
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
