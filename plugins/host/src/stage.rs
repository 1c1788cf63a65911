//! A program's stage as a [`Stage`].

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use headstart_protocol::declared::{DeclaredStage, program_digest};
use headstart_protocol::{Args, Context, Digest, Failure, Output, Stage, Type};
use serde_json::Value as Json;

use crate::arguments::{self, Arguments};
use crate::message::{FromProgram, ToProgram};
use crate::output::{Claim, verified};
use crate::talk::{Around, Limits, Next, Talk};

/// A stage of a user's own program.
#[derive(Clone, Debug)]
pub struct ProgramStage {
    /// As the pipeline calls it: `tools.readability`.
    pub kind: String,
    /// The program.
    pub program: PathBuf,
    /// Further files that it is made of, relative to its folder.
    pub files: Vec<String>,
    /// Digest of the program and those files.
    pub digest: Digest,
    /// What it declares.
    pub declared: DeclaredStage,
    /// How long it may take for what it owes.
    pub limits: Limits,
}

/// Digest of a program and the files that it is made of, as they are now.
///
/// # Errors
/// If one of them cannot be read.
pub fn digest(program: &Path, files: &[String]) -> Result<Digest, Failure> {
    let of = |at: &Path| {
        let bytes = std::fs::read(at).map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound => Failure::input(format!("there is no program {}", at.display())),
            _ => Failure::io(at, &e),
        })?;
        Ok(Digest::of(&bytes))
    };
    let folder = program.parent().unwrap_or(Path::new(""));
    let parts = files.iter().map(|f| Ok((f.clone(), of(&folder.join(f))?)));
    let parts: BTreeMap<String, Digest> = parts.collect::<Result<_, Failure>>()?;
    Ok(program_digest(of(program)?, &parts))
}

impl Stage for ProgramStage {
    fn kind(&self) -> &str {
        &self.kind
    }

    fn run(&self, args: &Args, ctx: &dyn Context) -> Result<Output, Failure> {
        let program = std::path::absolute(&self.program).map_err(|e| Failure::io(&self.program, &e))?;
        if digest(&program, &self.files)? != self.digest {
            let m = format!("{} is not what it was when the run was planned", program.display());
            return Err(Failure::input(m).help("begin a new run"));
        }
        let arguments = Arguments::of(args, ctx)?;
        let scratch = ctx.scratch().canonicalize().map_err(|e| Failure::io(ctx.scratch(), &e))?;
        let around =
            Around { log: &|line| ctx.log(line), cancelled: &|| ctx.cancelled(), memory: ctx.memory() };
        let mut talk = Talk::start(&program, &scratch, around, self.limits)?;
        self.greet(&mut talk)?;
        talk.say(&ToProgram::Run {
            stage: &self.declared.name,
            args: arguments.json,
            scratch: arguments::text(&scratch)?,
            threads: ctx.threads(),
            memory: ctx.memory(),
        });
        let claim = listen(&mut talk, ctx)?;
        let status = talk.end()?;
        if !status.success() {
            return Err(talk.ended_badly(status, " after it said that it was done"));
        }
        let ty = Type::from_name(&self.declared.makes).unwrap_or(Type::Metrics);
        verified(&ty, claim, &scratch, &arguments.known).map_err(|m| talk.failure(m))
    }
}

impl ProgramStage {
    /// Exchanges hellos, and compares what the program says of the stage with its declaration.
    fn greet(&self, talk: &mut Talk<'_>) -> Result<(), Failure> {
        let FromProgram::Hello { stages, .. } = talk.hello()? else {
            return Err(talk.failure("did not say hello"));
        };
        let name = &self.declared.name;
        let help =
            format!("`headstart describe {}` brings the declaration up to date", self.program.display());
        let Some(said) = stages.iter().find(|s| s.name == *name) else {
            return Err(talk.failure(format!("declares a stage `{name}` that it does not have")).help(help));
        };
        match difference(&self.declared, said) {
            None => Ok(()),
            Some(what) => {
                let m = format!("says something else of `{name}` than its declaration: {what}");
                Err(talk.failure(m).help(help))
            }
        }
    }
}

/// Listens until the program is done.
fn listen(talk: &mut Talk<'_>, ctx: &dyn Context) -> Result<Claim, Failure> {
    loop {
        match talk.next(None)? {
            Some(Next::Message(FromProgram::Progress(progress))) => ctx.progress(progress),
            Some(Next::Message(FromProgram::Count { counter, n })) => ctx.count(&counter, n),
            Some(Next::Message(FromProgram::Done { files, value, uses })) => {
                return Ok(Claim { files, value, uses });
            }
            Some(Next::Message(FromProgram::Failed { message, help, class })) => {
                // Until it has ended, for the last lines that it wrote; that it failed stands.
                let _ = talk.end();
                let failure = talk.failure(format!("failed: {message}"));
                let failure = Failure { class: class.unwrap_or(failure.class), ..failure };
                return Err(Failure { help, ..failure });
            }
            Some(Next::Message(FromProgram::Hello { .. })) => {
                return Err(talk.failure("said hello a second time"));
            }
            Some(Next::Message(FromProgram::Log { .. } | FromProgram::Unknown)) | None => {}
            Some(Next::Ended(status)) => {
                return Err(talk.ended_badly(status, " without saying what it made"));
            }
        }
    }
}

/// The first thing in which two declarations of a stage differ.
fn difference(declared: &DeclaredStage, said: &DeclaredStage) -> Option<String> {
    let json = |s: &DeclaredStage| serde_json::to_value(s).unwrap_or_default();
    differs("", &json(declared), &json(said))
}

fn differs(at: &str, a: &Json, b: &Json) -> Option<String> {
    let below = |key: &str| if at.is_empty() { key.to_owned() } else { format!("{at}.{key}") };
    match (a, b) {
        (a, b) if a == b => None,
        (Json::Object(a), Json::Object(b)) => {
            let keys: std::collections::BTreeSet<&String> = a.keys().chain(b.keys()).collect();
            let get = |m: &serde_json::Map<String, Json>, k: &str| m.get(k).cloned().unwrap_or(Json::Null);
            keys.into_iter().find_map(|k| differs(&below(k), &get(a, k), &get(b, k)))
        }
        (Json::Array(x), Json::Array(y)) if x.len() == y.len() => {
            let name = |n: usize, v: &Json| v["name"].as_str().map_or(format!("{}", n + 1), str::to_owned);
            (0..x.len()).find_map(|n| differs(&below(&name(n, &x[n])), &x[n], &y[n]))
        }
        (a, b) => Some(format!("`{at}` is declared as {a}, and the program says {b}")),
    }
}
