//! The shortlist's likelihood on the user's own rows: what decides where it can be had.

use headstart_explain::math::sample::{DRAWS, bootstrap};
use headstart_lm::open::open_model;
use headstart_lm::{Backend, ContextWatch, RowScore};
use headstart_protocol::rows::Row;
use headstart_protocol::{ArtifactRef, Context, Failure};

/// Rows that are scored at most; further ones would cost more than they tell.
const ROWS: usize = 64;

/// Tokens of a row that are scored at most.
const TOKENS: usize = 512;

/// What the shortlist's likelihood says.
#[derive(Clone, Debug, PartialEq)]
pub struct Verdict {
    /// Place of the most likely in the shortlist; none where the base is at least as likely.
    pub best: Option<usize>,
    /// Share of bootstrap draws over rows in which the outcome is the same.
    pub confidence: f64,
    /// Loss of each, nats a token, in the order of the shortlist.
    pub losses: Vec<f64>,
    /// Loss of the base, where it is known.
    pub base_loss: Option<f64>,
    /// Sequences that were put through a model.
    pub forward_passes: u64,
}

/// Scores the shortlist, and the base where it is known, on the user's rows.
///
/// # Errors
/// If there are no rows with responses, or a model cannot be loaded or run.
pub fn verify(
    ctx: &dyn Context,
    backend: &dyn Backend,
    shortlist: &[ArtifactRef],
    base: Option<&ArtifactRef>,
    rows: &[Row],
    seed: u64,
) -> Result<Verdict, Failure> {
    let rows: Vec<Row> = rows.iter().filter(|r| !r.response.trim().is_empty()).take(ROWS).cloned().collect();
    if rows.is_empty() {
        return Err(Failure::input("`verify` has no rows with responses"));
    }
    let models: Vec<&ArtifactRef> = shortlist.iter().chain(base).collect();
    let total = (models.len() * rows.len()) as u64;
    let mut scores: Vec<Vec<RowScore>> = Vec::new();
    for (i, model) in models.iter().enumerate() {
        let folders = open_model(ctx, model)?;
        let decoder = backend.decoder(&folders.model, folders.adapter.as_deref())?;
        let watch = ContextWatch::part(ctx, (i * rows.len()) as u64, total);
        scores.push(decoder.score(&rows, TOKENS, &watch)?);
    }
    let mut verdict = judge(&scores, shortlist.len(), seed);
    verdict.forward_passes = total;
    Ok(verdict)
}

/// Compares models by their loss over rows. The first `shortlist` models are candidates, the next,
/// if there is one, is the base.
fn judge(scores: &[Vec<RowScore>], shortlist: usize, seed: u64) -> Verdict {
    let n = scores[0].len();
    let loss = |times: &[u32]| -> Vec<f64> {
        let of = |rows: &Vec<RowScore>| {
            let sum = |f: &dyn Fn(&RowScore) -> f64| -> f64 {
                rows.iter().zip(times).map(|(r, &t)| f64::from(t) * f(r)).sum()
            };
            sum(&|r| r.nll) / sum(&|r| r.tokens as f64).max(1.0)
        };
        scores.iter().map(of).collect()
    };
    // The base comes last, so the first of the smallest prefers candidates only if truly better.
    let winner = |losses: &[f64]| {
        let best = (0..shortlist).min_by(|&a, &b| losses[a].total_cmp(&losses[b]))?;
        let beats = losses.get(shortlist).is_none_or(|base| losses[best] < *base);
        beats.then_some(best)
    };
    let losses = loss(&vec![1; n]);
    let best = winner(&losses);
    let draws = bootstrap(n, DRAWS, seed);
    let same = draws.iter().filter(|times| winner(&loss(times)) == best).count();
    Verdict {
        best,
        confidence: same as f64 / draws.len() as f64,
        base_loss: losses.get(shortlist).copied(),
        losses: losses[..shortlist].to_vec(),
        forward_passes: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scores(nll: impl Fn(usize) -> f64) -> Vec<RowScore> {
        (0..20).map(|i| RowScore { nll: nll(i), tokens: 10, bytes: 40 }).collect()
    }

    #[test]
    fn the_most_likely_wins_and_a_close_race_is_unsure() {
        let clear = [scores(|i| 20.0 + i as f64), scores(|i| 15.0 + i as f64), scores(|i| 25.0 + i as f64)];
        let verdict = judge(&clear, 2, 1);
        assert_eq!((verdict.best, verdict.confidence), (Some(1), 1.0));
        assert!((verdict.losses[1] - 2.45).abs() < 1e-9 && verdict.base_loss == Some(3.45));
        let close = [scores(|i| 20.0 + (i % 2) as f64 * 2.0), scores(|_| 20.9), scores(|_| 25.0)];
        let verdict = judge(&close, 2, 1);
        assert!(verdict.best == Some(1) && (0.4..0.95).contains(&verdict.confidence), "{verdict:?}");
    }

    #[test]
    fn where_the_base_is_as_likely_nothing_is_chosen() {
        let equal = [scores(|_| 20.0), scores(|_| 22.0), scores(|_| 20.0)];
        assert_eq!(judge(&equal, 2, 1).best, None);
        assert_eq!(judge(&equal[..2], 2, 1).best, Some(0), "without a base, the better one");
    }
}
