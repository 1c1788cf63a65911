//! The stage that measures a model on rows.

use std::sync::Arc;

use headstart_disk::files;
use headstart_kit::{ContextWatch, count_rows, different, open_model, read_rows};
use headstart_lm::{Backend, Decoder, GenerateOptions, RowScore, Watch};
use headstart_protocol::artifacts::{Artifact, Metrics};
use headstart_protocol::release::{ANSWERED_ROWS, SCORED_ROWS};
use headstart_protocol::rows::Row;
use headstart_protocol::text::counted;
use headstart_protocol::{Args, ArtifactRef, Context, Failure, Output, Stage, Type};
use serde_json::{Value, json};

use crate::bleu;
use crate::rouge::Rouge;
use headstart_stats::bootstrap_ratio;

/// Name of the file that holds sample answers.
pub const SAMPLES_FILE: &str = "samples.jsonl";
const RESAMPLES: usize = 1000;
const SEED: u64 = 0;

/// The stage kind `evaluate`.
///
/// The value is a flat object of numbers:
///
/// | key | meaning |
/// | --- | --- |
/// | `loss` | negative log-likelihood of the responses, nats a token |
/// | `loss_low`, `loss_high` | its 95% bootstrap interval over rows; absent of a single row |
/// | `perplexity` | `exp(loss)`; compares models of one tokenizer |
/// | `bits_per_byte` | the same likelihood in bits a byte of response; compares any models |
/// | `rows`, `tokens` | what was scored; a row whose prompt fills the context is not |
/// | `bleu` | of the answers as a corpus, 0 to 100 |
/// | `rouge1`, `rouge2`, `rougeL` | mean F over the answers, 0 to 1 |
/// | `answers` | rows that were answered; without any the four above are absent |
///
/// The answers themselves are in [`SAMPLES_FILE`], as `{"prompt", "reference", "answer"}`: for
/// people, where the rows may be seen.
pub struct Evaluate {
    backend: Arc<dyn Backend>,
}

impl Evaluate {
    /// The stage on a backend.
    pub fn new(backend: Arc<dyn Backend>) -> Self {
        Self { backend }
    }
}

impl Stage for Evaluate {
    fn kind(&self) -> &'static str {
        "evaluate"
    }

    fn run(&self, args: &Args, ctx: &dyn Context) -> Result<Output, Failure> {
        let rows = answered(ctx, args.artifact("data")?)?;
        let folders = open_model(ctx, args.artifact("model")?)?;
        let watch = ContextWatch::new(ctx);
        let mut model =
            self.backend.decoder_within(&folders.model, folders.adapter.as_deref(), ctx.memory())?;
        let context = model.info().context;
        let scores = model.score(&rows, context, &watch)?;
        // A row whose prompt fills the context has no token that is scored.
        let scored = || rows.iter().zip(&scores).filter(|(_, s)| s.tokens > 0).map(|(row, _)| row);
        count_rows(ctx, SCORED_ROWS, || different(scored()));
        let unscored = rows.len() - scored().count();
        if unscored > 0 {
            ctx.log(&format!(
                "warning: {unscored} of {} rows are not scored: their prompts fill the model's context of {context} tokens",
                rows.len()
            ));
        }
        let mut value = likelihood(&scores)?;
        let references = model.references(&rows)?;
        let left_out = rows.iter().zip(&references).filter(|(row, kept)| row.response.trim() != kept.trim());
        let left_out = left_out.count();
        if left_out > 0 {
            ctx.log(&format!(
                "warning: the chat template leaves parts of {} out; what is left of them is scored, and what answers \
                 are compared with",
                counted(left_out, "answer")
            ));
        }
        let answers = args.count("answers")?.min(rows.len());
        let mut output = Output::new(Type::Metrics, Value::Null);
        if answers > 0 {
            let rows = &rows[..answers];
            count_rows(ctx, ANSWERED_ROWS, || different(rows));
            let samples = answer(model.as_mut(), rows, args.positive("max_tokens")?, &watch)?;
            likeness(&references[..answers], &samples, &mut value);
            let path = ctx.scratch().join(SAMPLES_FILE);
            files::write(ctx.disk(), &path, samples_jsonl(rows, &references, &samples).as_bytes())?;
            output = output.file(SAMPLES_FILE, path);
        }
        output.value = value.json()?;
        Ok(output)
    }
}

/// The rows that have a response.
fn answered(ctx: &dyn Context, data: &ArtifactRef) -> Result<Vec<Row>, Failure> {
    let mut rows = read_rows(ctx, data, "data")?;
    let all = rows.len();
    rows.retain(|r| !r.response.trim().is_empty());
    if rows.is_empty() {
        let why = if all == 0 {
            "the data holds no row".to_owned()
        } else {
            format!("none of the data's {all} rows has a response")
        };
        return Err(Failure::input(why).help("a model is measured on rows with a prompt and a response"));
    }
    Ok(rows)
}

fn likelihood(scores: &[RowScore]) -> Result<Metrics, Failure> {
    let scores: Vec<&RowScore> = scores.iter().filter(|s| s.tokens > 0).collect();
    let nll: f64 = scores.iter().map(|s| s.nll).sum();
    let tokens: usize = scores.iter().map(|s| s.tokens).sum();
    let bytes: usize = scores.iter().map(|s| s.bytes).sum();
    let loss = nll / tokens as f64;
    if !loss.is_finite() {
        return Err(Failure::input(format!(
            "the loss over {tokens} response tokens is {loss}: the model's weights are broken, or every \
             prompt fills the model's context"
        )));
    }
    let mut value = Metrics::default();
    value.put("loss", loss);
    let rows: Vec<_> = scores.iter().map(|s| (s.nll, s.tokens as f64)).collect();
    if let Some((low, high)) = bootstrap_ratio(&rows, RESAMPLES, SEED) {
        value.put("loss_low", low);
        value.put("loss_high", high);
    }
    // JSON has no infinity; a loss above 700 has no perplexity worth a name.
    if loss < 700.0 {
        value.put("perplexity", loss.exp());
    }
    if bytes > 0 {
        value.put("bits_per_byte", nll / bytes as f64 / std::f64::consts::LN_2);
    }
    value.put("rows", scores.len());
    value.put("tokens", tokens);
    Ok(value)
}

fn answer(
    model: &mut dyn Decoder,
    rows: &[Row],
    max_tokens: usize,
    watch: &dyn Watch,
) -> Result<Vec<String>, Failure> {
    let options = GenerateOptions { max_tokens, temperature: 0.0, seed: SEED };
    Ok(model.answer(rows, &options, watch)?)
}

fn likeness(references: &[String], answers: &[String], value: &mut Metrics) {
    let pairs = || answers.iter().map(String::as_str).zip(references.iter().map(|r| r.trim()));
    let rouge = Rouge::mean(pairs());
    value.put("answers", answers.len());
    value.put("bleu", bleu::corpus(pairs()));
    value.put("rouge1", rouge.rouge1);
    value.put("rouge2", rouge.rouge2);
    value.put("rougeL", rouge.rouge_l);
}

fn samples_jsonl(rows: &[Row], references: &[String], answers: &[String]) -> String {
    let line = |((row, reference), answer): ((&Row, &String), &String)| {
        format!("{}\n", json!({"prompt": row.prompt, "reference": reference, "answer": answer}))
    };
    rows.iter().zip(references).zip(answers).map(line).collect()
}
