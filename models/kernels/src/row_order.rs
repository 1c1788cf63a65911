//! The order in which the rows of a stored matrix lie.

/// In what order a matrix's rows lie.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RowOrder {
    /// As they are numbered.
    #[default]
    Plain,
    /// In every head of twice so many rows, row i is followed by the one that it turns with, as GGUF
    /// files of type llama have queries and keys.
    Pairs(usize),
}

impl RowOrder {
    /// Where a row lies.
    #[inline(always)]
    pub fn place(self, row: usize) -> usize {
        match self {
            Self::Plain => row,
            Self::Pairs(half) => {
                let within = row % (2 * half);
                row - within + 2 * (within % half) + within / half
            }
        }
    }

    /// The row that lies at a place.
    pub fn row(self, place: usize) -> usize {
        match self {
            Self::Plain => place,
            Self::Pairs(half) => {
                let within = place % (2 * half);
                place - within + within % 2 * half + within / 2
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_are_taken_apart() {
        let places: Vec<usize> = (0..12).map(|r| RowOrder::Pairs(3).place(r)).collect();
        assert_eq!(places, [0, 2, 4, 1, 3, 5, 6, 8, 10, 7, 9, 11]);
        assert!(places.iter().enumerate().all(|(row, place)| RowOrder::Pairs(3).row(*place) == row));
    }
}
