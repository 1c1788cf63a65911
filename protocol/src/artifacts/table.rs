//! Tables: what a study ends in.

use serde::{Deserialize, Serialize};

/// A table with named columns.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Table {
    /// Names of the columns.
    pub columns: Vec<String>,
    /// Rows, a cell a column.
    pub rows: Vec<Vec<Cell>>,
}

/// A cell of a table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Cell {
    /// A text.
    Text(String),
    /// A number; finite, or it is not written.
    #[serde(serialize_with = "finite")]
    Number(f64),
    /// An estimate with its 95% interval.
    Estimate {
        /// The estimate.
        #[serde(serialize_with = "finite")]
        value: f64,
        /// Lower end.
        #[serde(serialize_with = "finite")]
        low: f64,
        /// Upper end.
        #[serde(serialize_with = "finite")]
        high: f64,
    },
    /// Not known.
    Nothing(()),
}

/// JSON has no NaN: written as `null` it would be read as a cell with nothing in it.
fn finite<S: serde::Serializer>(x: &f64, serializer: S) -> Result<S::Ok, S::Error> {
    if x.is_finite() {
        serializer.serialize_f64(*x)
    } else {
        Err(serde::ser::Error::custom(format!("a cell of its table holds {x}, which is not a finite number")))
    }
}

impl Cell {
    /// An estimate with its interval.
    pub fn estimate(value: f64, (low, high): (f64, f64)) -> Self {
        Self::Estimate { value, low, high }
    }
}

impl From<&str> for Cell {
    fn from(t: &str) -> Self {
        Self::Text(t.to_owned())
    }
}

impl From<f64> for Cell {
    fn from(x: f64) -> Self {
        Self::Number(x)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_are_read_back_as_they_were_written() {
        let cells = [Cell::from("a"), Cell::from(0.25), Cell::estimate(1.0, (0.5, 2.0)), Cell::Nothing(())];
        for cell in cells {
            let text = serde_json::to_string(&cell).expect("cells serialize");
            assert_eq!(serde_json::from_str::<Cell>(&text).expect("and are read"), cell);
        }
    }

    #[test]
    fn a_cell_without_a_finite_number_is_not_written() {
        for cell in [Cell::from(f64::NAN), Cell::estimate(1.0, (f64::NEG_INFINITY, 2.0))] {
            let why = serde_json::to_string(&cell).expect_err("no number of JSON").to_string();
            assert!(why.contains("not a finite number"), "{why}");
        }
    }
}
