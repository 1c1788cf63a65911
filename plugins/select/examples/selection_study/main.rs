//! Selection accuracy on real text, with the styles' own texts as the pLLMs' answers.
//!
//!     cargo run -p headstart-select --example selection_study -- DATA ENCODER CACHE [USERS [FIRST]]
//!
//! DATA holds 0.jsonl (default answers) and 1.jsonl, 2.jsonl … (the same questions, a style each),
//! ENCODER is a sentence encoder's folder, CACHE a file that keeps vectors between runs. USERS is
//! the number of users a style and split (10), FIRST the first of the 300 questions that are used (0).
//! The metric's constants were chosen on the questions from 0; judge it by others, such as those from 300.
//!
//! Fifty probe questions make the catalog. Users write on other questions; a share of their texts
//! is in one of the styles, the others are default answers. The table says how often the pLLM of
//! that style is chosen.

mod data;
mod vectors;

use std::path::Path;

use data::Corpus;
use headstart_explain::catalog::Catalog;
use headstart_explain::words::Method;
use headstart_select::decide::{Settings, User};
use headstart_select::nearest::Distance;
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

const QUESTIONS: usize = 300;
const PROBES: usize = 50;
const SPLITS: usize = 8;
const SHARES: [f64; 4] = [0.3, 0.5, 0.7, 0.9];
const TEXTS: [usize; 3] = [5, 10, 50];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().collect();
    let [_, data, encoder, cache, rest @ ..] = args.as_slice() else {
        return Err("usage: selection_study DATA ENCODER CACHE [USERS [FIRST]]".into());
    };
    let users: usize = rest.first().map_or(Ok(10), |n| n.parse())?;
    let first: usize = rest.get(1).map_or(Ok(0), |n| n.parse())?;
    let questions = first..first + QUESTIONS;
    let corpus = Corpus::load(Path::new(data), Path::new(encoder), Path::new(cache), questions)?;
    words(&corpus);
    for (name, method, distance) in [
        ("whitened", Method::Sparse, Distance::Whitened),
        ("cosine", Method::Sparse, Distance::Cosine),
        ("paper, L1", Method::Paper, Distance::L1),
    ] {
        table(&corpus, name, method, distance, users);
    }
    mixes(&corpus, users);
    Ok(())
}

fn words(corpus: &Corpus) {
    let probes: Vec<usize> = (0..PROBES).collect();
    let catalog = corpus.catalog(&probes, Method::Sparse, 0);
    println!("shrinkage {:?}", catalog.about.shrinkage);
    for p in &catalog.about.pllms {
        print!("{}  |v| {:.1}  explained {:.2} ", p.name, p.strength, p.explained);
        for w in &p.words {
            print!("  {} {:.2} [{:.2}, {:.2}]", w.word, w.coefficient, w.low, w.high);
        }
        println!();
    }
}

fn splits() -> impl Iterator<Item = (Vec<usize>, Vec<usize>, ChaCha8Rng)> {
    (0..SPLITS as u64).map(|s| {
        let mut rng = ChaCha8Rng::seed_from_u64(s);
        let mut all: Vec<usize> = (0..QUESTIONS).collect();
        all.shuffle(&mut rng);
        let others = all.split_off(PROBES);
        (all, others, rng)
    })
}

fn table(corpus: &Corpus, name: &str, method: Method, distance: Distance, users: usize) {
    let mut right = [[0usize; 4]; 3];
    let mut abstained = [[0usize; 4]; 3];
    let mut all = 0;
    for (probes, others, mut rng) in splits() {
        let catalog = corpus.catalog(&probes, method, 0);
        for style in 1..=corpus.styles() {
            for _ in 0..users {
                all += 1;
                for (i, n) in TEXTS.iter().enumerate() {
                    for (j, share) in SHARES.iter().enumerate() {
                        let rows = corpus.user(&[(style, *share)], *n, &others, &mut rng);
                        let user = User::new(&catalog, &rows);
                        let close = user.nearest(distance, 1);
                        let best = close[0];
                        right[i][j] += usize::from(best.index + 1 == style);
                        let abstains = distance == Distance::Whitened && user.is_chance(&close);
                        abstained[i][j] += usize::from(abstains);
                    }
                }
            }
        }
    }
    println!("\n{name}: accuracy over {all} users (abstentions)");
    for (i, n) in TEXTS.iter().enumerate() {
        print!("{n:>4} texts ");
        for j in 0..SHARES.len() {
            let share = |x: usize| x as f64 / all as f64;
            print!("  {:.3} ({:.2})", share(right[i][j]), share(abstained[i][j]));
        }
        println!();
    }
}

/// How often users of one style, and of two, are given a mix, and of the right two.
fn mixes(corpus: &Corpus, users: usize) {
    let (mut all, mut one, mut two, mut both) = (0, 0, 0, 0);
    for (probes, others, mut rng) in splits().take(4) {
        let catalog = corpus.catalog(&probes, Method::Sparse, 0);
        for style in 1..=corpus.styles() {
            for u in 0..users {
                all += 1;
                let settings = Settings { distance: Distance::Whitened, max_mix: 3, seed: 0 };
                let choose = |c: &Catalog, rows| User::new(c, rows).choose(&settings);
                let rows = corpus.user(&[(style, 0.9)], 30, &others, &mut rng);
                one += usize::from(!choose(&catalog, &rows).mix.is_empty());
                let other = (style + u % (corpus.styles() - 1)) % corpus.styles() + 1;
                let rows = corpus.user(&[(style, 0.5), (other, 0.5)], 30, &others, &mut rng);
                let mix = choose(&catalog, &rows).mix;
                two += usize::from(!mix.is_empty());
                let has = |s: usize| mix.iter().any(|m| m.0 + 1 == s);
                both += usize::from(has(style) && has(other));
            }
        }
    }
    println!(
        "\nmixes over {all} users with 30 texts: one style {one}, two styles {two}, the right two {both}"
    );
}
