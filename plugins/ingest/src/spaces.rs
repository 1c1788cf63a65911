//! Sources of spaces. The model lies in the artifact itself or is what it uses as `model`.

use headstart_protocol::artifacts::{Artifact, ModelFacts, Orders, SpaceFacts, SpaceKind};
use headstart_protocol::{Args, ArtifactRef, ArtifactType, Context, Failure, Output, Stage, Type, Value};

use crate::folder::ModelFolder;

/// `sentence`: a sentence encoder. Given as a folder, the encoder's files lie in the space itself;
/// given as a model, the space refers to it as `uses.model`.
pub struct Sentence;

impl Stage for Sentence {
    fn kind(&self) -> &'static str {
        "sentence"
    }

    fn run(&self, args: &Args, ctx: &dyn Context) -> Result<Output, Failure> {
        let output = space(SpaceKind::Sentence)?;
        if let Some(Value::Artifact(model)) = args.get("model") {
            let kind = model_type(ctx, model)?;
            check_encoder(kind.as_deref().unwrap_or("unknown"), "the model")?;
            return Ok(output.uses("model", model.clone()));
        }
        let path = ctx.path(args.text("model")?);
        let folder = ModelFolder::read(&path)?;
        check_encoder(&folder.model_type, &path.display().to_string())?;
        Ok(folder.files.into_iter().fold(output, |output, (name, at)| output.file(name, at)))
    }
}

fn check_encoder(model_type: &str, what: &str) -> Result<(), Failure> {
    if model_type == "bert" {
        return Ok(());
    }
    Err(Failure::input(format!(
        "{what} is of type {model_type}, but a sentence space needs an encoder of type bert"
    ))
    .help("for a causal language model there are the spaces pooled(model) and summarizer(model)"))
}

/// `summarizer`: the published method's space, from an instruction-tuned causal model.
pub struct Summarizer;

impl Stage for Summarizer {
    fn kind(&self) -> &'static str {
        "summarizer"
    }

    fn run(&self, args: &Args, ctx: &dyn Context) -> Result<Output, Failure> {
        let orders = match args.text_opt("orders") {
            Some("forth") => Orders::Forth,
            _ => Orders::Both,
        };
        causal(SpaceFacts { kind: SpaceKind::Summarizer, orders }, args, ctx)
    }
}

/// `pooled`: the mean hidden state of a causal model.
pub struct Pooled;

impl Stage for Pooled {
    fn kind(&self) -> &'static str {
        "pooled"
    }

    fn run(&self, args: &Args, ctx: &dyn Context) -> Result<Output, Failure> {
        causal(SpaceFacts::new(SpaceKind::Pooled), args, ctx)
    }
}

fn causal(facts: SpaceFacts, args: &Args, ctx: &dyn Context) -> Result<Output, Failure> {
    let model = args.artifact("model")?;
    if model_type(ctx, model)?.as_deref() == Some("bert") {
        return Err(Failure::input(format!(
            "a {} space needs a causal language model, not an encoder",
            facts.kind.name()
        ))
        .help("for an encoder of type bert there is the space sentence(model)"));
    }
    Ok(Output::of(Type::Space, &facts)?.uses("model", model.clone()))
}

fn space(kind: SpaceKind) -> Result<Output, Failure> {
    Ok(Output::of(Type::Space, &SpaceFacts::new(kind))?)
}

fn model_type(ctx: &dyn Context, model: &ArtifactRef) -> Result<Option<String>, Failure> {
    if model.ty != ArtifactType::Model {
        return Ok(None);
    }
    Ok(ModelFacts::of(&ctx.manifest(model)?)?.model_type)
}
