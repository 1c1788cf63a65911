//! What numbers are computed with, as far as it may change the bytes of a result.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::rows::RowCache;

/// What a place computes numbers with. It is part of the cache keys of kinds that are
/// [numeric](crate::kinds::Kind::numeric), and in the row cache: two results are taken for one only
/// if all of it is equal.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Numerics {
    /// The backend: `cpu`, `mlx`, `cuda`, `metal`.
    pub backend: String,
    /// The type that numbers are computed in, such as `f32`.
    pub precision: String,
    /// The instruction set, such as `avx512` or `neon`, where the backend's results depend on it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instruction_set: Option<String>,
}

impl Numerics {
    /// A backend and a precision, whose results are the same with all instruction sets.
    pub fn new(backend: impl Into<String>, precision: impl Into<String>) -> Self {
        Self { backend: backend.into(), precision: precision.into(), instruction_set: None }
    }

    /// The same with this instruction set.
    pub fn instruction_set(self, instruction_set: impl Into<String>) -> Self {
        Self { instruction_set: Some(instruction_set.into()), ..self }
    }
}

/// For people: `cpu, f32, avx512`.
impl fmt::Display for Numerics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, {}", self.backend, self.precision)?;
        self.instruction_set.iter().try_for_each(|i| write!(f, ", {i}"))
    }
}

/// A row cache that finds only rows that were computed with the same [`Numerics`].
pub struct NumericRows<'a> {
    rows: &'a dyn RowCache,
    numerics: Option<Numerics>,
}

impl<'a> NumericRows<'a> {
    /// The rows of `rows` that were computed with `numerics`; of unknown numerics, those of others
    /// that are unknown.
    pub fn new(rows: &'a dyn RowCache, numerics: Option<Numerics>) -> Self {
        Self { rows, numerics }
    }

    fn scoped(&self, digest: &Digest) -> Digest {
        Digest::of_json(&(digest, &self.numerics))
    }
}

impl RowCache for NumericRows<'_> {
    fn embeddings(&self, space: &Digest, texts: &[Digest]) -> Vec<Option<Vec<f32>>> {
        self.rows.embeddings(&self.scoped(space), texts)
    }

    fn put_embeddings(&self, space: &Digest, rows: &[(Digest, Vec<f32>)]) {
        self.rows.put_embeddings(&self.scoped(space), rows);
    }

    fn responses(&self, model: &Digest, settings: &Digest, prompts: &[Digest]) -> Vec<Option<String>> {
        self.rows.responses(model, &self.scoped(settings), prompts)
    }

    fn put_responses(&self, model: &Digest, settings: &Digest, rows: &[(Digest, String)]) {
        self.rows.put_responses(model, &self.scoped(settings), rows);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Mutex;

    use super::*;

    type Responses = BTreeMap<(Digest, Digest, Digest), String>;

    #[derive(Default)]
    struct InMemory {
        embeddings: Mutex<BTreeMap<(Digest, Digest), Vec<f32>>>,
        responses: Mutex<Responses>,
    }

    impl RowCache for InMemory {
        fn embeddings(&self, space: &Digest, texts: &[Digest]) -> Vec<Option<Vec<f32>>> {
            let known = self.embeddings.lock().expect("not poisoned");
            texts.iter().map(|t| known.get(&(*space, *t)).cloned()).collect()
        }

        fn put_embeddings(&self, space: &Digest, rows: &[(Digest, Vec<f32>)]) {
            let rows = rows.iter().map(|(t, v)| ((*space, *t), v.clone()));
            self.embeddings.lock().expect("not poisoned").extend(rows);
        }

        fn responses(&self, model: &Digest, settings: &Digest, prompts: &[Digest]) -> Vec<Option<String>> {
            let known = self.responses.lock().expect("not poisoned");
            prompts.iter().map(|p| known.get(&(*model, *settings, *p)).cloned()).collect()
        }

        fn put_responses(&self, model: &Digest, settings: &Digest, rows: &[(Digest, String)]) {
            let rows = rows.iter().map(|(p, a)| ((*model, *settings, *p), a.clone()));
            self.responses.lock().expect("not poisoned").extend(rows);
        }
    }

    #[test]
    fn rows_are_found_only_by_what_computes_with_the_same() {
        let (a, b, c) = (Digest::of(b"a"), Digest::of(b"b"), Digest::of(b"c"));
        let all = InMemory::default();
        let wide = Numerics::new("cpu", "f32").instruction_set("avx512");
        let view = |n: Option<&Numerics>| NumericRows::new(&all, n.cloned());
        view(Some(&wide)).put_embeddings(&a, &[(b, vec![1.0])]);
        view(Some(&wide)).put_responses(&a, &b, &[(c, "an answer".into())]);
        assert_eq!(view(Some(&wide)).embeddings(&a, &[b]), [Some(vec![1.0])]);
        assert_eq!(view(Some(&wide)).responses(&a, &b, &[c]), [Some("an answer".into())]);
        let others = [
            Numerics { instruction_set: Some("avx2".into()), ..wide.clone() },
            Numerics { instruction_set: None, ..wide.clone() },
            Numerics { backend: "mlx".into(), ..wide.clone() },
            Numerics { precision: "bf16".into(), ..wide.clone() },
        ];
        for other in others.iter().map(Some).chain([None]) {
            assert_eq!(view(other).embeddings(&a, &[b]), [None], "{other:?}");
            assert_eq!(view(other).responses(&a, &b, &[c]), [None], "{other:?}");
        }
        assert_eq!(wide.to_string(), "cpu, f32, avx512");
    }
}
