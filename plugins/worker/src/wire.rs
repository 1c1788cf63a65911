//! What a runner and a worker say to each other: frames of a length (four bytes, little-endian) and a
//! MessagePack document. MessagePack, because it keeps every number as it is, and bytes as bytes.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use headstart_protocol::expr::Value;
use headstart_protocol::{ArtifactRef, Digest, Failure, Manifest, Output, Progress, Type};
use serde::de::{DeserializeOwned, Error, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Bytes of a frame from a worker at most.
pub(crate) const LARGEST: usize = 64 << 20;
/// Bytes of rows that a worker puts into a frame.
pub(crate) const ROWS: usize = 4 << 20;
/// Rows that a worker asks for at once.
pub(crate) const ASKED: usize = 1024;
/// Bytes of the length before a frame.
pub(crate) const HEADER: usize = 4;

/// What a runner says.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum ToWorker {
    /// The first frame.
    Start {
        /// The runner's process.
        runner: u32,
        /// What stages compute with.
        backend: String,
        /// Whether it is confined to the folders below.
        confined: bool,
        /// What it may read.
        read: Vec<WirePath>,
        /// What it may write.
        write: Vec<WirePath>,
    },
    /// Run an attempt.
    Task(Box<Task>),
    /// The answers to calls, in their order.
    Manifest(Result<Manifest, Failure>),
    Opened(Result<WirePath, Failure>),
    Path(WirePath),
    Folder(Option<WirePath>),
    Embeddings(Vectors),
    Responses(Vec<Option<String>>),
}

/// An attempt.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Task {
    /// Counts up within a worker: a cancellation names it.
    pub number: u64,
    pub kind: String,
    pub args: BTreeMap<String, Value>,
    pub threads: usize,
    /// What the pipeline allows, which the stage may know.
    pub memory: Option<u64>,
    /// What the kernel is to allow.
    pub most: Option<u64>,
    pub private: bool,
    /// Rows below which no number leaves.
    pub least_rows: usize,
}

/// What a worker says.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum FromWorker {
    Manifest(ArtifactRef),
    Open(ArtifactRef),
    Path(String),
    Scratch,
    Resume,
    Embeddings { space: Digest, texts: Vec<Digest> },
    PutEmbeddings { space: Digest, texts: Vec<Digest>, vectors: Vectors },
    Responses { model: Digest, settings: Digest, prompts: Vec<Digest> },
    PutResponses { model: Digest, settings: Digest, rows: Vec<(Digest, String)> },
    Progress(Progress),
    Log(String),
    Ended { result: Result<Made, Failure>, counters: BTreeMap<String, u64> },
}

/// An [`Output`].
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Made {
    ty: Type,
    files: Vec<(String, WirePath)>,
    value: serde_json::Value,
    uses: BTreeMap<String, ArtifactRef>,
}

impl From<Output> for Made {
    fn from(output: Output) -> Self {
        let files = output.files.into_iter().map(|(name, at)| (name, WirePath(at))).collect();
        Self { ty: output.ty, files, value: output.value, uses: output.uses }
    }
}

impl From<Made> for Output {
    fn from(made: Made) -> Self {
        let files = made.files.into_iter().map(|(name, at)| (name, at.0)).collect();
        Self { ty: made.ty, files, value: made.value, uses: made.uses }
    }
}

/// A path, which need not be UTF-8.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct WirePath(pub PathBuf);

impl From<&Path> for WirePath {
    fn from(path: &Path) -> Self {
        Self(path.to_owned())
    }
}

impl Serialize for WirePath {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_bytes(self.0.as_os_str().as_bytes())
    }
}

impl<'de> Deserialize<'de> for WirePath {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        Ok(Self(OsString::from_vec(from.deserialize_byte_buf(Bytes)?).into()))
    }
}

/// Vectors of one length, some of which are missing.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Vectors {
    /// The length of each; `None` for a missing one.
    lengths: Vec<Option<u32>>,
    /// The numbers of all, four bytes each, little-endian.
    numbers: Numbers,
}

#[derive(Clone, Debug, Default, PartialEq)]
struct Numbers(Vec<u8>);

impl Serialize for Numbers {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for Numbers {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_byte_buf(Bytes).map(Self)
    }
}

impl Vectors {
    pub(crate) fn of<'a>(vectors: impl IntoIterator<Item = Option<&'a [f32]>>) -> Self {
        let mut all = Self::default();
        for vector in vectors {
            all.lengths.push(vector.map(|v| u32::try_from(v.len()).unwrap_or(u32::MAX)));
            for x in vector.into_iter().flatten() {
                all.numbers.0.extend_from_slice(&x.to_le_bytes());
            }
        }
        all
    }

    /// The vectors; `None` where lengths and numbers do not fit each other.
    pub(crate) fn all(&self) -> Option<Vec<Option<Vec<f32>>>> {
        let mut rest = &self.numbers.0[..];
        let mut one = |length: u32| {
            let (numbers, after) = rest.split_at_checked((length as usize).checked_mul(4)?)?;
            rest = after;
            let (numbers, _) = numbers.as_chunks::<4>();
            Some(numbers.iter().map(|x| f32::from_le_bytes(*x)).collect())
        };
        let all = self.lengths.iter().map(|length| match length {
            None => Some(None),
            Some(length) => one(*length).map(Some),
        });
        let all: Option<Vec<_>> = all.collect();
        all.filter(|_| rest.is_empty())
    }
}

/// Reads bytes.
struct Bytes;

impl<'de> Visitor<'de> for Bytes {
    type Value = Vec<u8>;

    fn expecting(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.write_str("bytes")
    }

    fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<Self::Value, E> {
        Ok(bytes.to_owned())
    }

    fn visit_byte_buf<E: Error>(self, bytes: Vec<u8>) -> Result<Self::Value, E> {
        Ok(bytes)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut bytes: A) -> Result<Self::Value, A::Error> {
        let mut all = Vec::new();
        while let Some(byte) = bytes.next_element()? {
            all.push(byte);
        }
        Ok(all)
    }
}

/// A frame.
pub(crate) fn frame(message: &impl Serialize) -> Vec<u8> {
    let mut frame = vec![0; HEADER];
    rmp_serde::encode::write_named(&mut frame, message).expect("messages always serialize");
    let length = u32::try_from(frame.len() - HEADER).expect("rows are sent in pieces, the rest is small");
    frame[..HEADER].copy_from_slice(&length.to_le_bytes());
    frame
}

/// What a frame behind its length says.
pub(crate) fn message<T: DeserializeOwned>(body: &[u8]) -> Result<T, rmp_serde::decode::Error> {
    rmp_serde::from_slice(body)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn round(message: &FromWorker) -> FromWorker {
        let frame = frame(message);
        let length = u32::from_le_bytes(frame[..HEADER].try_into().expect("four bytes"));
        assert_eq!(length as usize, frame.len() - HEADER);
        super::message(&frame[HEADER..]).expect("understood")
    }

    #[test]
    fn numbers_arrive_as_they_were_sent() {
        // Text with the usual reader gets some of these wrong by a unit in the last place.
        let numbers = [0.1 + 0.2, 1.0 / 3.0, f64::MIN_POSITIVE, 1e23, 5e-324, f64::MAX];
        let value =
            json!({ "n": numbers, "big": u64::MAX, "small": i64::MIN, "deep": { "text": "ä", "no": null } });
        let output = Output::new(Type::Metrics, value.clone()).file("a/b", PathBuf::from("/x"));
        let sent =
            FromWorker::Ended { result: Ok(output.into()), counters: BTreeMap::from([("rows".into(), 3)]) };
        let FromWorker::Ended { result: Ok(made), counters } = round(&sent) else {
            panic!("another message")
        };
        let output = Output::from(made);
        assert_eq!((output.value, output.ty, counters["rows"]), (value, Type::Metrics, 3));
        assert_eq!(output.files, [("a/b".to_owned(), PathBuf::from("/x"))]);
        let args = BTreeMap::from([
            ("x".to_owned(), Value::Float(f64::INFINITY)),
            ("l".to_owned(), Value::List(vec![("a".to_owned(), Value::Json(json!([1, 2.5])))])),
        ]);
        let task = Task {
            number: 1,
            kind: "k".into(),
            args: args.clone(),
            threads: 1,
            memory: None,
            most: None,
            private: true,
            least_rows: 20,
        };
        let frame = frame(&ToWorker::Task(Box::new(task)));
        let ToWorker::Task(task) = super::message(&frame[HEADER..]).expect("understood") else {
            panic!("no task")
        };
        assert_eq!(task.args, args);
    }

    #[test]
    fn paths_need_not_be_text() {
        let odd = PathBuf::from(OsString::from_vec(vec![b'/', 0xff, b'x']));
        let frame = frame(&ToWorker::Path(WirePath(odd.clone())));
        let ToWorker::Path(at) = super::message(&frame[HEADER..]).expect("understood") else {
            panic!("no path")
        };
        assert_eq!(at.0, odd);
    }

    #[test]
    fn vectors_fit_their_lengths_or_are_refused() {
        let (a, b) = (vec![1.0, f32::NEG_INFINITY], vec![]);
        let vectors = Vectors::of([Some(&a[..]), None, Some(&b[..])]);
        assert_eq!(vectors.all(), Some(vec![Some(a), None, Some(b)]));
        let lies = [vec![Some(3)], vec![Some(1)], vec![Some(u32::MAX)], vec![]];
        for lengths in lies {
            assert_eq!(Vectors { lengths, ..vectors.clone() }.all(), None);
        }
    }
}
