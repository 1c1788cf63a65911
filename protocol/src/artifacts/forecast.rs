//! What a start is expected to save.

use serde::{Deserialize, Serialize};

/// What is expected of a start, or why that is not known.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Stored", into = "Stored")]
pub enum Forecast {
    /// It is not known, for this reason.
    NotKnown(String),
    /// What is expected.
    Known(Expected),
}

impl Default for Forecast {
    fn default() -> Self {
        Self::NotKnown("nothing was forecast".into())
    }
}

impl Forecast {
    /// What is expected, where that is known.
    pub fn expected(&self) -> Option<&Expected> {
        match self {
            Self::Known(expected) => Some(expected),
            Self::NotKnown(_) => None,
        }
    }

    /// Why nothing is expected.
    pub fn why_not(&self) -> Option<&str> {
        match self {
            Self::Known(_) => None,
            Self::NotKnown(why) => Some(why),
        }
    }
}

/// Expectations; `_low` and `_high` are the ends of a 95% interval.
/// Of a released forecast only some are known; the others are 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[expect(missing_docs, reason = "ends of the interval of the field before")]
pub struct Expected {
    /// Share of the way from the base that is left, 0 to 1.
    pub left: f64,
    pub left_low: f64,
    pub left_high: f64,
    /// Share of the training steps that is saved, 0 to 1.
    pub share_saved: f64,
    pub share_saved_low: f64,
    pub share_saved_high: f64,
    /// Steps of a training from the base.
    pub steps_scratch: f64,
    pub steps_scratch_low: f64,
    pub steps_scratch_high: f64,
    /// Steps that are saved.
    pub steps_saved: f64,
    pub steps_saved_low: f64,
    pub steps_saved_high: f64,
    /// Seconds that are saved on this machine, where its speed is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seconds_saved: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seconds_saved_low: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seconds_saved_high: Option<f64>,
    /// Learning rate of the trainings that steps are counted in.
    pub learning_rate: f64,
    /// Rows a step of these trainings.
    pub rows_a_step: f64,
    /// Bytes of the start's weights.
    pub bytes: u64,
    /// Speed of a link, in bytes a second, above which fetching the weights takes less time than they
    /// save.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub break_even_bytes_per_second: Option<f64>,
}

/// A forecast as it is stored: flat, either with `not_known` or with numbers.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Stored {
    NotKnown(NotKnown),
    Known(Expected),
    /// What is neither. Kept, so that the error can name the field.
    Other(serde_json::Map<String, serde_json::Value>),
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct NotKnown {
    not_known: String,
}

impl From<Forecast> for Stored {
    fn from(f: Forecast) -> Self {
        match f {
            Forecast::NotKnown(not_known) => Self::NotKnown(NotKnown { not_known }),
            Forecast::Known(expected) => Self::Known(expected),
        }
    }
}

impl TryFrom<Stored> for Forecast {
    type Error = String;

    fn try_from(stored: Stored) -> Result<Self, String> {
        match stored {
            Stored::NotKnown(n) => Ok(Self::NotKnown(n.not_known)),
            Stored::Known(expected) => Ok(Self::Known(expected)),
            // A released forecast that is not known lost its reason in version 0.1.
            Stored::Other(fields) if fields.is_empty() => Ok(Self::NotKnown("it was not released".into())),
            Stored::Other(fields) => {
                match serde_path_to_error::deserialize::<_, Expected>(serde_json::Value::Object(fields)) {
                    Ok(expected) => Ok(Self::Known(expected)),
                    Err(e) => Err(e.to_string()),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn a_forecast_is_flat_and_comes_back() {
        let known = Forecast::Known(Expected { share_saved: 0.5, bytes: 7, ..Expected::default() });
        let why = Forecast::NotKnown("too few texts".into());
        for (forecast, field, value) in
            [(known, "share_saved", json!(0.5)), (why, "not_known", json!("too few texts"))]
        {
            let json = serde_json::to_value(&forecast).expect("plain values");
            assert_eq!(json[field], value);
            assert_eq!(serde_json::from_value::<Forecast>(json).expect("the same"), forecast);
        }
    }

    #[test]
    fn an_unknown_field_is_named() {
        let mut json = serde_json::to_value(Forecast::Known(Expected::default())).expect("plain values");
        json["tide"] = json!(1);
        let e = serde_json::from_value::<Forecast>(json).expect_err("unknown").to_string();
        assert!(e.contains("tide"), "{e}");
        let e = serde_json::from_value::<Forecast>(json!({ "left": "x" })).expect_err("text").to_string();
        assert!(e.contains("left"), "{e}");
        let part = serde_json::from_value::<Forecast>(json!({ "share_saved": 0.5 })).expect("a released one");
        assert_eq!(part.expected().map(|e| (e.share_saved, e.left)), Some((0.5, 0.0)));
        assert!(serde_json::from_value::<Forecast>(Value::Null).is_err());
    }
}
