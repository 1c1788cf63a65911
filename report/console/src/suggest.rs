//! "Did you mean".

use headstart_protocol::text::similar;

/// What to do about a name that is not among the candidates: the closest one, else all of them.
pub fn help<'a>(name: &str, what: &str, candidates: impl IntoIterator<Item = &'a str> + Clone) -> String {
    if let Some(c) = similar(name, candidates.clone()) {
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
    fn the_closest_name_is_suggested_or_all_are_listed() {
        let names = ["catalog", "drift", "said"];
        assert_eq!(help("catlog", "stages", names), "did you mean `catalog`?");
        assert_eq!(help("xyzzy", "stages", names), "stages: catalog, drift, said");
        assert_eq!(help("x", "stage", []), "there is no stage");
    }
}
