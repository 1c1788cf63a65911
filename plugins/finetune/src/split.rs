//! Which rows are trained on and which are held back.

use headstart_kit::read_rows;
use headstart_protocol::rows::Row;
use headstart_protocol::{ArtifactRef, Context, Failure};
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

/// One row in so many is held back.
const HELD_BACK: usize = 10;

/// The rows of a dataset that have a response; others teach nothing. `name` is the argument's.
///
/// # Errors
/// An input failure where the dataset is unreadable or no row has a response.
pub fn answered(ctx: &dyn Context, dataset: &ArtifactRef, name: &str) -> Result<Vec<Row>, Failure> {
    let all = read_rows(ctx, dataset, name)?;
    let count = all.len();
    let rows: Vec<Row> = all.into_iter().filter(|row| !row.response.is_empty()).collect();
    if rows.is_empty() {
        return Err(Failure::input(format!(
            "none of the {count} rows of `{name}` has a response to train on"
        ))
        .help("give the key of the responses where the rows are read: jsonl(…, response: \"…\")"));
    }
    Ok(rows)
}

/// Holds back a tenth of the rows, rounded, at least one, drawn with the seed. Both parts keep the
/// order of the rows.
///
/// # Errors
/// An input failure for fewer than two rows.
pub fn hold_back(rows: Vec<Row>, seed: u64) -> Result<(Vec<Row>, Vec<Row>), Failure> {
    if rows.len() < 2 {
        let found = rows.len();
        return Err(Failure::input(format!(
            "`data` has {found} row with a response, but at least 2 are needed: one to train on, one held back"
        ))
        .help("give more rows, or name held-back rows with `eval`"));
    }
    let held = ((rows.len() + HELD_BACK / 2) / HELD_BACK).max(1);
    let mut order: Vec<usize> = (0..rows.len()).collect();
    order.shuffle(&mut ChaCha8Rng::seed_from_u64(seed));
    let mut is_held = vec![false; rows.len()];
    order[..held].iter().for_each(|&i| is_held[i] = true);
    let (eval, train): (Vec<_>, Vec<_>) = rows.into_iter().zip(is_held).partition(|(_, held)| *held);
    let rows = |part: Vec<(Row, bool)>| part.into_iter().map(|(row, _)| row).collect();
    Ok((rows(train), rows(eval)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(n: usize) -> Vec<Row> {
        (0..n).map(|i| Row::new(format!("p{i:03}"), "r")).collect()
    }

    #[test]
    fn a_tenth_is_held_back_and_nothing_is_lost() {
        for (n, held) in [(2, 1), (9, 1), (10, 1), (14, 1), (15, 2), (100, 10)] {
            let (train, eval) = hold_back(rows(n), 7).unwrap();
            assert_eq!((train.len(), eval.len()), (n - held, held));
            assert!(train.is_sorted_by(|a, b| a.prompt < b.prompt), "order is kept");
            let mut all: Vec<Row> = train.into_iter().chain(eval).collect();
            all.sort_by(|a, b| a.prompt.cmp(&b.prompt));
            assert_eq!(all, rows(n));
        }
        assert_eq!(hold_back(rows(50), 1), hold_back(rows(50), 1));
        assert_ne!(hold_back(rows(50), 1), hold_back(rows(50), 2));
        assert!(hold_back(rows(1), 0).unwrap_err().message.contains("at least 2"));
    }
}
