//! A row cache in memory.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard};

use headstart_protocol::{Digest, RowCache};

/// Remembers rows for as long as it lives.
#[derive(Default)]
pub struct MemoryRows {
    embeddings: Mutex<HashMap<(Digest, Digest), Vec<f32>>>,
    responses: Mutex<HashMap<(Digest, Digest, Digest), String>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no stage panics while it holds the cache")
}

impl RowCache for MemoryRows {
    fn embeddings(&self, space: &Digest, texts: &[Digest]) -> Vec<Option<Vec<f32>>> {
        let known = lock(&self.embeddings);
        texts.iter().map(|text| known.get(&(*space, *text)).cloned()).collect()
    }

    fn put_embeddings(&self, space: &Digest, rows: &[(Digest, Vec<f32>)]) {
        lock(&self.embeddings).extend(rows.iter().map(|(text, v)| ((*space, *text), v.clone())));
    }

    fn responses(&self, model: &Digest, settings: &Digest, prompts: &[Digest]) -> Vec<Option<String>> {
        let known = lock(&self.responses);
        prompts.iter().map(|prompt| known.get(&(*model, *settings, *prompt)).cloned()).collect()
    }

    fn put_responses(&self, model: &Digest, settings: &Digest, rows: &[(Digest, String)]) {
        let rows = rows.iter().map(|(prompt, r)| ((*model, *settings, *prompt), r.clone()));
        lock(&self.responses).extend(rows);
    }
}
