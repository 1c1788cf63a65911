//! Embeddings and responses, row by row.

use std::ops::ControlFlow;

use headstart_protocol::{Digest, RowCache};

use super::Cache;
use super::segment::entry::{self, Entry, Hash};
use super::segment::frame::Kind;
use super::state::Entries;

impl Cache {
    /// The rows of these hashes, as `read` reads them.
    fn look_up<V>(&self, hashes: &[Hash], read: impl Fn(usize, Entry<'_>) -> Option<V>) -> Vec<Option<V>> {
        let mut entries = self.shared().entries();
        let mut buffer = Vec::new();
        let find = |entries: &mut Entries, buffer: &mut Vec<u8>, i: usize| {
            let mut found = None;
            let _first = entries.each(&hashes[i], buffer, |kind, body| {
                found = Entry::parse(kind, body).and_then(|entry| read(i, entry));
                if found.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            });
            found
        };
        entries.refresh_if_old();
        let mut rows: Vec<Option<V>> =
            (0..hashes.len()).map(|i| find(&mut entries, &mut buffer, i)).collect();
        if rows.iter().any(Option::is_none) {
            // Another process may have computed them meanwhile.
            entries.refresh();
            for (i, row) in rows.iter_mut().enumerate().filter(|(_, row)| row.is_none()) {
                *row = find(&mut entries, &mut buffer, i);
            }
        }
        rows
    }

    /// Puts those rows that are not there yet.
    fn put_new(&self, rows: impl Iterator<Item = (Hash, Kind, Vec<u8>)>) {
        let mut entries = self.shared().entries();
        let mut buffer = Vec::new();
        let mut new = Vec::new();
        for (hash, kind, body) in rows {
            let mut known = false;
            let _first = entries.each(&hash, &mut buffer, |_, found| {
                known = found == body;
                if known { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            });
            if !known {
                new.push((kind, body));
            }
        }
        if !new.is_empty() {
            entries.put_rows(&new);
        }
    }
}

impl RowCache for Cache {
    fn embeddings(&self, space: &Digest, texts: &[Digest]) -> Vec<Option<Vec<f32>>> {
        let hashes: Vec<Hash> = texts.iter().map(|text| entry::embedding_hash(space, text)).collect();
        self.look_up(&hashes, |i, entry| match entry {
            Entry::Embedding { space: s, text, vector } if s == *space && text == texts[i] => Some(vector),
            _ => None,
        })
    }

    fn put_embeddings(&self, space: &Digest, rows: &[(Digest, Vec<f32>)]) {
        self.put_new(rows.iter().map(|(text, vector)| {
            let body = entry::embedding(space, text, vector);
            (entry::embedding_hash(space, text), Kind::Embedding, body)
        }));
    }

    fn responses(&self, model: &Digest, settings: &Digest, prompts: &[Digest]) -> Vec<Option<String>> {
        let hash = |prompt: &Digest| entry::response_hash(model, settings, prompt);
        let hashes: Vec<Hash> = prompts.iter().map(hash).collect();
        self.look_up(&hashes, |i, entry| match entry {
            Entry::Response { model: m, settings: s, prompt, answer }
                if (m, s, prompt) == (*model, *settings, prompts[i]) =>
            {
                Some(answer.to_owned())
            }
            _ => None,
        })
    }

    fn put_responses(&self, model: &Digest, settings: &Digest, rows: &[(Digest, String)]) {
        self.put_new(rows.iter().map(|(prompt, answer)| {
            let body = entry::response(model, settings, prompt, answer);
            (entry::response_hash(model, settings, prompt), Kind::Response, body)
        }));
    }
}
