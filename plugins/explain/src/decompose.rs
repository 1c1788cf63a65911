//! Stage kind `decompose`: divergences in words, and the catalog.

use std::collections::BTreeMap;
use std::sync::Arc;

use headstart_kit::read_questions;
use headstart_lm::Backend;
use headstart_protocol::artifacts::{Artifact, Candidate, Pllm};
use headstart_protocol::{Args, ArtifactRef, ArtifactType, Context, Failure, Output, Stage, Type};
use rayon::prelude::*;

use crate::atoms::Atoms;
use crate::catalog::{
    ABOUT_FILE, About, AtomAbout, Catalog, FORMAT, Halves, PLLMS_FILE, PllmAbout, TENSORS_FILE,
};
use crate::chance::Chance;
use crate::divergence::Divergence;
use crate::lens::Lens;
use crate::lexicon::Lexicon;
use crate::math::{Matrix, dot, norm};
use crate::metric::{Metric, unwhitener, whitened_mean};
use crate::pace::Pace;
use crate::space::Space;
use crate::stylometry::FEATURES;
use crate::words::{Explainer, Method, paper_basis, round, significant};
use headstart_stats::derived_seed;

/// Decomposes divergences and publishes the catalog.
pub struct Decompose {
    pub(crate) backend: Arc<dyn Backend>,
}

/// A pLLM to be explained.
pub struct Member {
    /// Its name.
    pub name: String,
    /// Its divergence.
    pub divergence: Divergence,
    /// The divergence's artifact.
    pub artifact: ArtifactRef,
}

impl Stage for Decompose {
    fn kind(&self) -> &'static str {
        "decompose"
    }

    fn run(&self, args: &Args, ctx: &dyn Context) -> Result<Output, Failure> {
        let members = members(args, ctx)?;
        let space_ref = space_of(args, &members)?;
        let reference = match args.artifact_opt("reference") {
            Some(r) => {
                let reference = Divergence::open(ctx, r, "`reference`")?;
                members[0].divergence.same_space(&reference.about, "`reference` and the pLLMs")?;
                Some(reference.rows)
            }
            None => None,
        };
        let mut lexicon = Lexicon::built_in();
        if let Some(words) = args.artifact_opt("words") {
            lexicon.extend(&read_questions(ctx, words, "words")?)?;
        }
        let mut space = Space::open(ctx, &*self.backend, &space_ref)?;
        let atoms = lexicon.atoms(&mut space)?;
        let settings = Settings {
            method: Method::named(args.text("method")?)?,
            max_words: args.positive("max_words")?,
            seed: args.int("seed")?.cast_unsigned(),
            centre: args.bool("centre")?,
            whiten: args.bool("whiten")?,
        };
        let mut catalog = build(&members, &lexicon, &atoms, reference.as_ref(), &settings)?;
        catalog.about.pace = pace(&members, ctx)?;
        catalog.write(ctx.disk(), ctx.scratch())?;
        let mut output = Output::of(Type::Catalog, &catalog.summary()?)?.uses("space", space_ref);
        for name in [ABOUT_FILE, PLLMS_FILE, TENSORS_FILE] {
            output = output.file(name, ctx.scratch().join(name));
        }
        for member in &members {
            if let Some(model) = &member.divergence.model {
                output = output.uses(format!("pllm:{}", member.name), model.clone());
            }
        }
        match members.iter().find_map(|m| m.divergence.base.clone()) {
            Some(base) => Ok(output.uses("base", base)),
            None => Ok(output),
        }
    }
}

fn members(args: &Args, ctx: &dyn Context) -> Result<Vec<Member>, Failure> {
    let listed = args.artifacts("divergences")?;
    if listed.is_empty() {
        return Err(Failure::input("`divergences` is empty: there is nothing to decompose"));
    }
    let mut members: Vec<Member> = Vec::new();
    for (name, artifact) in listed {
        let what = format!("divergence {name:?}");
        let divergence = Divergence::open(ctx, artifact, &what)?;
        if let Some(first) = members.first() {
            first.divergence.same_space(&divergence.about, &format!("{:?} and {name:?}", first.name))?;
            if let (Some(a), Some(b)) = (&first.divergence.base, &divergence.base)
                && a.id != b.id
            {
                return Err(Failure::input(format!(
                    "{:?} and {name:?} were compared with different bases, {} and {}",
                    first.name,
                    a.id.short(),
                    b.id.short()
                ))
                .help("a catalog holds pLLMs of one base"));
            }
        }
        members.push(Member { name: name.to_owned(), divergence, artifact: artifact.clone() });
    }
    Ok(members)
}

/// How fast the members were trained, as far as they know.
fn pace(members: &[Member], ctx: &dyn Context) -> Result<Option<Pace>, Failure> {
    let pllms = members.iter().filter_map(|m| m.divergence.model.as_ref());
    let pllms = pllms.filter(|m| m.ty == ArtifactType::Pllm);
    let facts: Vec<Pllm> = pllms.map(|m| Ok(Pllm::of(&ctx.manifest(m)?)?)).collect::<Result<_, Failure>>()?;
    Ok(Pace::of(&facts))
}

fn space_of(args: &Args, members: &[Member]) -> Result<ArtifactRef, Failure> {
    let given = args.artifact_opt("space").cloned();
    if let (Some(named), Some(given)) = (&members[0].divergence.space, &given)
        && named.id != given.id
    {
        return Err(Failure::input(format!(
            "argument `space` is {}, but the divergences were made in {}",
            given.id.short(),
            named.id.short()
        ))
        .help("leave `space` out: these divergences name theirs"));
    }
    let space = members[0].divergence.space.clone().or(given).ok_or_else(|| {
        Failure::input("the divergences do not name their space").help("give it as the argument `space`")
    })?;
    let expected = members[0].divergence.about.space;
    if space.id != expected {
        let why = format!("space {} is not that of the divergences, {}", space.id.short(), expected.short());
        return Err(Failure::input(why));
    }
    Ok(space)
}

/// How a catalog is built.
pub struct Settings {
    /// How coefficients are found.
    pub method: Method,
    /// Words of a pLLM at most.
    pub max_words: usize,
    /// Seed of the bootstrap.
    pub seed: u64,
    /// Whether the pLLMs' mean is taken off before words are looked for.
    pub centre: bool,
    /// Whether the metric is whitened.
    pub whiten: bool,
}

impl Default for Settings {
    /// The method whole, as the stage has it.
    fn default() -> Self {
        Self { method: Method::Sparse, max_words: 5, seed: 0, centre: true, whiten: true }
    }
}

fn words_with_variances(lexicon: &Lexicon, variances: &[f64]) -> Vec<AtomAbout> {
    let mut words = words_about(lexicon);
    words.iter_mut().zip(variances).for_each(|(w, v)| w.variance = significant(*v));
    words
}

/// Rows without their mean, whitened.
fn whitened_rows(metric: &Metric, rows: &Matrix) -> Matrix {
    let mean = rows.mean();
    let centred = |row: &[f64]| metric.apply(&row.iter().zip(&mean).map(|(x, m)| x - m).collect::<Vec<_>>());
    Matrix::from_rows(&rows.iter().map(centred).collect::<Vec<_>>())
}

/// A pLLM in words, and its coefficients of all words. `own` is its mean without what all pLLMs have in
/// common, `vector` its vector in the catalog.
fn explain(
    member: &Member,
    own: &[f64],
    vector: &[f64],
    lens: &Lens,
    explainer: &Explainer<'_>,
    seed: u64,
) -> (PllmAbout, Vec<f64>) {
    let products = explainer.products(&member.divergence.rows, lens);
    let (explained, dense) = explainer.explain(&lens.see(own), &products, derived_seed(seed, &member.name));
    let about = PllmAbout {
        name: member.name.clone(),
        pllm: member.divergence.model.as_ref().map(|p| p.id),
        divergence: member.artifact.id,
        n: member.divergence.rows.rows,
        strength: round(norm(vector)),
        explained: explained.explained,
        words: explained.words,
    };
    (about, dense)
}

/// Builds a catalog. `atoms` are the lexicon's; `reference` is how people's plain texts differ from the
/// base's answers, a row a text, if that is known.
///
/// # Errors
/// If a pLLM has no rows.
pub fn build(
    members: &[Member],
    lexicon: &Lexicon,
    atoms: &Atoms,
    reference: Option<&Matrix>,
    settings: &Settings,
) -> Result<Catalog, Failure> {
    if let Some(m) = members.iter().find(|m| m.divergence.rows.rows == 0) {
        return Err(Failure::input(format!("divergence {:?} has no rows", m.name)));
    }
    let about = &members[0].divergence.about;
    let (d, raw) = (about.d, about.d + about.k);
    let means: Vec<Vec<f64>> = members.iter().map(|m| m.divergence.rows.mean()).collect();
    let means = Matrix::from_rows(&means);
    let Distances { metric, vectors, noise, offset, chance } =
        distances(members, &means, reference, settings);
    let lens = match settings.method {
        Method::Paper => Lens::paper(d, about.k),
        _ => Lens::fit(atoms, d, &units(&about.features)),
    };
    let common = settings.centre && settings.method != Method::Paper && members.len() > 2;
    let centre = if common { means.mean() } else { vec![0.0; raw] };
    let words = words_with_variances(lexicon, &lens.atom_variances(atoms));
    let (atoms, words) = seen_atoms(&atoms.words, &lens, &means, members, words, settings.method);
    let names: Vec<(String, String)> = words.iter().map(|w| (w.word.clone(), w.dimension.clone())).collect();
    let variances = words.iter().map(|w| w.variance).collect();
    let explainer = Explainer::new(&names, &atoms, settings.method, settings.max_words);
    let explainer = explainer.with_variances(variances);
    let explained = members.par_iter().enumerate().map(|(i, m)| {
        let own: Vec<f64> = means.row(i).iter().zip(&centre).map(|(x, c)| x - c).collect();
        explain(m, &own, vectors.row(i), &lens, &explainer, settings.seed)
    });
    let (pllms, coefficients): (Vec<PllmAbout>, Vec<Vec<f64>>) = explained.unzip();
    let lengths = lengths(&metric.factor, &means, d);
    let about = About {
        format: FORMAT,
        space: about.space,
        kind: about.kind,
        d,
        features: about.features.clone(),
        method: settings.method,
        max_words: settings.max_words,
        lexicon: lexicon.id(),
        shrinkage: metric.shrinkage.map(round),
        words,
        candidates: candidates(members),
        pace: None,
        chance,
    };
    let vectors = Halves::of(&vectors);
    Ok(Catalog {
        about,
        pllms: pllms.into(),
        factor: metric.factor,
        lens,
        atoms,
        centre,
        reference: offset,
        squares: vectors.squares(),
        vectors,
        coefficients: Halves::of(&Matrix::from_rows(&coefficients)),
        lengths,
        noise: noise.into_iter().map(|x| x as f32).collect(),
    })
}

/// What distances between pLLMs and users are computed with.
struct Distances {
    metric: Metric,
    /// A whitened vector a pLLM.
    vectors: Matrix,
    /// The part of each vector's square that is chance.
    noise: Vec<f64>,
    /// What is taken off users' vectors.
    offset: Vec<f64>,
    chance: Option<Chance>,
}

fn distances(
    members: &[Member],
    means: &Matrix,
    reference: Option<&Matrix>,
    settings: &Settings,
) -> Distances {
    let metric = metric(members, reference, means, settings.method, settings.whiten);
    let (vectors, noise): (Vec<Vec<f64>>, Vec<f64>) =
        members.par_iter().map(|m| whitened_mean(&metric, &m.divergence.rows)).unzip();
    let vectors = Matrix::from_rows(&vectors);
    let offset = reference.map_or(vec![0.0; means.cols], |rows| people_mean(&metric, rows));
    let seed = derived_seed(settings.seed, "chance");
    let chance =
        reference.and_then(|rows| Chance::fit(&whitened_rows(&metric, rows), &vectors, &noise, seed));
    Distances { metric, vectors, noise, offset, chance }
}

/// How people's plain texts differ from the base's answers on average, shrunk as far as so few texts leave
/// it to chance (James & Stein, Estimation with quadratic loss, 1961). The mean of fifty texts can be a third
/// chance, and that part would draw all users towards the same pLLMs.
fn people_mean(metric: &Metric, rows: &Matrix) -> Vec<f64> {
    let (mean, noise) = whitened_mean(metric, rows);
    let square = dot(&mean, &mean);
    let kept = if square > 0.0 { (1.0 - noise / square).max(0.0) } else { 0.0 };
    rows.mean().iter().map(|x| kept * x).collect()
}

fn metric(
    members: &[Member],
    people: Option<&Matrix>,
    means: &Matrix,
    method: Method,
    whiten: bool,
) -> Metric {
    let about = &members[0].divergence.about;
    let groups: Vec<&Matrix> = members.iter().map(|m| &m.divergence.rows).collect();
    let metric = match (method, whiten) {
        (Method::Paper, _) => Metric::plain(means, about.d),
        (_, true) => Metric::fit(&groups, people, about.d, &units(&about.features)),
        (_, false) => Metric::unwhitened(&groups, about.d, &units(&about.features)),
    };
    metric.within(means)
}

/// Lengths of the encoder's raw vectors, over the directions that the metric keeps.
fn lengths(factor: &Matrix, means: &Matrix, d: usize) -> Vec<f32> {
    let unwhitener = unwhitener(factor);
    let length = |m: &[f64]| {
        let mut own = m.to_vec();
        own[d..].fill(0.0);
        dot(&unwhitener.times(&own), &factor.times(&own)).max(0.0).sqrt() as f32
    };
    means.iter().map(length).collect()
}

fn units(features: &[String]) -> Vec<f64> {
    let unit = |name: &String| FEATURES.iter().find(|f| f.name == name).map_or(1.0, |f| f.unit);
    features.iter().map(unit).collect()
}

/// What a catalog says of the lexicon's words.
pub fn words_about(lexicon: &Lexicon) -> Vec<AtomAbout> {
    let about = |w: &crate::lexicon::Word| AtomAbout {
        word: w.word.clone(),
        dimension: w.dimension.clone(),
        pole: w.pole,
        adverb: w.adverb.clone(),
        variance: 0.0,
    };
    lexicon.words.iter().map(about).collect()
}

/// The atoms, as the lens shows them. The published method keeps only its basis, at unit length.
fn seen_atoms(
    atoms: &Matrix,
    lens: &Lens,
    means: &Matrix,
    members: &[Member],
    words: Vec<AtomAbout>,
    method: Method,
) -> (Matrix, Vec<AtomAbout>) {
    let atoms = lens.see_all(atoms);
    if method != Method::Paper {
        return (atoms, words);
    }
    let place = |c: &Candidate| words.iter().position(|w| w.word == c.word);
    let said = |m: &Member| m.divergence.about.candidates.iter().filter_map(place).collect();
    let candidates: Vec<Vec<usize>> = members.iter().map(said).collect();
    let basis = paper_basis(&lens.see_all(means), &atoms, &candidates);
    let unit = |&j: &usize| {
        let length = norm(atoms.row(j)).max(1e-12);
        atoms.row(j).iter().map(|x| x / length).collect()
    };
    let rows: Vec<Vec<f64>> = basis.iter().map(unit).collect();
    (Matrix::from_rows(&rows), basis.iter().map(|&j| words[j].clone()).collect())
}

/// Candidate words of all pLLMs, by mean probability.
fn candidates(members: &[Member]) -> Vec<Candidate> {
    let mut sums: BTreeMap<&str, f64> = BTreeMap::new();
    for c in members.iter().flat_map(|m| &m.divergence.about.candidates) {
        *sums.entry(&c.word).or_default() += c.probability / members.len() as f64;
    }
    let mut all: Vec<Candidate> =
        sums.into_iter().map(|(w, p)| Candidate { word: w.to_owned(), probability: round(p) }).collect();
    all.sort_by(|a, b| b.probability.total_cmp(&a.probability).then_with(|| a.word.cmp(&b.word)));
    all.truncate(100);
    all
}
