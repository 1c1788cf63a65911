//! What a catalog says of its pLLMs: a line of JSON each, read when asked for.
//!
//! A device that chooses among 100,000 pLLMs reads the lines of a few.

use std::io::{BufWriter, Write};
use std::path::Path;
use std::sync::Arc;

use headstart_disk::files::write_with;
use headstart_disk::{Disk, DiskError, DiskFile};
use headstart_protocol::{Digest, Failure};
use memmap2::Mmap;
use serde::{Deserialize, Serialize};

use crate::words::Coefficient;

/// Facts of a pLLM.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PllmAbout {
    /// Its name in the catalog.
    pub name: String,
    /// The pLLM's artifact, where the answers were a model's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pllm: Option<Digest>,
    /// The divergence that it was explained from.
    pub divergence: Digest,
    /// Prompts.
    pub n: usize,
    /// Length of its whitened vector: how far it is from the base, in standard deviations.
    pub strength: f64,
    /// Share that the words explain.
    pub explained: f64,
    /// Its style.
    pub words: Vec<Coefficient>,
}

/// The pLLMs of a catalog, in the order of their vectors.
#[derive(Clone, Debug)]
pub struct Pllms(Source);

#[derive(Clone, Debug)]
enum Source {
    Known(Arc<Vec<PllmAbout>>),
    /// A file of lines; line `i` ends before byte `ends[i]`.
    Lines {
        map: Arc<Mmap>,
        ends: Arc<Vec<u32>>,
        file: Arc<str>,
    },
}

impl From<Vec<PllmAbout>> for Pllms {
    fn from(all: Vec<PllmAbout>) -> Self {
        Self(Source::Known(Arc::new(all)))
    }
}

impl Pllms {
    /// How many there are.
    pub fn len(&self) -> usize {
        match &self.0 {
            Source::Known(all) => all.len(),
            Source::Lines { ends, .. } => ends.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Facts of the `i`-th pLLM.
    ///
    /// # Errors
    /// If its line is damaged.
    ///
    /// # Panics
    /// If there is no `i`-th.
    pub fn get(&self, i: usize) -> Result<PllmAbout, Failure> {
        match &self.0 {
            Source::Known(all) => Ok(all[i].clone()),
            Source::Lines { map, ends, file } => {
                let start = if i == 0 { 0 } else { ends[i - 1] as usize };
                let line = map.get(start..ends[i] as usize).unwrap_or_default();
                serde_json::from_slice(line)
                    .map_err(|e| Failure::input(format!("{file}, line {}: no pLLM: {e}", i + 1)))
            }
        }
    }

    /// Facts of all pLLMs, in order.
    ///
    /// # Errors
    /// If a line is damaged.
    pub fn all(&self) -> Result<Vec<PllmAbout>, Failure> {
        (0..self.len()).map(|i| self.get(i)).collect()
    }

    /// Writes a line each; returns where each ends.
    pub(super) fn write(&self, disk: &dyn Disk, at: &Path) -> Result<Vec<u32>, Failure> {
        write_with(disk, at, |file| self.put(file, at))
    }

    fn put(&self, file: &mut dyn DiskFile, at: &Path) -> Result<Vec<u32>, Failure> {
        let io = |e: std::io::Error| Failure::from(DiskError::at("write", at)(e));
        let mut out = BufWriter::new(file);
        let mut ends = Vec::with_capacity(self.len());
        let mut end = 0usize;
        for i in 0..self.len() {
            let mut line = serde_json::to_vec(&self.get(i)?).expect("plain facts always serialize");
            line.push(b'\n');
            out.write_all(&line).map_err(io)?;
            end += line.len();
            let short = u32::try_from(end);
            ends.push(short.map_err(|_| Failure::input("the catalog's pLLMs take more than 4 GiB of text"))?);
        }
        out.flush().map_err(io)?;
        Ok(ends)
    }

    /// Opens a file of lines that end where `ends` says.
    pub(super) fn open(at: &Path, ends: Vec<u32>) -> Result<Self, Failure> {
        let file = headstart_disk::read::open(at).map_err(|e| Failure::io(at, &e))?;
        let size = file.metadata().map_err(|e| Failure::io(at, &e))?.len();
        if u64::from(ends.last().copied().unwrap_or(0)) != size || ends.windows(2).any(|w| w[0] > w[1]) {
            return Err(Failure::input(format!("{}: not the lines that the catalog counts", at.display())));
        }
        if ends.is_empty() {
            return Ok(Vec::new().into());
        }
        // SAFETY: the file is opened for reading; artifacts are not changed in place.
        let map = Arc::new(unsafe { Mmap::map(&file) }.map_err(|e| Failure::io(at, &e))?);
        Ok(Self(Source::Lines { map, ends: Arc::new(ends), file: at.display().to_string().into() }))
    }
}
