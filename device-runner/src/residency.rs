//! What may leave the device, decided by the device itself.
//!
//! The engine says of each task whether its output is private and what of it is released. The
//! device does not take its word for it: a task is public here only if all its resolved arguments were
//! proven public, and a release must be of a releasable type and allowed by the owner of the device
//! (`--allow-release`).

use std::str::FromStr;

use headstart_protocol::contract::NOT_APPROVED;
use headstart_protocol::expr::{Expr, Residency, Resolved, Value};
use headstart_protocol::release::{Class, Number, class_of, is_detail};
use headstart_protocol::task::Task;
use headstart_protocol::{Failure, FailureClass, Type};

use crate::context::Phase;

/// What the owner of the device allows a pipeline to release.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allowed {
    /// Named numbers.
    pub metrics: bool,
    /// A choice: the pLLM's name, coefficients, confidence.
    pub selection: bool,
    /// Weights over pLLMs.
    pub mix: bool,
    /// The weights of a model that was trained on private data.
    pub pllm: bool,
    /// Counts, and what else of numbers and choices is a detail.
    pub details: bool,
    /// Whether stages failed. Without it, a stage over private data is reported as delivered whatever came
    /// of it.
    pub failures: bool,
}

impl Allowed {
    /// Nothing.
    pub const NONE: Self =
        Self { metrics: false, selection: false, mix: false, pllm: false, details: false, failures: false };
    /// Numbers and choices, as is the default.
    pub const NUMBERS: Self = Self { metrics: true, selection: true, mix: true, ..Self::NONE };

    /// Whether nothing of a private task may leave, not even that it failed.
    pub fn lets_nothing_out(self) -> bool {
        // Without numbers and choices, there are no details of them.
        Self { details: false, ..self } == Self::NONE
    }

    /// Whether a class may leave.
    pub fn has(self, class: Class) -> bool {
        match class {
            Class::Metrics => self.metrics,
            Class::Selection => self.selection,
            Class::Mix => self.mix,
            Class::Pllm => self.pllm,
        }
    }
}

impl FromStr for Allowed {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        let mut out = Self::NONE;
        for word in s.split(',').map(str::trim).filter(|w| !w.is_empty()) {
            match word {
                "metrics" => out.metrics = true,
                "selection" => out.selection = true,
                "mix" => out.mix = true,
                "pllm" => out.pllm = true,
                "details" => out.details = true,
                "failures" => out.failures = true,
                "none" => {}
                other => {
                    return Err(format!(
                        "`{other}` cannot be released; allowed are metrics, selection, mix, pllm, details, failures, or none"
                    ));
                }
            }
        }
        Ok(out)
    }
}

/// What can be said of a task before anything is resolved: it is private if it says so, if it names a
/// private artifact or a path (all paths lie in the data folder), if its stage reads the device's own model
/// cache, or if it is a custom stage, whose program can read whatever its owner can. What is public here
/// still has to be proven so, see [`proven`].
pub fn stated(task: &Task) -> Residency {
    let exprs = || task.args.values().chain(&task.when);
    let private = task.private
        || task.kind == "hf"
        || task.program.is_some()
        || exprs().any(|e| e.is_private() || mentions_path(e));
    if private { Residency::Private } else { Residency::Public }
}

/// Whether the output of a task is private, once its arguments are resolved: it is public only if each of
/// them was proven public, and it says nothing else of itself.
pub fn proven<'a>(task: &Task, resolved: impl IntoIterator<Item = &'a Resolved>) -> Residency {
    resolved.into_iter().fold(stated(task), |all, one| {
        let mut path = false;
        one.value.visit(&mut |v| path |= matches!(v, Value::Path(_)));
        let own = if path || one.value.is_private() { Residency::Private } else { Residency::Public };
        all.and(one.residency).and(own)
    })
}

/// Whether a task names files of the data folder, which may change between two attempts.
pub(crate) fn reads_paths(task: &Task) -> bool {
    task.args.values().chain(&task.when).any(mentions_path)
}

fn mentions_path(expr: &Expr) -> bool {
    let mut found = false;
    expr.each_value(&mut |v| found |= matches!(v, Value::Path(_)));
    found
}

/// Checks every release that a task asks for, before anything is run.
///
/// # Errors
/// [`FailureClass::Denied`], with a reason for the owner of the device; see [`for_the_engine`] for
/// what the engine is told.
pub fn check_release(task: &Task, allowed: Allowed) -> Result<(), Failure> {
    task.release.iter().try_for_each(|path| allow(&task.ty, path, allowed).map(|_| ()))
}

/// Checks that no release names a detail that the owner does not allow to leave.
///
/// # Errors
/// [`FailureClass::Denied`].
pub fn check_details(task: &Task, numbers: &[Number], allowed: Allowed) -> Result<(), Failure> {
    match task.release.iter().find(|path| is_detail(&task.ty, path, numbers)) {
        Some(path) if !allowed.details => {
            let what = described(&task.ty, path);
            let m = format!("the pipeline releases {what}, a detail: denied by this device's release policy");
            let help = "to allow details, join with `--allow-release` naming `details` too";
            Err(Failure::new(FailureClass::Denied, m).help(help))
        }
        _ => Ok(()),
    }
}

/// The class and type of what `path` names in a value of type `ty`, if it may be released.
///
/// # Errors
/// [`FailureClass::Denied`] if it may not.
pub fn allow(ty: &Type, path: &[String], allowed: Allowed) -> Result<(Class, Type), Failure> {
    let (class, ty) = class_of(ty, path).ok_or_else(|| refusal(ty, path))?;
    if allowed.has(class) {
        return Ok((class, ty));
    }
    let m = format!("the pipeline releases {}: denied by this device's release policy", described(&ty, path));
    let help = format!("to allow it, join with `--allow-release` naming `{}` too", class.word());
    Err(Failure::new(FailureClass::Denied, m).help(help))
}

/// The refusal of something that can never be released.
fn refusal(ty: &Type, path: &[String]) -> Failure {
    let m = format!("the engine asks for {}, which never leaves this device", described(ty, path));
    Failure::new(FailureClass::Denied, m)
}

/// A released thing in words.
pub fn described(ty: &Type, path: &[String]) -> String {
    let whole = ty.present();
    if path.is_empty() { format!("the {whole}") } else { format!("`{}` of the {whole}", path.join(".")) }
}

/// What the engine is told of a failure: its class and a fixed sentence. File names, lines and texts stay
/// in the device's own log.
pub fn for_the_engine(failure: &Failure, phase: Phase) -> Failure {
    let message = match failure.class {
        FailureClass::Input if phase == Phase::Checking => {
            "the task does not fit this device: its stage or version, what it reads, what the engine sent, or the \
             room that this takes"
        }
        FailureClass::Input => "the stage's input on the device is wrong",
        FailureClass::Denied if failure.message == NOT_APPROVED && phase == Phase::Checking => NOT_APPROVED,
        FailureClass::Denied => "denied by the device's release policy",
        FailureClass::Transient => "something outside the stage went wrong on the device",
        FailureClass::DiskFull => "the device's disk is full",
        FailureClass::Environment => {
            "the device does not give what the stage needs, such as permission to write"
        }
        FailureClass::Memory => "the device does not have the memory that the stage needs",
        FailureClass::Cancelled => "the stage was stopped",
        FailureClass::Timeout => "the stage ran past its time limit",
        FailureClass::Lost => "the device, or the process of the stage, was stopped while it ran",
        FailureClass::MissingArtifact => "an artifact that the stage needs is gone from the device",
        FailureClass::Internal => "the stage failed on the device",
    };
    Failure::new(failure.class, message)
        .help("details stay on the device: `headstart-device show` prints them there")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(s: &str) -> Vec<String> {
        s.split('.').filter(|p| !p.is_empty()).map(str::to_owned).collect()
    }

    /// Every combination of type, path and permission that a pipeline can ask for.
    #[test]
    fn the_release_matrix() {
        let only = |word: &str| word.parse::<Allowed>().expect("a known word");
        let cases: &[(Type, &str, &str)] = &[
            (Type::Metrics, "", "metrics"),
            (Type::Metrics, "loss", "metrics"),
            (Type::Selection, "", "selection"),
            (Type::Selection, "confidence", "selection"),
            (Type::Selection, "is_mix", "selection"),
            (Type::Selection, "pllm", "selection"),
            (Type::Selection, "pllm.metrics.loss", "selection"),
            (Type::Selection, "mix", "mix"),
            (Type::Pllm, "", "pllm"),
            (Type::Pllm, "metrics", "metrics"),
            (Type::Pllm.optional(), "metrics.loss", "metrics"),
        ];
        for (ty, p, needs) in cases {
            for word in ["metrics", "selection", "mix", "pllm", "none"] {
                let verdict = allow(ty, &path(p), only(word)).is_ok();
                assert_eq!(verdict, word == *needs, "{ty} .{p} with {word}");
            }
        }
        let everything = only("metrics,selection,mix,pllm");
        let never = [
            (Type::Dataset, ""),
            (Type::Responses, ""),
            (Type::Divergence, ""),
            (Type::Catalog, ""),
            (Type::Space, ""),
            (Type::Model, ""),
            (Type::Pllm, "base"),
            (Type::Selection, "pllm.base"),
            (Type::Selection, "unknown"),
            (Type::Dataset.optional(), "metrics"),
            (Type::Text, ""),
        ];
        for (ty, p) in never {
            assert!(allow(&ty, &path(p), everything).is_err(), "{ty} .{p}");
        }
        assert!("datasets".parse::<Allowed>().is_err());
    }

    #[test]
    fn a_task_is_private_by_what_it_reads() {
        let task = |args: serde_json::Value| -> Task {
            serde_json::from_value(serde_json::json!({
                "run": "r", "instance": 0, "name": "x", "attempt": 1, "fence": 1, "kind": "probe",
                "version": 1, "ty": "Responses", "private": false, "args": args,
            }))
            .expect("a task")
        };
        let value = |v| serde_json::json!({"a": {"expr": "value", "value": v}});
        let id = "00".repeat(32);
        let public = serde_json::json!({"is": "artifact", "value": {"id": id, "ty": "Model"}});
        let private = serde_json::json!({"is": "artifact", "value": {"id": id, "ty": "Dataset", "private_to": "phone"}});
        let a_path = serde_json::json!({"is": "path", "value": "me.jsonl"});
        let in_a_list = serde_json::json!({"is": "list", "value": [["0", a_path]]});
        assert_eq!(stated(&task(value(public))), Residency::Public);
        assert_eq!(stated(&task(value(private))), Residency::Private);
        assert_eq!(stated(&task(value(a_path))), Residency::Private);
        assert_eq!(stated(&task(value(in_a_list))), Residency::Private);
    }
}
