//! Vectors of texts, remembered in a file, so that a study runs again in seconds.

use std::collections::HashMap;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use headstart_lm::Watch;
use headstart_lm::encoder::load_encoder;
use headstart_protocol::Digest;
use headstart_protocol::rows::text_digest;

use crate::table::Failed;

/// Texts that are embedded before they are written.
const CHUNK: usize = 128;

/// A cache file: for each text its digest (32 bytes), the vector's length (u32) and the vector.
pub struct Vectors {
    path: PathBuf,
    known: HashMap<Digest, Vec<f32>>,
}

struct Silent;
impl Watch for Silent {}

impl Vectors {
    pub fn open(path: &Path) -> Result<Self, Failed> {
        let bytes = if path.exists() { fs::read(path)? } else { Vec::new() };
        let mut known = HashMap::new();
        let mut rest = bytes.as_slice();
        while rest.len() >= 36 {
            let digest = Digest(rest[..32].try_into()?);
            let len = u32::from_le_bytes(rest[32..36].try_into()?) as usize;
            let Some(body) = rest.get(36..36 + 4 * len) else { break };
            let number = |b: &[u8]| f32::from_le_bytes([b[0], b[1], b[2], b[3]]);
            known.insert(digest, body.chunks_exact(4).map(number).collect());
            rest = &rest[36 + 4 * len..];
        }
        Ok(Self { path: path.to_owned(), known })
    }

    /// Vectors of texts, in order; the encoder in `model` computes those that are not known.
    pub fn of(&mut self, texts: &[String], model: &Path) -> Result<Vec<Vec<f32>>, Failed> {
        let mut missing: Vec<String> =
            texts.iter().filter(|t| !self.known.contains_key(&text_digest(t))).cloned().collect();
        missing.sort_unstable();
        missing.dedup();
        if !missing.is_empty() {
            let encoder = load_encoder(model, 2)?;
            let mut file = OpenOptions::new().create(true).append(true).open(&self.path)?;
            for chunk in missing.chunks(CHUNK) {
                let mut bytes = Vec::new();
                for (text, vector) in chunk.iter().zip(encoder.encode(chunk, &Silent)?) {
                    let digest = text_digest(text);
                    bytes.extend(digest.0);
                    bytes.extend((vector.len() as u32).to_le_bytes());
                    bytes.extend(vector.iter().flat_map(|x| x.to_le_bytes()));
                    self.known.insert(digest, vector);
                }
                file.write_all(&bytes)?;
            }
        }
        Ok(texts.iter().map(|t| self.known[&text_digest(t)].clone()).collect())
    }
}
