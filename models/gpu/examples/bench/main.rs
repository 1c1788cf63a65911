//! Our side of `make bench`: makes models of published shapes, and measures work over them beside
//! the programs of `scripts/bench/`.
//!
//! ```text
//! bench shape NAME DIR               writes a model of random weights
//! bench lora DIR [key=value…]        one training step a round
//! bench score DIR [key=value…]       likelihoods a round, without gradients
//! bench generate DIR [key=value…]    greedy answers a round
//! bench embed DIR TEXTS [key=value…] sentence vectors a round
//! bench products [key=value…]        matrix products a round
//! bench quantize DIR OUT q8_0|q4_k   writes a model with quantized weights
//! ```
//!
//! A worker reads a line, does one round of its work and prints what it took and found as JSON, so
//! that two workers can take turns; it ends with its input.

mod shapes;
mod work;

use std::collections::BTreeMap;
use std::error::Error;
use std::path::Path;

use headstart_lm::gguf::{QuantType, quantize};

/// Settings `key=value`.
pub struct Settings(BTreeMap<String, String>);

impl Settings {
    fn read(words: &[String]) -> Result<Self, Box<dyn Error>> {
        let pair = |w: &String| match w.split_once('=') {
            Some((key, value)) => Ok((key.to_owned(), value.to_owned())),
            None => Err(format!("{w:?} is not of the form key=value")),
        };
        Ok(Self(words.iter().map(pair).collect::<Result<_, _>>()?))
    }

    /// A number, or `default` where it is not given.
    ///
    /// # Errors
    /// If it is given and is no number.
    pub fn number(&self, key: &str, default: usize) -> Result<usize, Box<dyn Error>> {
        self.0.get(key).map_or(Ok(default), |v| v.parse().map_err(|_| format!("{key}: not a number").into()))
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["shape", name, dir] => shapes::write(name, Path::new(dir)),
        ["products", ..] => work::products(&Settings::read(&args[1..])?),
        ["quantize", dir, out, to] => {
            let to = [QuantType::Q8_0, QuantType::Q4K].into_iter().find(|p| p.name() == *to);
            Ok(quantize(
                &headstart_disk::SystemDisk,
                Path::new(dir),
                Path::new(out),
                to.ok_or("q8_0 or q4_k")?,
            )?)
        }
        ["lora", dir, ..] => work::lora(Path::new(dir), &Settings::read(&args[2..])?),
        ["score", dir, ..] => work::score(Path::new(dir), &Settings::read(&args[2..])?),
        ["generate", dir, ..] => work::generate(Path::new(dir), &Settings::read(&args[2..])?),
        ["embed", dir, texts, ..] => {
            work::embed(Path::new(dir), Path::new(texts), &Settings::read(&args[3..])?)
        }
        _ => Err("usage: bench shape|lora|generate|embed …; see the head of examples/bench/main.rs".into()),
    }
}
