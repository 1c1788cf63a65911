//! Styles composed of examples of the lexicon that the atoms have not seen. The lens's constants were
//! chosen by this, and by nothing else.

use headstart_explain::judge::{Says, TRAITS, says};
use headstart_explain::math::{Matrix, axpy};
use headstart_explain::{Lexicon, Word};
use rand::Rng;
use rand::SeedableRng;
use rand::seq::{IndexedRandom, SliceRandom};
use rand_chacha::ChaCha8Rng;

use crate::table::{Embedder, Failed, Score, Style, Words, member_of, raw_rows};

const SPLITS: u64 = 6;

/// Share of a word's examples that make its atom.
const SEEN: f64 = 0.6;

/// Rows of a composed style.
const ROWS: usize = 12;

pub fn run(embedder: &mut Embedder<'_>) -> Result<(), Failed> {
    let whole = Lexicon::built_in();
    let pairs: Vec<(String, String)> =
        whole.contrasts().iter().map(|c| (c.answer.to_owned(), c.plain.to_owned())).collect();
    let rows = raw_rows(&pairs, embedder)?;
    let d = rows.cols - headstart_explain::stylometry::FEATURES.len();
    let mut score = Score::default();
    for split in 0..SPLITS {
        let mut rng = ChaCha8Rng::seed_from_u64(split);
        let (words, held) = halve(&whole, &rows, d, &mut rng);
        let (styles, members) = compose(&words.lexicon, &held, &mut rng);
        let catalog = words.build(
            &members.into_iter().zip(&styles).map(|(m, s)| member_of(&s.name, m, d)).collect::<Vec<_>>(),
        )?;
        score.add(&catalog, &styles, split == 0);
    }
    score.print("styles composed of held-back examples");
    Ok(())
}

/// The lexicon with some of its examples, and the other examples' rows, a matrix a word.
fn halve(whole: &Lexicon, rows: &Matrix, d: usize, rng: &mut ChaCha8Rng) -> (Words, Vec<Vec<Vec<f64>>>) {
    let (mut seen, mut vectors, mut held) = (Vec::new(), Vec::new(), Vec::new());
    let mut at = 0;
    for word in &whole.words {
        let mut order: Vec<usize> = (0..word.pairs.len()).collect();
        order.shuffle(rng);
        let cut = ((SEEN * order.len() as f64).round() as usize).max(2);
        let (kept, others) = order.split_at(cut);
        vectors.extend(
            kept.iter().map(|&i| rows.row(at + i)[..d].iter().map(|x| *x as f32).collect::<Vec<f32>>()),
        );
        held.push(others.iter().map(|&i| rows.row(at + i).to_vec()).collect());
        let pairs = kept.iter().map(|&i| word.pairs[i].clone()).collect();
        seen.push(Word { pairs, ..word.clone() });
        at += word.pairs.len();
    }
    let lexicon = Lexicon { words: seen };
    let atoms = lexicon.atoms_of(&vectors);
    (Words { lexicon, atoms }, held)
}

/// A style for every two levels of expertise, two of length, and every tone: a word of each trait, at
/// half to full strength.
fn compose(lexicon: &Lexicon, held: &[Vec<Vec<f64>>], rng: &mut ChaCha8Rng) -> (Vec<Style>, Vec<Matrix>) {
    let fitting = |name: &str| -> Vec<usize> {
        let is = |w: &Word| says(&[name], &w.dimension, w.pole, false) == Says::Right;
        (0..lexicon.words.len()).filter(|&i| is(&lexicon.words[i])).collect()
    };
    let (mut styles, mut members) = (Vec::new(), Vec::new());
    for tone in &TRAITS[4..] {
        for expertise in ["elementary", "expert"] {
            for length in ["concise", "informative"] {
                let traits = [expertise, length, tone.name];
                let parts: Vec<(usize, f64)> = traits
                    .iter()
                    .map(|t| {
                        (
                            *fitting(t).choose(rng).expect("a word is right for every trait"),
                            rng.random_range(0.5..1.2),
                        )
                    })
                    .collect();
                let row = |i: usize| {
                    let mut sum = vec![0.0; held[0][0].len()];
                    parts.iter().for_each(|&(w, c)| axpy(&mut sum, c, &held[w][i % held[w].len()]));
                    sum
                };
                members.push(Matrix::from_rows(&(0..ROWS).map(row).collect::<Vec<_>>()));
                let name = parts
                    .iter()
                    .map(|&(w, c)| format!("{c:.1} {}", lexicon.words[w].word))
                    .collect::<Vec<_>>();
                styles.push(Style {
                    name: name.join(" + "),
                    traits: traits.map(str::to_owned).to_vec(),
                    pairs: Vec::new(),
                });
            }
        }
    }
    (styles, members)
}
