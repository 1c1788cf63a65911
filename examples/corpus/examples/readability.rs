//! How readable the demonstration model's answers are, and how many steps a head start saves: over
//! every style of the catalog, and over every style held back, as users.
//!
//! `cargo run -p headstart-corpus --example readability -- MODEL CATALOG [TARGET]`
//!
//! Answers are judged by the rule in `headstart_corpus::readable`, on wordings of questions that no
//! training has seen. A user starts from the pLLM that gives the texts the highest likelihood; 40 of
//! 54 texts are trained on and 14 held back, as in the demo. With TARGET, users are fine-tuned until
//! their held-back loss is below it, with and without the head start.

use std::collections::BTreeMap;
use std::error::Error;
use std::path::{Path, PathBuf};

use headstart_corpus::facts::{Topic, topics};
use headstart_corpus::files;
use headstart_corpus::readable::Judge;
use headstart_corpus::style::Style;
use headstart_lm::{Decoder, GenerateOptions, LoraSpec, Unwatched};
use headstart_protocol::expr::{CompareOp, Condition};
use headstart_protocol::rows::Row;
use headstart_train::{Method, TrainReport, TrainSpec, TrainingBackend, default_backend};

type Anything<T> = Result<T, Box<dyn Error>>;

const SEED: u64 = 7;
const HELD_BACK: usize = 14;

struct Study {
    backend: std::sync::Arc<dyn TrainingBackend>,
    model: PathBuf,
    topics: Vec<Topic>,
    judge: Judge,
    show: bool,
}

/// Shares of answers.
#[derive(Default, Clone, Copy)]
struct Shares {
    readable: f64,
    in_style: f64,
}

impl Study {
    fn decoder(&self, adapter: Option<&Path>) -> Anything<Box<dyn Decoder>> {
        Ok(self.backend.decoder(&self.model, adapter)?)
    }

    fn answers(&self, model: &mut dyn Decoder, style: Option<Style>, prompts: &[String]) -> Anything<Shares> {
        let options = GenerateOptions { max_tokens: 128, temperature: 0.0, seed: 0 };
        let answers = model.generate(prompts, &options, &Unwatched)?;
        let mut shares = Shares::default();
        for (prompt, answer) in prompts.iter().zip(&answers) {
            let verdict = self.judge.judge(self.topic(prompt), style, answer);
            shares.readable += f64::from(u8::from(verdict.readable)) / prompts.len() as f64;
            shares.in_style += f64::from(u8::from(verdict.in_style)) / prompts.len() as f64;
            if self.show && !verdict.in_style {
                println!("    {prompt}\n      {answer}\n      odd: {:?}", verdict.odd);
            }
        }
        Ok(shares)
    }

    /// The topic that a prompt names: the longest name in it.
    fn topic(&self, prompt: &str) -> &Topic {
        let named = self.topics.iter().filter(|t| prompt.contains(t.name));
        named.max_by_key(|t| t.name.len()).expect("prompts of the corpus name a topic")
    }

    fn loss(&self, model: &dyn Decoder, rows: &[Row]) -> Anything<f64> {
        let scores = model.score(rows, 512, &Unwatched)?;
        Ok(scores.iter().map(|s| s.nll).sum::<f64>() / scores.iter().map(|s| s.tokens).sum::<usize>() as f64)
    }

    fn train(
        &self,
        from: Option<&Path>,
        (data, eval): (&[Row], &[Row]),
        target: f64,
        out: &Path,
    ) -> Anything<TrainReport> {
        let targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"];
        let spec = TrainSpec {
            model: self.model.clone(),
            adapter: from.map(Path::to_owned),
            method: Method::Lora(LoraSpec {
                rank: 8,
                alpha: 16.0,
                targets: targets.map(str::to_owned).to_vec(),
                rslora: false,
            }),
            data: data.to_vec(),
            eval: eval.to_vec(),
            until: Some(Condition { metric: "loss".into(), op: CompareOp::Lt, bound: target }),
            patience: None,
            learning_rate: 0.002,
            weight_decay: None,
            clip: Some(1.0),
            dropout: 0.0,
            batch: 8,
            max_steps: 300,
            warmup: 10,
            cosine: true,
            eval_every: 4,
            max_tokens: 512,
            seed: 0,
            memory: None,
            resume: None,
            out: out.to_owned(),
            disk: std::sync::Arc::new(headstart_disk::SystemDisk),
        };
        Ok(self.backend.train(&spec, &Unwatched)?)
    }
}

fn user_rows(files: &[(PathBuf, Vec<files::Row>)], style: Style) -> Vec<Row> {
    let folder = if style.in_catalog() { "catalog" } else { "held-back" };
    let name = PathBuf::from(format!("users/{folder}/{}.jsonl", style.name()));
    let (_, rows) = files.iter().find(|(p, _)| *p == name).expect("every style has a user");
    rows.iter().map(|r| Row::new(&r.prompt, &r.response)).collect()
}

fn percent(x: f64) -> String {
    format!("{:3.0} %", 100.0 * x)
}

fn main() -> Anything<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [model, catalog, rest @ ..] = args.as_slice() else {
        return Err("usage: readability MODEL CATALOG [TARGET] [--show]".into());
    };
    let study = Study {
        backend: default_backend(),
        model: model.into(),
        topics: topics(),
        judge: Judge::default(),
        show: rest.iter().any(|a| a == "--show"),
    };
    let target: Option<f64> = rest.iter().find(|a| *a != "--show").map(|t| t.parse()).transpose()?;
    let files = files::all(SEED);

    println!(
        "answers to questions in unseen wordings     readable  in style   loss on the style's users, base's"
    );
    let plain: Vec<String> =
        user_rows(&files, Style::all().next().expect("a style")).into_iter().map(|r| r.prompt).collect();
    let mut base = study.decoder(None)?;
    let shares = study.answers(base.as_mut(), None, &plain)?;
    println!(
        "{:42}  {}     {}",
        "base, as a default answer",
        percent(shares.readable),
        percent(shares.in_style)
    );
    let mut pllms = BTreeMap::new();
    for style in Style::all() {
        let folder = Path::new(catalog).join(style.name());
        if folder.is_dir() {
            pllms.insert(style.name(), (style, folder));
        }
    }
    let mut all = Vec::new();
    for (name, (style, folder)) in &pllms {
        let mut model = study.decoder(Some(folder))?;
        let rows = user_rows(&files, *style);
        let prompts: Vec<String> = rows.iter().map(|r| r.prompt.clone()).collect();
        let shares = study.answers(model.as_mut(), Some(*style), &prompts)?;
        let (own, plain) = (study.loss(model.as_ref(), &rows)?, study.loss(base.as_ref(), &rows)?);
        println!(
            "{name:42}  {}     {}    {own:.3}  {plain:.3}",
            percent(shares.readable),
            percent(shares.in_style)
        );
        all.push(shares);
    }
    let mean = |f: fn(&Shares) -> f64| all.iter().map(f).sum::<f64>() / all.len() as f64;
    println!(
        "{:42}  {}     {}",
        "all of the catalog",
        percent(mean(|s| s.readable)),
        percent(mean(|s| s.in_style))
    );
    match target {
        Some(target) => users(&study, &files, &pllms, target),
        None => Ok(()),
    }
}

fn users(
    study: &Study,
    files: &[(PathBuf, Vec<files::Row>)],
    pllms: &BTreeMap<String, (Style, PathBuf)>,
    target: f64,
) -> Anything<()> {
    let out = std::env::temp_dir().join(format!("headstart-readability-{}", std::process::id()));
    println!(
        "\nusers of held-back styles, until {target}     starts from                       loss: base, pLLM   steps with, without   readable, in style: with, without"
    );
    for style in Style::all().filter(|s| !s.in_catalog()) {
        let rows = user_rows(files, style);
        let (data, eval) = rows.split_at(rows.len() - HELD_BACK);
        let mut losses = Vec::new();
        for (name, (_, folder)) in pllms {
            losses.push((study.loss(study.decoder(Some(folder))?.as_ref(), data)?, name, folder));
        }
        let best = losses.into_iter().min_by(|a, b| a.0.total_cmp(&b.0)).ok_or("the catalog is empty")?;
        let base = study.loss(study.decoder(None)?.as_ref(), data)?;
        let prompts: Vec<String> = eval.iter().map(|r| r.prompt.clone()).collect();
        let mut line = format!("{:42}  {:32} {base:.3} {:.3}", style.name(), best.1, best.0);
        for from in [Some(best.2.as_path()), None] {
            let to = out.join(if from.is_some() { "with" } else { "without" });
            let report = study.train(from, (data, eval), target, &to)?;
            let shares = study.answers(study.decoder(Some(&to))?.as_mut(), Some(style), &prompts)?;
            let steps =
                if report.reached { report.steps.to_string() } else { format!("({:.3})", report.loss) };
            line += &format!("   {steps:>7} {} {}", percent(shares.readable), percent(shares.in_style));
            std::fs::remove_dir_all(&to)?;
        }
        println!("{line}");
    }
    Ok(())
}
