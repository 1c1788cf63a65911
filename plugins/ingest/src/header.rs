//! What a safetensors file promises: names and shapes, read without its numbers.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use headstart_protocol::Failure;
use safetensors::tensor::Metadata;

/// Shapes by tensor name.
pub type Shapes = BTreeMap<String, Vec<usize>>;

/// The limit that the format itself sets.
const LONGEST_HEADER: u64 = 100_000_000;

/// Reads the header of a safetensors file and checks that the file is as long as it promises.
pub fn shapes(path: &Path) -> Result<Shapes, Failure> {
    let io = |e: std::io::Error| Failure::io(path, &e);
    let broken = |why: String| {
        Failure::input(format!("{}: {why}", path.display()))
            .help("copy or download the file again; an interrupted download leaves a file like this")
    };
    let mut file = File::open(path).map_err(io)?;
    let length = file.metadata().map_err(io)?.len();
    if length < 8 {
        return Err(broken(format!("truncated: {length} bytes are no safetensors file")));
    }
    let mut start = [0; 8];
    file.read_exact(&mut start).map_err(io)?;
    let header = u64::from_le_bytes(start);
    if header > LONGEST_HEADER {
        return Err(broken(format!("not a safetensors file: it begins with a header length of {header}")));
    }
    if 8 + header > length {
        return Err(broken(format!("truncated: its header alone has {header} bytes, the file {length}")));
    }
    let mut bytes = vec![0; header as usize];
    file.read_exact(&mut bytes).map_err(io)?;
    let metadata: Metadata = serde_json::from_slice(&bytes)
        .map_err(|e| broken(format!("not a safetensors file, its header is malformed: {e}")))?;
    let promised = 8 + header + metadata.data_len() as u64;
    if promised != length {
        let what = if promised > length { "truncated" } else { "longer than its header says" };
        return Err(broken(format!("{what}: it should have {promised} bytes and has {length}")));
    }
    Ok(metadata.tensors().into_iter().map(|(name, t)| (name, t.shape.clone())).collect())
}
