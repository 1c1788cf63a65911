//! A custom stage as a [`Stage`].

use std::path::{Path, PathBuf};

use headstart_disk::{Disk, files};
use headstart_protocol::declared::DeclaredStage;
use headstart_protocol::release::{Number, RowBound};
use headstart_protocol::{Args, Context, Digest, Failure, FailureClass, Output, Stage, Type};
use serde_json::Value as Json;

use crate::arguments::{self, Arguments};
use crate::confine::Confinement;
use crate::folder::{Copied, Folder};
use crate::message::{FromProgram, ToProgram};
use crate::output::{Claim, Folders, Refused, verified};
use crate::process::Launch;
use crate::session::{Around, Limits, Next, Session};

/// A custom stage: one of a user's program.
#[derive(Clone, Debug)]
pub struct CustomStage {
    /// As the pipeline calls it: `tools.readability`.
    pub kind: String,
    /// The program.
    pub program: PathBuf,
    /// What its declaration names outside the program's folder.
    pub files: Vec<String>,
    /// Digest of all that the program is made of.
    pub digest: Digest,
    /// What it declares.
    pub declared: DeclaredStage,
    /// How long it may take for what it owes.
    pub limits: Limits,
}

impl Stage for CustomStage {
    fn kind(&self) -> &str {
        &self.kind
    }

    fn metrics(&self) -> Vec<Number> {
        self.declared.numbers()
    }

    fn rows(&self) -> Vec<RowBound> {
        self.declared.row_bounds()
    }

    fn run(&self, args: &Args, ctx: &dyn Context) -> Result<Output, Failure> {
        let shown = std::path::absolute(&self.program).map_err(|e| Failure::io(&self.program, &e))?;
        let scratch = ctx.scratch().canonicalize().map_err(|e| Failure::io(ctx.scratch(), &e))?;
        // Beside each other, so that the program begins in an empty folder.
        let (copy, work) = (scratch.join("program"), scratch.join("work"));
        for folder in [&copy, &work] {
            files::create_dir(ctx.disk(), folder)?;
        }
        let copied = self.copy(ctx.disk(), &copy)?;
        let arguments = Arguments::of(args, ctx)?;
        let around =
            Around { log: &|line| ctx.log(line), cancelled: &|| ctx.cancelled(), memory: ctx.memory() };
        let read = arguments.opened.iter().chain([&copy]).cloned().collect();
        let confinement = Confinement { read, write: vec![work.clone()] };
        let launch = Launch {
            program: &copied.program,
            shown: &shown,
            copy: Some(&copy),
            work: &work,
            confinement: self.limits.confined.then_some(&confinement),
        };
        let mut session = Session::start(&launch, around, self.limits)?;
        self.greet(&mut session)?;
        session.send(&ToProgram::Run {
            stage: &self.declared.name,
            args: arguments.json,
            scratch: arguments::text(&work)?,
            threads: ctx.threads(),
            memory: ctx.memory(),
        });
        let claim = listen(&mut session, ctx)?;
        let status = session.end()?;
        if !status.success() {
            return Err(session.ended_badly(status, " after it said that it was done"));
        }
        let ty = Type::from_name(&self.declared.makes).unwrap_or(Type::Metrics);
        let names: Vec<String> = self.declared.metrics.iter().map(|m| m.name().to_owned()).collect();
        // Nothing of the program runs any more, and it could never write there.
        let folders = Folders { disk: ctx.disk(), work: &work, output: &scratch.join("output") };
        let output =
            verified(&ty, claim, &folders, &arguments.known, &names).map_err(|refused| match refused {
                Refused::Claim(m) => session.failure(m),
                Refused::Disk(e) => e.into(),
            })?;
        // Its room is given back now, not when the attempt is over; what stays is removed then.
        let _ = ctx.disk().remove_dir_all(&work);
        Ok(output)
    }
}

impl CustomStage {
    /// Copies the program, if it is still the one that was planned or allowed.
    fn copy(&self, disk: &dyn Disk, to: &Path) -> Result<Copied, Failure> {
        let copied = Folder::open(&self.program, &self.files)?.copy(disk, to)?;
        if copied.digest == self.digest {
            return Ok(copied);
        }
        let m = format!(
            "{}, or another file of its folder, is not what it was when the run was planned",
            self.program.display()
        );
        Err(Failure::input(m).help("start a new run; on a device, join again"))
    }

    /// Exchanges hellos, and compares what the program says of the stage with its declaration.
    fn greet(&self, session: &mut Session<'_>) -> Result<(), Failure> {
        let FromProgram::Hello { stages, files, .. } = session.hello()? else {
            return Err(session.failure("did not say hello"));
        };
        let name = &self.declared.name;
        let help =
            format!("`headstart describe {}` brings the declaration up to date", self.program.display());
        // Declarations of version 0.1 also name files of the folder, which count anyway.
        if let Some(file) = files.iter().find(|f| f.starts_with("../") && !self.files.contains(f)) {
            let m = format!("says that it is made of `{file}` too, which its declaration does not name");
            return Err(session.failure(m).help(help));
        }
        let Some(said) = stages.iter().find(|s| s.name == *name) else {
            return Err(session
                .failure(format!("declares a stage `{name}` that it does not have"))
                .help(help));
        };
        match difference(&self.declared, said) {
            None => Ok(()),
            Some(what) => {
                let m = format!("describes `{name}` differently from its declaration: {what}");
                Err(session.failure(m).help(help))
            }
        }
    }
}

/// Listens until the program is done.
fn listen(session: &mut Session<'_>, ctx: &dyn Context) -> Result<Claim, Failure> {
    loop {
        match session.next(None)? {
            Some(Next::Message(FromProgram::Progress(progress))) => ctx.progress(progress),
            Some(Next::Message(FromProgram::Count { counter, n })) => ctx.count(&counter, n),
            Some(Next::Message(FromProgram::Done { files, value, uses })) => {
                return Ok(Claim { files, value, uses });
            }
            Some(Next::Message(FromProgram::Failed { message, help, class })) => {
                // Until it has ended, for the last lines that it wrote; that it failed is certain.
                let _ = session.end();
                // Only a program that says so has wrong input: `retry:` tries everything else again.
                let class = class.unwrap_or(FailureClass::Transient);
                return Err(Failure { help, class, ..session.may_pass(format!("failed: {message}")) });
            }
            Some(Next::Message(FromProgram::Hello { .. })) => {
                return Err(session.failure("said hello a second time"));
            }
            Some(Next::Message(FromProgram::Log { .. } | FromProgram::Unknown)) | None => {}
            Some(Next::Ended(status)) => {
                return Err(session.ended_badly(status, " without saying what it made"));
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
