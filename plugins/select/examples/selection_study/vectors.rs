//! Vectors of texts, remembered in a file, so that a study runs again in seconds.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use headstart_lm::{LmError, Watch};
use headstart_protocol::Digest;
use headstart_protocol::rows::text_digest;

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
    /// Reads the file, if there is one.
    pub fn open(path: &Path) -> std::io::Result<Self> {
        let mut known = HashMap::new();
        let mut bytes = Vec::new();
        if path.exists() {
            File::open(path)?.read_to_end(&mut bytes)?;
        }
        let mut rest = bytes.as_slice();
        while rest.len() >= 36 {
            let digest = Digest(rest[..32].try_into().expect("32 bytes"));
            let len = u32::from_le_bytes(rest[32..36].try_into().expect("4 bytes")) as usize;
            let Some(body) = rest.get(36..36 + 4 * len) else { break };
            let number = |b: &[u8]| f32::from_le_bytes(b.try_into().expect("4 bytes"));
            known.insert(digest, body.chunks_exact(4).map(number).collect());
            rest = &rest[36 + 4 * len..];
        }
        Ok(Self { path: path.to_owned(), known })
    }

    /// Embeds what is missing, with the encoder in `model`.
    pub fn fill(&mut self, texts: &[&str], model: &Path) -> Result<(), Box<dyn std::error::Error>> {
        let mut missing: Vec<&str> =
            texts.iter().copied().filter(|t| !self.known.contains_key(&text_digest(t))).collect();
        missing.sort_unstable();
        missing.dedup();
        if missing.is_empty() {
            return Ok(());
        }
        let encoder = headstart_lm::encoder::load_encoder(model, 2)?;
        let mut file = OpenOptions::new().create(true).append(true).open(&self.path)?;
        for (i, chunk) in missing.chunks(CHUNK).enumerate() {
            eprint!("\rembedding {} of {} texts", i * CHUNK, missing.len());
            let texts: Vec<String> = chunk.iter().map(|t| (*t).to_owned()).collect();
            let vectors = encoder.encode(&texts, &Silent).map_err(|e: LmError| e.to_string())?;
            for (text, vector) in texts.iter().zip(vectors) {
                let digest = text_digest(text);
                file.write_all(&digest.0)?;
                file.write_all(&(vector.len() as u32).to_le_bytes())?;
                file.write_all(&vector.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<_>>())?;
                self.known.insert(digest, vector);
            }
        }
        eprintln!("\rembedded {} texts          ", missing.len());
        Ok(())
    }

    /// The vector of a text that was embedded.
    pub fn get(&self, text: &str) -> &[f32] {
        &self.known[&text_digest(text)]
    }
}
