//! The row cache of a device: append-only tables in files, one a space or a model and settings.
//!
//! What private stages computed lies apart: a public stage must not see it, or an engine that
//! guesses a text could tell from the time taken whether the device had met it before. For the same reason a
//! private stage sees only what stages computed that read the same data of the owner.

use std::collections::{BTreeMap, HashMap};
use std::io::SeekFrom;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use headstart_disk::{Disk, DiskFile, Open, files};
use headstart_protocol::{Digest, RowCache};

/// Bytes before a record's content: the row's digest, the length, and four bytes of a checksum.
const HEAD: usize = 32 + 4 + 4;

/// Tables in a folder.
pub struct Rows {
    root: PathBuf,
    disk: Arc<dyn Disk>,
    tables: Mutex<BTreeMap<String, Table>>,
}

struct Table {
    file: Box<dyn DiskFile>,
    /// Where each row's content begins, and its length.
    index: HashMap<Digest, (u64, u32)>,
    end: u64,
}

impl Rows {
    /// The tables in a folder, read when they are first used.
    pub fn new(root: PathBuf, disk: Arc<dyn Disk>) -> Self {
        Self { root, disk, tables: Mutex::new(BTreeMap::new()) }
    }

    fn with<T>(&self, table: &str, f: impl FnOnce(&mut Table) -> std::io::Result<T>) -> Option<T> {
        let mut tables = self.tables.lock().unwrap_or_else(PoisonError::into_inner);
        if !tables.contains_key(table) {
            let opened = Table::open(&*self.disk, &self.root, table);
            let opened = opened.inspect_err(|e| tracing::debug!(table, "row cache not used: {e}")).ok()?;
            tables.insert(table.to_owned(), opened);
        }
        let done = f(tables.get_mut(table)?);
        if let Err(e) = &done {
            // A table that cannot be read or written is left alone until the next start.
            tracing::debug!(table, "row cache: {e}");
        }
        done.ok()
    }

    fn get(&self, table: &str, rows: &[Digest]) -> Vec<Option<Vec<u8>>> {
        let found = self.with(table, |t| Ok(rows.iter().map(|r| t.get(r)).collect()));
        found.unwrap_or_else(|| vec![None; rows.len()])
    }

    fn put<'a>(&self, table: &str, rows: impl Iterator<Item = (Digest, std::borrow::Cow<'a, [u8]>)>) {
        let _ = self.with(table, |t| {
            let mut batch = Vec::new();
            let mut new = Vec::new();
            for (row, content) in rows {
                if !t.index.contains_key(&row) {
                    let at = t.end + (batch.len() + HEAD) as u64;
                    let len = u32::try_from(content.len()).map_err(std::io::Error::other)?;
                    batch.extend_from_slice(&row.0);
                    batch.extend_from_slice(&len.to_le_bytes());
                    batch.extend_from_slice(&check(&row, &content));
                    batch.extend_from_slice(&content);
                    new.push((row, (at, len)));
                }
            }
            t.file.seek(SeekFrom::Start(t.end))?;
            t.file.write_all(&batch)?;
            t.end += batch.len() as u64;
            t.index.extend(new);
            Ok(())
        });
    }
}

fn check(row: &Digest, content: &[u8]) -> [u8; 4] {
    let hash = blake3::keyed_hash(&row.0, content);
    let [a, b, c, d, ..] = *hash.as_bytes();
    [a, b, c, d]
}

impl Table {
    fn open(disk: &dyn Disk, root: &Path, name: &str) -> std::io::Result<Self> {
        files::create_dir(disk, root).map_err(|e| e.source)?;
        let mut file = disk.open(&root.join(name), Open::Update)?;
        let len = file.system().metadata()?.len();
        let mut index = HashMap::new();
        let mut end = 0;
        let mut head = [0; HEAD];
        while end + HEAD as u64 <= len {
            file.seek(SeekFrom::Start(end))?;
            file.read_exact(&mut head)?;
            let mut row = [0; 32];
            row.copy_from_slice(&head[..32]);
            let size = u32::from_le_bytes([head[32], head[33], head[34], head[35]]);
            let at = end + HEAD as u64;
            if at + u64::from(size) > len {
                break;
            }
            index.insert(Digest(row), (at, size));
            end = at + u64::from(size);
        }
        if end < len {
            // What a crash cut short is cut off.
            file.set_len(end)?;
        }
        Ok(Self { file, index, end })
    }

    fn get(&mut self, row: &Digest) -> Option<Vec<u8>> {
        let &(at, len) = self.index.get(row)?;
        let mut sum = [0; 4];
        let mut content = vec![0; len as usize];
        let read = |f: &mut dyn DiskFile, sum: &mut [u8], content: &mut [u8]| {
            f.seek(SeekFrom::Start(at - 4))?;
            f.read_exact(sum)?;
            f.read_exact(content)
        };
        read(&mut *self.file, &mut sum, &mut content).ok()?;
        (check(row, &content) == sum).then_some(content)
    }
}

/// The row cache as one attempt sees it.
pub struct RowView<'a> {
    /// Rows computed by public stages.
    pub public: &'a Rows,
    /// Rows computed by private stages, and the digest of the data that they may be shared with: those that
    /// were computed over other data are not seen. A public attempt has none.
    pub private: Option<(&'a Rows, Digest)>,
}

impl RowView<'_> {
    fn get(&self, table: &str, rows: &[Digest]) -> Vec<Option<Vec<u8>>> {
        let mut found = self.public.get(table, rows);
        if let Some((private, data)) = self.private {
            for (slot, more) in found.iter_mut().zip(private.get(&of_data(&data, table), rows)) {
                *slot = slot.take().or(more);
            }
        }
        found
    }

    fn put<'r>(&self, table: &str, rows: impl Iterator<Item = (Digest, std::borrow::Cow<'r, [u8]>)>) {
        match self.private {
            None => self.public.put(table, rows),
            Some((private, data)) => private.put(&of_data(&data, table), rows),
        }
    }
}

fn floats(bytes: &[u8]) -> Option<Vec<f32>> {
    let (chunks, rest) = bytes.as_chunks::<4>();
    rest.is_empty().then(|| chunks.iter().map(|c| f32::from_le_bytes(*c)).collect())
}

impl RowCache for RowView<'_> {
    fn embeddings(&self, space: &Digest, texts: &[Digest]) -> Vec<Option<Vec<f32>>> {
        let found = self.get(&format!("embeddings-{space}"), texts);
        found.into_iter().map(|b| b.as_deref().and_then(floats)).collect()
    }

    fn put_embeddings(&self, space: &Digest, rows: &[(Digest, Vec<f32>)]) {
        let bytes = |v: &[f32]| v.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>().into();
        self.put(&format!("embeddings-{space}"), rows.iter().map(|(d, v)| (*d, bytes(v))));
    }

    fn responses(&self, model: &Digest, settings: &Digest, prompts: &[Digest]) -> Vec<Option<String>> {
        let found = self.get(&responses_table(model, settings), prompts);
        found.into_iter().map(|b| b.and_then(|b| String::from_utf8(b).ok())).collect()
    }

    fn put_responses(&self, model: &Digest, settings: &Digest, rows: &[(Digest, String)]) {
        let rows = rows.iter().map(|(d, text)| (*d, text.as_bytes().into()));
        self.put(&responses_table(model, settings), rows);
    }
}

/// The table of rows that were computed over some data.
fn of_data(data: &Digest, table: &str) -> String {
    format!("{data}-{table}")
}

fn responses_table(model: &Digest, settings: &Digest) -> String {
    let mut both = model.0.to_vec();
    both.extend_from_slice(&settings.0);
    format!("responses-{}", Digest::of(&both))
}

#[cfg(test)]
mod tests {
    use std::fs::OpenOptions;

    use headstart_disk::SystemDisk;

    use super::*;

    #[test]
    fn rows_survive_a_restart_and_a_torn_tail() {
        let dir = tempfile::tempdir().expect("tempdir");
        let (space, a, b, c) = (Digest::of(b"s"), Digest::of(b"a"), Digest::of(b"b"), Digest::of(b"c"));
        let rows = || Rows::new(dir.path().to_owned(), Arc::new(SystemDisk));
        let view = |r: &Rows| -> Vec<Option<Vec<f32>>> {
            RowView { public: r, private: None }.embeddings(&space, &[a, b, c])
        };
        let first = rows();
        let public = RowView { public: &first, private: None };
        public.put_embeddings(&space, &[(a, vec![1.0, -2.5]), (b, vec![])]);
        public.put_embeddings(&space, &[(c, vec![3.0]), (a, vec![9.0])]);
        let whole = [Some(vec![1.0, -2.5]), Some(vec![]), Some(vec![3.0])];
        assert_eq!(view(&first), whole);
        assert_eq!(view(&rows()), whole);

        let file = dir.path().join(format!("embeddings-{space}"));
        let len = std::fs::metadata(&file).expect("there").len();
        OpenOptions::new().write(true).open(&file).expect("opens").set_len(len - 1).expect("cut");
        let torn = rows();
        assert_eq!(view(&torn), [whole[0].clone(), whole[1].clone(), None]);
        RowView { public: &torn, private: None }.put_embeddings(&space, &[(c, vec![4.0])]);
        assert_eq!(view(&rows())[2], Some(vec![4.0]));
    }

    #[test]
    fn a_public_attempt_does_not_see_private_rows() {
        let dir = tempfile::tempdir().expect("tempdir");
        let public = Rows::new(dir.path().join("public"), Arc::new(SystemDisk));
        let private = Rows::new(dir.path().join("private"), Arc::new(SystemDisk));
        let (model, settings, prompt) = (Digest::of(b"m"), Digest::of(b"t"), Digest::of(b"p"));
        let mine = RowView { public: &public, private: Some((&private, Digest::of(b"mine"))) };
        mine.put_responses(&model, &settings, &[(prompt, "an answer".into())]);
        let theirs = RowView { public: &public, private: None };
        assert_eq!(theirs.responses(&model, &settings, &[prompt]), [None]);
        assert_eq!(mine.responses(&model, &settings, &[prompt]), [Some("an answer".into())]);
    }

    /// What another private stage asked the same model is found only by one that reads the same data.
    #[test]
    fn private_rows_are_shared_by_what_reads_the_same_data() {
        let dir = tempfile::tempdir().expect("tempdir");
        let public = Rows::new(dir.path().join("public"), Arc::new(SystemDisk));
        let private = Rows::new(dir.path().join("private"), Arc::new(SystemDisk));
        let of =
            |data: &str| RowView { public: &public, private: Some((&private, Digest::of(data.as_bytes()))) };
        let (space, text) = (Digest::of(b"s"), Digest::of(b"a text of the diary"));
        of("diary").put_embeddings(&space, &[(text, vec![1.0])]);
        assert_eq!(of("diary").embeddings(&space, &[text]), [Some(vec![1.0])]);
        for other in ["letters", ""] {
            assert_eq!(of(other).embeddings(&space, &[text]), [None], "{other}");
        }
        // What is public is found by all.
        RowView { public: &public, private: None }.put_embeddings(&space, &[(space, vec![2.0])]);
        assert_eq!(of("letters").embeddings(&space, &[space]), [Some(vec![2.0])]);
    }
}
