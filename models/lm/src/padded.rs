//! Sequences of like length, padded to the longest: how backends other than the hand-written
//! kernels lay out what they compute together.

mod answers;

pub use answers::{Caches, Rows, answers};

use std::ops::Range;

use crate::block::Batch;
use crate::error::LmError;
use crate::rows::Targets;

/// Sequences that are computed together, padded at their ends.
#[derive(Clone, Debug, PartialEq)]
pub struct Padded {
    /// Which sequences, in the order of the rows; the longest first.
    pub which: Vec<usize>,
    /// Token ids, row by row, `rows × length`.
    pub ids: Vec<u32>,
    /// Tokens of the longest.
    pub length: usize,
}

impl Padded {
    /// Rows.
    pub fn rows(&self) -> usize {
        self.which.len()
    }
}

/// Groups sequences so that padding takes at most a quarter of a group, and a group at most
/// `tokens` tokens, padding included, and `rows` rows; longest first.
pub fn padded(sequences: &[&[u32]], tokens: usize, rows: usize) -> Vec<Padded> {
    let mut order: Vec<usize> = (0..sequences.len()).collect();
    order.sort_by_key(|&i| (std::cmp::Reverse(sequences[i].len()), i));
    let mut groups: Vec<Range<usize>> = Vec::new();
    for (at, &i) in order.iter().enumerate() {
        match groups.last_mut() {
            Some(g)
                if {
                    let longest = sequences[order[g.start]].len();
                    sequences[i].len() * 4 >= longest * 3
                        && longest * (g.len() + 1) <= tokens
                        && g.len() < rows
                } =>
            {
                g.end += 1;
            }
            _ => groups.push(at..at + 1),
        }
    }
    let pad = |group: Range<usize>| {
        let which = order[group].to_vec();
        let length = sequences[which[0]].len().max(1);
        let mut ids = vec![0; which.len() * length];
        for (row, i) in ids.chunks_exact_mut(length).zip(&which) {
            row[..sequences[*i].len()].copy_from_slice(sequences[*i]);
        }
        Padded { which, ids, length }
    };
    groups.into_iter().map(pad).collect()
}

/// Of each sequence the hidden states of the tokens that `picked` names, `width` numbers each.
/// Groups are of up to `tokens` tokens, padding included; `read` is given a group and rows of its
/// `[rows × length, width]`, and returns those.
///
/// # Errors
/// Those of `read`.
pub fn states(
    sequences: &[&[u32]],
    picked: &[Range<usize>],
    tokens: usize,
    width: usize,
    mut read: impl FnMut(&Padded, &[u32]) -> Result<Vec<f32>, LmError>,
) -> Result<Vec<Vec<f32>>, LmError> {
    let mut out = vec![Vec::new(); sequences.len()];
    for group in padded(sequences, tokens, usize::MAX) {
        let rows = |(row, i): (usize, &usize)| {
            let start = row * group.length;
            picked[*i].clone().map(move |at| (start + at) as u32)
        };
        let rows: Vec<u32> = group.which.iter().enumerate().flat_map(rows).collect();
        let states = read(&group, &rows)?;
        let mut left = states.as_slice();
        for i in &group.which {
            let (own, rest) = left.split_at(picked[*i].len() * width);
            out[*i] = own.to_vec();
            left = rest;
        }
    }
    Ok(out)
}

/// A group of rows with their targets.
#[derive(Clone, Debug, PartialEq)]
pub struct Group {
    /// The rows.
    pub padded: Padded,
    /// Rows of `[rows × length, hidden]` that predict.
    pub rows: Vec<u32>,
    /// The tokens that they predict.
    pub ids: Vec<u32>,
    /// Which of the batch's targets they are.
    pub which: Vec<usize>,
}

/// A packed batch cut into groups of up to so many tokens, padding included; of those, the ones in
/// which something is predicted.
pub fn groups(batch: &Batch, targets: &Targets, tokens: usize) -> Vec<Group> {
    let sequences: Vec<&[u32]> = batch.sequences.iter().map(|s| &batch.ids[s.clone()]).collect();
    let mut of = vec![Vec::new(); sequences.len()];
    for (target, row) in targets.rows.iter().enumerate() {
        let sequence = batch.sequences.partition_point(|s| s.end <= *row);
        of[sequence].push((target, row - batch.sequences[sequence].start));
    }
    let group = |padded: Padded| {
        let (mut rows, mut which) = (Vec::new(), Vec::new());
        for (i, sequence) in padded.which.iter().enumerate() {
            rows.extend(of[*sequence].iter().map(|(_, at)| (i * padded.length + at) as u32));
            which.extend(of[*sequence].iter().map(|(target, _)| *target));
        }
        let ids = which.iter().map(|target| targets.ids[*target]).collect();
        Group { padded, rows, ids, which }
    };
    let all = padded(&sequences, tokens, usize::MAX).into_iter().map(group);
    all.filter(|g| !g.which.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn like_lengths_go_together_and_every_target_is_found() {
        let rows: [&[u32]; 5] = [&[1, 2, 3], &[4; 8], &[5; 7], &[6], &[7; 6]];
        let all = padded(&rows, 100, 2);
        let which: Vec<_> = all.iter().map(|p| p.which.clone()).collect();
        assert_eq!(which, [vec![1, 2], vec![4], vec![0], vec![3]]);
        assert_eq!(all[0].ids[8..], [5, 5, 5, 5, 5, 5, 5, 0]);
        assert_eq!(padded(&rows, 8, 9).len(), 5, "the budget counts padding");
        let batch = Batch::pack(rows);
        // Of the second sequence its tokens 1 and 7, of the last its token 3.
        let targets = Targets { rows: vec![3, 9, 21], ids: vec![40, 41, 70] };
        let groups = groups(&batch, &targets, 100);
        assert_eq!(groups.len(), 1, "rows in which nothing is predicted are not computed: {groups:?}");
        assert_eq!((&*groups[0].rows, &*groups[0].ids), (&[0, 6, 18][..], &[40, 41, 70][..]));
        assert_eq!(groups[0].which, [0, 1, 2]);
    }
}
