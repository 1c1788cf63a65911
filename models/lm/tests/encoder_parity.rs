//! The sentence encoder against all-MiniLM-L6-v2's published vectors, made with
//! sentence-transformers. The weights (90 MB) are not in the repository: the folder that holds
//! config.json, tokenizer.json and model.safetensors is named by `HEADSTART_MINILM_DIR`. Without
//! it the tests are reported as ignored.

use std::path::{Path, PathBuf};

use headstart_lm::encoder::BertEncoder;
use headstart_lm::{Encoder, Unwatched};
use libtest_mimic::{Arguments, Failed, Trial};
use safetensors::SafeTensors;

fn main() {
    let folder = std::env::var_os("HEADSTART_MINILM_DIR").map(PathBuf::from);
    let missing = folder.is_none();
    let folder = move || folder.clone().ok_or(Failed::from("HEADSTART_MINILM_DIR is not set"));
    let trial = |name: &str, run: fn(&Path) -> Result<(), Failed>| {
        let folder = folder.clone();
        let name = if missing { format!("{name} (needs HEADSTART_MINILM_DIR)") } else { name.to_owned() };
        Trial::test(name, move || run(&folder()?)).with_ignored_flag(missing)
    };
    let trials = vec![
        trial("vectors_equal_the_published", vectors_equal_the_published),
        trial("a_long_text_is_read_to_its_end", a_long_text_is_read_to_its_end),
    ];
    libtest_mimic::run(&Arguments::from_args(), trials).exit();
}

fn fixture(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/minilm").join(name);
    std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn vectors_equal_the_published(folder: &Path) -> Result<(), Failed> {
    let texts: Vec<String> = serde_json::from_slice(&fixture("texts.json"))?;
    let bytes = fixture("expected.safetensors");
    let expected = SafeTensors::deserialize(&bytes)?;
    let expected = expected.tensor("embeddings")?;
    let numbers: Vec<f32> =
        expected.data().chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
    let encoder = BertEncoder::load(folder, 2)?.truncating();
    let found = encoder.encode(&texts, &Unwatched)?;
    assert_eq!(expected.shape(), [texts.len(), encoder.dim()]);
    for (i, (found, expected)) in found.iter().zip(numbers.chunks_exact(encoder.dim())).enumerate() {
        let worst = found.iter().zip(expected).map(|(f, e)| (f - e).abs()).fold(0.0, f32::max);
        println!("text {i}: largest difference {worst:.1e}");
        assert!(worst < 2e-6, "text {i}: {worst}");
    }
    Ok(())
}

fn a_long_text_is_read_to_its_end(folder: &Path) -> Result<(), Failed> {
    let encoder = BertEncoder::load(folder, 2)?;
    let start = "The moon pulls the sea, and so the tide comes and goes. ".repeat(40);
    let texts = [start.clone(), format!("{start} Stock prices fell sharply on Monday.")];
    let vectors = encoder.encode(&texts, &Unwatched)?;
    let cosine: f32 = vectors[0].iter().zip(&vectors[1]).map(|(a, b)| a * b).sum();
    assert!(cosine < 0.9999, "the end made no difference");
    let cut = BertEncoder::load(folder, 2)?.truncating().encode(&texts, &Unwatched)?;
    assert_eq!(cut[0], cut[1]);
    Ok(())
}
