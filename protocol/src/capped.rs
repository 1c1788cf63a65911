//! Texts in messages have a largest length, whoever sends them: what is longer is cut where the message is
//! parsed, with a mark that shows it. Lists of texts have a largest number of entries: more are refused.
//!
//! For `#[serde(deserialize_with = "…")]`.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};

/// Bytes of a name: of a device, a stage instance, a unit, a code.
pub const NAME: usize = 1 << 10;
/// Bytes of a text for people.
pub const MESSAGE: usize = 16 << 10;
/// Entries of a list of names or named numbers.
pub const ENTRIES: usize = 10_000;

/// Ends what was cut.
const MARK: &str = " … (cut)";

fn cut(mut text: String, most: usize) -> String {
    if text.len() > most {
        text.truncate(text.floor_char_boundary(most - MARK.len()));
        text.push_str(MARK);
        text.shrink_to_fit();
    }
    text
}

/// A name.
pub(crate) fn name<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    String::deserialize(from).map(|text| cut(text, NAME))
}

/// A text for people.
pub(crate) fn message<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    String::deserialize(from).map(|text| cut(text, MESSAGE))
}

/// A text for people that may be absent.
pub(crate) fn message_opt<'de, D: Deserializer<'de>>(from: D) -> Result<Option<String>, D::Error> {
    Ok(Option::<String>::deserialize(from)?.map(|text| cut(text, MESSAGE)))
}

/// A list of names.
pub(crate) fn names<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
    struct Names;
    impl<'de> Visitor<'de> for Names {
        type Value = Vec<String>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "a list of at most {ENTRIES} names")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Vec<String>, A::Error> {
            let mut out = Vec::new();
            while let Some(text) = seq.next_element::<String>()? {
                if out.len() == ENTRIES {
                    return Err(A::Error::invalid_length(ENTRIES + 1, &self));
                }
                out.push(cut(text, NAME));
            }
            Ok(out)
        }
    }
    from.deserialize_seq(Names)
}

/// Values by name.
pub(crate) fn by_name<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    from: D,
) -> Result<BTreeMap<String, T>, D::Error> {
    struct ByName<T>(PhantomData<T>);
    impl<'de, T: Deserialize<'de>> Visitor<'de> for ByName<T> {
        type Value = BTreeMap<String, T>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "at most {ENTRIES} values by name")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut out = BTreeMap::new();
            while let Some((key, value)) = map.next_entry::<String, T>()? {
                if out.len() == ENTRIES {
                    return Err(A::Error::invalid_length(ENTRIES + 1, &self));
                }
                out.insert(cut(key, NAME), value);
            }
            Ok(out)
        }
    }
    from.deserialize_map(ByName(PhantomData))
}

/// Texts for people by name.
pub(crate) fn texts_by_name<'de, D: Deserializer<'de>>(
    from: D,
) -> Result<BTreeMap<String, String>, D::Error> {
    let texts: BTreeMap<String, String> = by_name(from)?;
    Ok(texts.into_iter().map(|(name, text)| (name, cut(text, MESSAGE))).collect())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::task::Usage;
    use crate::wire::{Facts, Joined, WireError};
    use crate::{Failure, Progress};

    #[test]
    fn what_is_too_long_is_cut_with_a_mark_and_stays_as_it_is_then() {
        for fill in ["x", "ü", "日"] {
            let long = fill.repeat(1 << 16);
            let error: WireError =
                serde_json::from_value(json!({ "code": long, "message": long })).expect("an error");
            for (text, most) in [(&error.code, NAME), (&error.message, MESSAGE)] {
                assert!(text.len() <= most && text.len() > most - 16, "{}", text.len());
                assert!(text.starts_with(fill) && text.ends_with(MARK));
            }
            let again: WireError = serde_json::from_value(json!(error)).expect("an error");
            assert_eq!(again, error);
        }
        let exact = "x".repeat(MESSAGE);
        let failure: Failure =
            serde_json::from_value(json!({ "class": "input", "message": exact, "help": exact }))
                .expect("one");
        assert_eq!((failure.message.len(), failure.help.map(|h| h.len())), (MESSAGE, Some(MESSAGE)));
    }

    #[test]
    fn every_text_of_a_message_has_a_largest_length_and_every_list_a_largest_number() {
        let long = "x".repeat(1 << 20);
        let joined = json!({ "session": long, "device": long, "nonce": long });
        let joined: Joined = serde_json::from_value(joined).expect("a session");
        assert!([joined.session, joined.device, joined.nonce].iter().all(|t| t.len() <= NAME));
        let progress = json!({ "done": 1, "unit": long, "metrics": { &long: 1.0 } });
        let progress: Progress = serde_json::from_value(progress).expect("progress");
        assert!(progress.unit.len() <= NAME && progress.metrics.keys().all(|k| k.len() <= NAME));
        let facts: Facts =
            serde_json::from_value(json!({ "holds": [long], "other": { "a": long } })).expect("facts");
        assert!(facts.holds[0].len() <= NAME && facts.other["a"].len() <= MESSAGE);

        let many: BTreeMap<String, u64> = (0..=ENTRIES as u64).map(|i| (i.to_string(), i)).collect();
        let refused = serde_json::from_value::<Usage>(json!({ "counters": many }));
        assert!(refused.expect_err("too many").to_string().contains("10000 values"));
        let refused = serde_json::from_value::<Facts>(json!({ "holds": vec![""; ENTRIES + 1] }));
        assert!(refused.expect_err("too many").to_string().contains("10000 names"));
    }
}
