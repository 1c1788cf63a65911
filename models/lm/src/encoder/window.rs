//! Long texts are read in windows, so that no part of them is lost.

use std::path::{Path, PathBuf};

use tokenizers::Tokenizer;

use crate::error::LmError;
use crate::text::encode;

/// A text, or a part of one, as the model reads it.
pub(super) struct Window {
    /// Which text.
    pub text: usize,
    /// Which of its windows, from 0.
    pub number: usize,
    /// Whether it is the text's last.
    pub last: bool,
    /// Its tokens, those that open and close it included.
    pub ids: Vec<u32>,
    /// Tokens of the text in it.
    pub tokens: usize,
}

/// Cuts texts into windows.
pub(super) struct Cutter {
    /// Whether to leave out what does not fit into the first window.
    pub truncate: bool,
    open: u32,
    close: u32,
    room: usize,
    vocab: usize,
    path: PathBuf,
}

impl Cutter {
    /// Finds the tokens that open and close a text by tokenizing an empty one.
    pub(super) fn new(
        tokenizer: &Tokenizer,
        window: usize,
        vocab: usize,
        path: &Path,
    ) -> Result<Self, LmError> {
        let empty = encode(tokenizer, "", true, vocab, path)?;
        let [open, close] = empty[..] else {
            let why =
                format!("puts {} tokens around a text; a bert tokenizer puts [CLS] and [SEP]", empty.len());
            return Err(LmError::file(path, why));
        };
        Ok(Self { truncate: false, open, close, room: window - 2, vocab, path: path.to_owned() })
    }

    /// The windows of a text: as few as hold it, of about equal length.
    pub(super) fn cut(
        &self,
        tokenizer: &Tokenizer,
        text: usize,
        content: &str,
    ) -> Result<Vec<Window>, LmError> {
        let mut ids = encode(tokenizer, content, false, self.vocab, &self.path)?;
        if self.truncate {
            ids.truncate(self.room);
        }
        let count = ids.len().div_ceil(self.room).max(1);
        let window = |number: usize| {
            let part = &ids[number * ids.len() / count..(number + 1) * ids.len() / count];
            let mut all = Vec::with_capacity(part.len() + 2);
            all.push(self.open);
            all.extend_from_slice(part);
            all.push(self.close);
            Window { text, number, last: number + 1 == count, ids: all, tokens: part.len() }
        };
        Ok((0..count).map(window).collect())
    }
}

/// Puts the vectors of windows together: averaged by tokens and, where asked for, normalized, for every text.
pub(super) fn join(
    texts: usize,
    dim: usize,
    windows: &[Window],
    vectors: &[Vec<f32>],
    normalize: bool,
) -> Vec<Vec<f32>> {
    // In the order of windows within a text, whatever the batches, so that sums are the same.
    let mut order: Vec<usize> = (0..windows.len()).collect();
    order.sort_by_key(|&i| (windows[i].text, windows[i].number));
    let mut out = Vec::with_capacity(texts);
    for same in order.chunk_by(|&a, &b| windows[a].text == windows[b].text) {
        if let [only] = same {
            out.push(vectors[*only].clone());
            continue;
        }
        let mut sum = vec![0.0f64; dim];
        for &i in same {
            let weight = windows[i].tokens as f64;
            sum.iter_mut().zip(&vectors[i]).for_each(|(s, x)| *s += weight * f64::from(*x));
        }
        let norm = match normalize {
            true => sum.iter().map(|x| x * x).sum::<f64>().sqrt().max(f64::MIN_POSITIVE),
            false => same.iter().map(|&i| windows[i].tokens as f64).sum::<f64>().max(1.0),
        };
        out.push(sum.iter().map(|x| (x / norm) as f32).collect());
    }
    out
}
