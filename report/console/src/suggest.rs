//! "Did you mean".

/// The candidate that a name was most likely meant to be; none where nothing is alike.
pub fn closest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let limit = (name.chars().count() / 3).max(1);
    let lower = name.to_lowercase();
    candidates
        .into_iter()
        .map(|c| (strsim::damerau_levenshtein(&lower, &c.to_lowercase()), c))
        .filter(|(distance, c)| *distance <= limit || (name.chars().count() > 2 && c.starts_with(name)))
        .min()
        .map(|(_, c)| c)
}

/// What to do about a name that is not among the candidates: the closest one, else all of them.
pub fn help<'a>(name: &str, what: &str, candidates: impl IntoIterator<Item = &'a str> + Clone) -> String {
    if let Some(c) = closest(name, candidates.clone()) {
        return format!("did you mean `{c}`?");
    }
    let all: Vec<&str> = candidates.into_iter().collect();
    match all.as_slice() {
        [] => format!("there is no {what}"),
        some if some.len() > MOST => {
            let more = some.len() - MOST;
            format!("{what}: {} and {more} more", some[..MOST].join(", "))
        }
        all => format!("{what}: {}", all.join(", ")),
    }
}

/// Names that are listed at most.
const MOST: usize = 30;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_are_recognised_and_strangers_are_not() {
        let names = ["catalog", "drift", "said"];
        assert_eq!(closest("catlog", names), Some("catalog"));
        assert_eq!(closest("Drift", names), Some("drift"));
        assert_eq!(closest("cata", names), Some("catalog"));
        assert_eq!(closest("xyzzy", names), None);
        assert_eq!(help("xyzzy", "stages", names), "stages: catalog, drift, said");
        assert_eq!(help("x", "stage", []), "there is no stage");
    }
}
