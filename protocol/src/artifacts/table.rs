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
    /// A number.
    Number(f64),
    /// An estimate with its 95% interval.
    Estimate {
        /// The estimate.
        value: f64,
        /// Lower end.
        low: f64,
        /// Upper end.
        high: f64,
    },
    /// Not known.
    Nothing(()),
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
}
