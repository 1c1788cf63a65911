//! Are the words right? Judged by the rule of `headstart_explain::judge`.
//!
//!     cargo run -p headstart-explain --example words_study -- corpus MODEL [CATALOG]
//!     cargo run -p headstart-explain --example words_study -- composed MODEL
//!     cargo run -p headstart-explain --example words_study -- nine DATA ENCODER CACHE [FIRST]
//!
//! `corpus` judges the 28 styles of the demonstration corpus, on its own texts in the space
//! `pooled(MODEL)`: first the 14 catalog styles on the topics that are probed, which words and
//! constants may be tuned on, then the 14 held-back styles on the other topics, then all 28. With
//! CATALOG, a folder of adapters over MODEL, it also judges what those pLLMs answer themselves.
//!
//! `composed` judges styles that are put together from examples of the lexicon which the atoms have not
//! seen, in the space `pooled(MODEL)`. The constants were chosen by it.
//!
//! `nine` judges the eight styles of a folder of parallel answers: 0.jsonl is the default, 1.jsonl …
//! are the styles. ENCODER is a sentence encoder's folder, CACHE a file that keeps vectors. Fifty
//! questions from FIRST (0) are the probes; six such catalogs are made, and the first is shown.

mod composed;
mod corpus;
mod nine;
mod table;
mod vectors;

use std::path::Path;

use headstart_lm::{Backend, CpuBackend};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args.as_slice() {
        ["corpus", model, catalog @ ..] => corpus::run(Path::new(model), catalog.first().map(Path::new)),
        ["composed", model] => {
            let decoder = CpuBackend::new(2).decoder(Path::new(model), None)?;
            composed::run(&mut |texts: &[String]| Ok(decoder.pooled(texts, &corpus::Silent)?))
        }
        ["nine", data, encoder, cache, rest @ ..] => {
            let first: usize = rest.first().map_or(Ok(0), |n| n.parse())?;
            nine::run(Path::new(data), Path::new(encoder), Path::new(cache), first)
        }
        _ => Err(
            "usage: words_study corpus MODEL [CATALOG] | composed MODEL | nine DATA ENCODER CACHE [FIRST]"
                .into(),
        ),
    }
}
