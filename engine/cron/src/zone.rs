//! Time zones by name.

use jiff::tz::TimeZone;

use crate::parse::CronError;

/// Names that people use for a zone and that are none, or not in every database.
const ABBREVIATIONS: &[(&str, &str)] = &[
    ("PST", "America/Los_Angeles"),
    ("PDT", "America/Los_Angeles"),
    ("PT", "America/Los_Angeles"),
    ("CST", "America/Chicago"),
    ("CDT", "America/Chicago"),
    ("EDT", "America/New_York"),
    ("ET", "America/New_York"),
    ("BST", "Europe/London"),
    ("CEST", "Europe/Berlin"),
    ("IST", "Asia/Kolkata"),
    ("JST", "Asia/Tokyo"),
];

/// Typing errors up to this many edits are recognized.
const MAX_EDITS: usize = 3;

/// The time zone of this name in the IANA database. A database is built in, for machines that have
/// none.
///
/// # Errors
/// [`CronError::Zone`] if there is no such zone, with the one that is probably meant.
pub fn time_zone(name: &str) -> Result<TimeZone, CronError> {
    TimeZone::get(name).map_err(|_| CronError::Zone { name: name.to_owned(), meant: meant(name) })
}

/// The zone that is probably meant: of a city, an abbreviation, or a name that is nearly right.
fn meant(name: &str) -> Option<String> {
    let zones: Vec<String> = jiff::tz::db().available().map(|zone| zone.to_string()).collect();
    let city = |zone: &&String| zone.rsplit('/').next().is_some_and(|city| same(city, name));
    if let Some(zone) = zones.iter().find(city) {
        return Some(zone.clone());
    }
    if let Some((_, zone)) = ABBREVIATIONS.iter().find(|(short, _)| short.eq_ignore_ascii_case(name)) {
        return Some((*zone).to_owned());
    }
    // A name of few letters is near to too many others.
    let edits = MAX_EDITS.min(name.chars().count() / 2);
    let distance = |a: &str| strsim::damerau_levenshtein(&a.to_lowercase(), &name.to_lowercase());
    let whole = zones.iter().map(|zone| (distance(zone), zone));
    let by_city = zones.iter().filter_map(|zone| Some((distance(zone.rsplit('/').next()?) + 1, zone)));
    let near = whole.chain(by_city).filter(|(distance, _)| *distance <= edits).min();
    near.map(|(_, zone)| zone.clone())
}

/// Whether a city of the database, such as `New_York`, is what was written.
fn same(city: &str, written: &str) -> bool {
    city.eq_ignore_ascii_case(&written.replace([' ', '-'], "_"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_zones_name_the_one_that_is_meant() {
        for (written, zone) in [
            ("London", Some("Europe/London")),
            ("new york", Some("America/New_York")),
            ("pst", Some("America/Los_Angeles")),
            ("Europe/Lndon", Some("Europe/London")),
            ("Amsterdm", Some("Europe/Amsterdam")),
            ("UCT+", Some("UCT")),
            ("x", None),
            ("", None),
            ("nowhere at all", None),
        ] {
            let Err(CronError::Zone { meant, .. }) = time_zone(written) else { panic!("{written}") };
            assert_eq!(meant.as_deref(), zone, "{written}");
        }
    }
}
