//! Simulated users: whose texts, on which questions, in which style.

use headstart_explain::catalog::Catalog;
use headstart_explain::decompose::{Member, Settings, build};
use headstart_explain::divergence::{About, Divergence};
use headstart_explain::math::Matrix;
use headstart_explain::{Atoms, Lexicon};
use headstart_protocol::{ArtifactRef, ArtifactType, Digest, Failure};
use headstart_stats::derived_seed;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Styles, their answers to the same questions, and what people write.
pub struct World {
    /// Names of the styles.
    pub names: Vec<String>,
    /// What the divergences say of themselves.
    pub about: About,
    /// Each style's answers against the plain ones, a row a question.
    pub styles: Vec<Matrix>,
    /// What people write in each style, a row a question, where that is something else.
    pub users: Option<Vec<Matrix>>,
    /// What people write in no style, a row a question; nothing where it is the plain answer.
    pub plain: Option<Matrix>,
    /// Subtracted from every user.
    pub reference: Option<Matrix>,
    /// The words.
    pub lexicon: Lexicon,
    /// Their atoms.
    pub atoms: Atoms,
}

/// One way to split the questions.
pub struct Split {
    /// Questions that make the catalog.
    pub probes: Vec<usize>,
    /// Questions that users write on.
    pub others: Vec<usize>,
    /// What comes by chance in this split.
    pub rng: ChaCha8Rng,
}

impl World {
    /// The styles' rows by question and the users': how many there are.
    pub fn questions(&self) -> usize {
        self.styles[0].rows
    }

    /// The `i`-th way to split the questions. Where people write other texts than the styles' answers,
    /// these have their own questions, and all of the styles' are probes.
    ///
    /// # Errors
    /// If too few questions are left for users.
    pub fn split(&self, i: usize, probes: usize, most: usize, seed: u64) -> Result<Split, Failure> {
        let mut rng = ChaCha8Rng::seed_from_u64(derived_seed(seed, &format!("split {i}")));
        let mut order: Vec<usize> = (0..self.questions()).collect();
        order.shuffle(&mut rng);
        let others = match &self.users {
            Some(users) => (0..users[0].rows).collect(),
            None => order.split_off(probes.min(order.len())),
        };
        order.truncate(probes);
        if others.len() < most || order.is_empty() {
            return Err(Failure::input(format!(
                "{} questions are left for users behind {} probes, but a user has {most} texts",
                others.len(),
                order.len()
            ))
            .help("give more questions, fewer `probes`, or smaller `texts`"));
        }
        Ok(Split { probes: order, others, rng })
    }

    /// The catalog of these probes, whose pLLMs answer a share of them in their style.
    ///
    /// # Errors
    /// As [`build`].
    pub fn catalog(&self, probes: &[usize], share: f64, settings: &Settings) -> Result<Catalog, Failure> {
        let styled = (share * probes.len() as f64).round() as usize;
        let member = |(name, all): (&String, &Matrix)| {
            let row = |(i, &p): (usize, &usize)| {
                if i < styled { all.row(p).to_vec() } else { vec![0.0; all.cols] }
            };
            let rows = Matrix::from_rows(&probes.iter().enumerate().map(row).collect::<Vec<_>>());
            let about = About { n: probes.len(), ..self.about.clone() };
            let artifact =
                ArtifactRef { id: Digest::of(b"simulated"), ty: ArtifactType::Divergence, private_to: None };
            let divergence = Divergence { about, rows, model: None, base: None, space: None };
            Member { name: name.clone(), divergence, artifact }
        };
        let members: Vec<Member> = self.names.iter().zip(&self.styles).map(member).collect();
        build(&members, &self.lexicon, &self.atoms, self.reference.as_ref(), settings)
    }

    /// A user's raw rows: `n` texts on different questions, of which each style has its share, and
    /// the others are plain. Shares of a text are rounded at random, so that they are right on
    /// average.
    pub fn user(&self, shares: &[(usize, f64)], n: usize, split: &mut Split) -> Matrix {
        let mut questions = split.others.clone();
        questions.shuffle(&mut split.rng);
        questions.truncate(n);
        let mut styles = Vec::new();
        for &(style, share) in shares {
            let exact = share * n as f64;
            let more = usize::from(split.rng.random::<f64>() < exact.fract());
            styles.extend(std::iter::repeat_n(Some(style), exact.floor() as usize + more));
        }
        styles.resize(n, None);
        let written = self.users.as_ref().unwrap_or(&self.styles);
        let row = |(&q, style): (&usize, &Option<usize>)| match (style, &self.plain) {
            (Some(s), _) => written[*s].row(q).to_vec(),
            (None, Some(plain)) => plain.row(q).to_vec(),
            (None, None) => vec![0.0; written[0].cols],
        };
        Matrix::from_rows(&questions.iter().zip(&styles).map(row).collect::<Vec<_>>())
    }
}
