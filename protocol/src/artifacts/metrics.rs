//! Named numbers.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Number, Value as Json};

use super::{Artifact, Table};
use crate::types::Type;

/// Key of the table among the numbers.
const TABLE: &str = "table";

/// Named numbers, and a table where a study made one. As JSON: a flat object of numbers, with the table
/// as `table`. All numbers are finite, as JSON has no others.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Map<String, Json>", into = "Map<String, Json>")]
pub struct Metrics {
    /// Numbers by name.
    pub numbers: BTreeMap<String, Number>,
    /// The table.
    pub table: Option<Table>,
    /// A name whose number was not finite. Such metrics cannot be stored.
    pub not_finite: Option<String>,
}

impl Artifact for Metrics {
    const WHAT: &'static str = "metrics";
    // Cells of a table that hold nothing; numbers of a table are checked by the table itself.
    const NULLABLE: &'static [&'static str] = &["table"];
}

/// A number of metrics: whole numbers stay whole.
pub trait IntoNumber {
    /// The number; none where it is not finite.
    fn number(self) -> Option<Number>;
}

impl IntoNumber for f64 {
    fn number(self) -> Option<Number> {
        Number::from_f64(self)
    }
}

impl IntoNumber for u64 {
    fn number(self) -> Option<Number> {
        Some(self.into())
    }
}

impl IntoNumber for usize {
    fn number(self) -> Option<Number> {
        Some(self.into())
    }
}

impl IntoNumber for bool {
    fn number(self) -> Option<Number> {
        Some(u8::from(self).into())
    }
}

impl Metrics {
    /// A number by name.
    pub fn get(&self, name: &str) -> Option<f64> {
        self.numbers.get(name)?.as_f64()
    }

    /// All numbers by name.
    pub fn all(&self) -> impl Iterator<Item = (&str, f64)> {
        self.numbers.iter().filter_map(|(name, x)| Some((name.as_str(), x.as_f64()?)))
    }

    /// Adds a number. With one that is not finite, the metrics cannot be stored any more.
    pub fn put(&mut self, name: impl Into<String>, x: impl IntoNumber) {
        match x.number() {
            Some(x) => drop(self.numbers.insert(name.into(), x)),
            None => self.not_finite = Some(name.into()),
        }
    }

    /// The first metric of a value of type `ty` that is not a finite number: JSON has no other way to write
    /// one than `null`. Only metrics and pLLMs have any.
    pub fn not_finite_in<'a>(ty: &Type, value: &'a Json) -> Option<&'a str> {
        let metrics = match ty.present() {
            Type::Metrics => value,
            Type::Pllm => value.get("metrics")?,
            _ => return None,
        };
        metrics.as_object()?.iter().find(|(_, number)| number.is_null()).map(|(name, _)| name.as_str())
    }

    /// The same metrics with a number more; see [`Metrics::put`].
    #[must_use]
    pub fn with(mut self, name: impl Into<String>, x: impl IntoNumber) -> Self {
        self.put(name, x);
        self
    }
}

impl From<Metrics> for Map<String, Json> {
    fn from(m: Metrics) -> Self {
        let mut out: Self = m.numbers.into_iter().map(|(name, x)| (name, Json::Number(x))).collect();
        if let Some(name) = m.not_finite {
            out.insert(name, Json::Null);
        }
        if let Some(table) = m.table {
            // Plain cells always serialize.
            out.insert(TABLE.into(), serde_json::to_value(table).unwrap_or_default());
        }
        out
    }
}

impl TryFrom<Map<String, Json>> for Metrics {
    type Error = String;

    fn try_from(fields: Map<String, Json>) -> Result<Self, String> {
        let mut out = Self::default();
        for (name, value) in fields {
            match value {
                Json::Number(x) => {
                    out.numbers.insert(name, x);
                }
                // Truth values count as 1 and 0.
                Json::Bool(b) => out.put(name, b),
                // A number that JSON lacks, as version 0.1 wrote it: not known.
                Json::Null => {}
                table if name == TABLE => {
                    let read = serde_path_to_error::deserialize::<_, Table>(table);
                    out.table = Some(read.map_err(|e| format!("`{TABLE}.{}`: {}", e.path(), e.inner()))?);
                }
                other => return Err(format!("`{name}` is {}, not a number", kind(&other))),
            }
        }
        Ok(out)
    }
}

fn kind(value: &Json) -> &'static str {
    match value {
        Json::String(_) => "text",
        Json::Array(_) => "a list",
        Json::Object(_) => "an object",
        _ => "no number",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::artifacts::Cell;

    #[test]
    fn numbers_and_a_table_come_back() {
        let mut m = Metrics::default().with("loss", 0.5).with("rows", 7usize).with("reached", true);
        m.table = Some(Table { columns: vec!["a".into()], rows: vec![vec![Cell::from(1.5)]] });
        let json = m.json().expect("finite");
        assert_eq!(
            json,
            json!({ "loss": 0.5, "rows": 7, "reached": 1, "table": { "columns": ["a"], "rows": [[1.5]] } })
        );
        assert_eq!(Metrics::read(&json).expect("the same"), m);
        let e = m.with("broken", f64::NAN).json().expect_err("NaN").to_string();
        assert!(e.contains("`broken` is not a finite number"), "{e}");
    }

    #[test]
    fn what_is_no_number_is_named() {
        for (value, said) in [
            (json!({ "who": "me" }), "`who` is text, not a number"),
            (json!({ "a": { "b": 1 } }), "`a` is an object"),
            (json!({ "table": { "columns": [1] } }), "table.columns"),
            (json!([1]), "expected a map"),
        ] {
            let e = Metrics::read(&value).expect_err("no metrics").to_string();
            assert!(e.contains(said), "{e}");
        }
        let broken = json!({ "metrics": { "loss": 1.5, "bleu": null } });
        assert_eq!(Metrics::not_finite_in(&Type::Pllm, &broken), Some("bleu"));
        assert_eq!(Metrics::not_finite_in(&Type::Metrics, &broken["metrics"]), Some("bleu"));
        assert_eq!(Metrics::not_finite_in(&Type::Model, &broken["metrics"]), None);
        let old = Metrics::read(&json!({ "met": true, "bleu": null })).expect("as version 0.1 wrote it");
        assert_eq!((old.get("met"), old.get("bleu")), (Some(1.0), None));
    }
}
