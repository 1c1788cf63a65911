//! What a program declares of its custom stages.
//!
//! The declaration is a JSON file beside the program, written by `headstart describe`. The checker
//! reads it, so that nothing of the program runs before it is meant to; a runner compares it with
//! what the program itself says when it starts.

mod kind;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use crate::digest::Digest;
use crate::failure::Failure;
use crate::release::{Number, RowBound};
use crate::stage::Stage;
use crate::types::Type;

/// Version of the protocol between a runner and a program. Independent of everything else's version.
pub const STAGE_PROTOCOL: u32 = 1;

/// The types that a program's stage can make: those that a runner can verify.
pub const MAKES: &[Type] = &[Type::Metrics, Type::Dataset, Type::Responses, Type::Pllm];

/// A program of a plan, whose custom stages are kinds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Program {
    /// Its name; in an imported module it is prefixed, as in `explain.tools`.
    pub name: String,
    /// Its path, relative to where the check ran.
    pub path: String,
    /// Digest of all that it is made of: part of every cache key, and compared before it runs.
    pub digest: Digest,
    /// What it declares.
    pub declaration: Declaration,
}

/// What a program's outputs depend on: the content of every file of its folder and of those that it
/// names outside, by path relative to the folder, and which of them is started. Where the folder
/// lies does not count.
pub fn program_digest(main: &str, files: &BTreeMap<String, Digest>) -> Digest {
    Digest::of_json(&serde_json::json!({ "program": main, "files": files }))
}

/// Whether a folder inside a program's folder is no part of the program, by its name.
pub fn is_left_out(folder: &str) -> bool {
    folder.starts_with('.') || folder == "__pycache__"
}

/// How the program of a custom stage is named.
#[derive(Clone, Copy, Debug)]
pub enum ProgramRef<'a> {
    /// A program of a plan, whose path is relative to this folder.
    Planned(&'a Program, &'a Path),
    /// By its digest alone, as devices get it.
    Digest(&'a Digest),
}

/// Where the custom stages of a place come from.
pub trait CustomStages: Send + Sync {
    /// A stage and the version that its declaration states. `kind` is as the pipeline calls it:
    /// `tools.readability`.
    ///
    /// # Errors
    /// Why this place does not run it.
    fn find(&self, kind: &str, program: ProgramRef<'_>) -> Result<(Box<dyn Stage>, u32), Failure>;

    /// Programs that may run here by digest, without a plan that names their path.
    fn allowed(&self) -> Vec<Digest> {
        Vec::new()
    }
}

/// The declaration of a program.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Declaration {
    /// The program's file name.
    pub program: String,
    /// The [`STAGE_PROTOCOL`] that it speaks.
    pub protocol: u32,
    /// Files and folders outside its folder that it is made of, relative to its folder. All files
    /// of its folder count without being named.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<String>,
    /// Its stages.
    pub stages: Vec<DeclaredStage>,
}

/// A stage of a program.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeclaredStage {
    /// Its name.
    pub name: String,
    /// Raised when its results change for the same arguments and the same program.
    pub version: u32,
    /// One sentence, then details.
    #[serde(default)]
    pub doc: String,
    /// Its arguments, in order. The first may be given without its name.
    #[serde(default)]
    pub args: Vec<DeclaredArg>,
    /// Type of its output: one of [`MAKES`].
    pub makes: String,
    /// The numbers that it may return, as metrics or beside a pLLM. Where they are declared, it can return
    /// no others. Only those that are declared with bounds can be released from a device.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub metrics: Vec<DeclaredNumber>,
    /// Arguments that bound the different rows behind what it makes: each artifact or file by its rows, each
    /// whole number by itself. Where none are named, nobody knows, and it counts as made of one row.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rows: Vec<String>,
    /// Where it may run: `server`, `device`, or both.
    #[serde(default = "everywhere")]
    pub places: Vec<DeclaredPlace>,
    /// Whether its output depends on its arguments alone. One that takes a path is never cached.
    #[serde(default = "yes")]
    pub cached: bool,
}

/// A number that a program's stage may return.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum DeclaredNumber {
    /// Its name alone. It never leaves a device.
    Name(String),
    /// Its name, and how much of it may leave.
    Bounded(BoundedNumber),
}

/// A number and how much of it may leave a device.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BoundedNumber {
    /// Its name.
    pub name: String,
    /// The smallest value that leaves; of smaller ones, this.
    pub low: f64,
    /// The largest.
    pub high: f64,
    /// Significant digits that leave: 1 to 3.
    #[serde(default = "two")]
    pub digits: u8,
    /// Whether it leaves only if the owner of the device allows details.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub detail: bool,
    /// Arguments that bound the different rows behind it; where none are named, those of the stage's `rows` do.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rows: Vec<String>,
}

fn two() -> u8 {
    2
}

impl DeclaredNumber {
    /// Its name.
    pub fn name(&self) -> &str {
        match self {
            Self::Name(name) => name,
            Self::Bounded(number) => &number.name,
        }
    }

    /// As much of it as may leave a device, and the rows behind it as far as it says so itself.
    fn number(&self) -> Number {
        match self {
            Self::Name(name) => Number::unbounded(name),
            Self::Bounded(BoundedNumber { name, low, high, digits, detail, rows }) => Number {
                digits: *digits,
                detail: *detail,
                rows: bounds(rows),
                ..Number::new(name, *low, *high)
            },
        }
    }
}

fn bounds(args: &[String]) -> Vec<RowBound> {
    args.iter().map(|arg| RowBound::Of(Cow::Owned(arg.clone()))).collect()
}

/// An argument of a program's stage.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeclaredArg {
    /// Its name.
    pub name: String,
    /// What it means, with its unit.
    #[serde(default)]
    pub doc: String,
    /// Types, of which it takes any: `Responses`, `Float`, `List<Text>`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub takes: Vec<String>,
    /// Instead of types: a few words, of which it takes one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub one_of: Vec<String>,
    /// Its value where it is left out: a number, a truth value, a text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default: Option<Json>,
    /// Whether it may be left out and is then absent.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub optional: bool,
}

/// A place, as a declaration names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the two places")]
pub enum DeclaredPlace {
    Server,
    Device,
}

fn everywhere() -> Vec<DeclaredPlace> {
    vec![DeclaredPlace::Server, DeclaredPlace::Device]
}

fn yes() -> bool {
    true
}

/// What is wrong with a declaration.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{message}")]
pub struct DeclarationError {
    /// What is wrong.
    pub message: String,
    /// Whether a type is not known.
    pub unknown_type: bool,
    /// Texts of the file that lead to the error, outermost first.
    pub way: Vec<String>,
}

impl DeclarationError {
    fn new(message: String, way: &[&str]) -> Self {
        Self { message, unknown_type: false, way: way.iter().map(|w| (*w).to_owned()).collect() }
    }
}

impl Declaration {
    /// The name of the file in which a program's declaration lies: `tools.py` has
    /// `tools.stages.json`.
    pub fn path_for(program: &str) -> String {
        let (folder, file) = program.rsplit_once('/').map_or(("", program), |(d, f)| (d, f));
        let stem = match file.rsplit_once('.') {
            Some((stem, _)) if !stem.is_empty() => stem,
            _ => file,
        };
        let slash = if program.contains('/') { "/" } else { "" };
        format!("{folder}{slash}{stem}.stages.json")
    }

    /// As written to the file: indented, with a final newline.
    ///
    /// # Panics
    /// Never: the type always serializes.
    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).expect("a declaration always serializes") + "\n"
    }

    /// The stage of this name.
    pub fn stage(&self, name: &str) -> Option<&DeclaredStage> {
        self.stages.iter().find(|s| s.name == name)
    }

    /// Checks that everything in it has a meaning.
    ///
    /// # Errors
    /// The first error.
    pub fn check(&self) -> Result<(), DeclarationError> {
        if self.protocol != STAGE_PROTOCOL {
            let m = format!(
                "it speaks version {} of the stage protocol, and this Headstart version {STAGE_PROTOCOL}",
                self.protocol
            );
            return Err(DeclarationError::new(m, &["protocol"]));
        }
        for file in &self.files {
            if !is_relative(file) {
                let m = format!("{file:?} is not a path relative to the program's folder");
                return Err(DeclarationError::new(m, &["files", file]));
            }
        }
        for (n, stage) in self.stages.iter().enumerate() {
            if self.stages[..n].iter().any(|s| s.name == stage.name) {
                let m = format!("two stages are called `{}`", stage.name);
                return Err(DeclarationError::new(m, &[&stage.name]));
            }
            stage.kind("program")?;
        }
        Ok(())
    }
}

fn is_relative(path: &str) -> bool {
    !path.is_empty() && !path.starts_with('/') && !path.contains(['\\', '\0'])
}

/// Whether a file name leads nowhere else than below its folder.
pub fn is_inside(name: &str) -> bool {
    !name.is_empty()
        && !name.contains(['\\', '\0'])
        && name.split('/').all(|part| !part.is_empty() && part != "." && part != "..")
}

impl DeclaredStage {
    /// The numbers that it may return.
    pub fn numbers(&self) -> Vec<Number> {
        let number = |declared: &DeclaredNumber| {
            let number = declared.number();
            let rows = if number.rows.is_empty() { self.row_bounds() } else { number.rows };
            Number { rows, ..number }
        };
        self.metrics.iter().map(number).collect()
    }

    /// What bounds the different rows behind everything that it makes.
    pub fn row_bounds(&self) -> Vec<RowBound> {
        if self.rows.is_empty() { vec![RowBound::One] } else { bounds(&self.rows) }
    }

    /// Whether its output may be taken from the cache: not where it reads a path.
    pub fn cacheable(&self) -> bool {
        let path = |t: &String| t == "Path" || t == "List<Path>";
        self.cached && !self.args.iter().any(|a| a.takes.iter().any(path))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::kinds::{DefaultValue, Kind, Places, Role};

    fn stage(change: impl Fn(&mut Json)) -> Result<Kind, DeclarationError> {
        let mut json = json!({
            "name": "readability", "version": 1, "doc": "How easy answers are to read.",
            "args": [
                { "name": "responses", "takes": ["Responses", "Dataset"] },
                { "name": "threshold", "takes": ["Float"], "default": 1 },
                { "name": "method", "one_of": ["flesch", "ari"], "default": "ari" },
                { "name": "others", "takes": ["List<Metrics>"], "optional": true },
            ],
            "makes": "Metrics",
        });
        change(&mut json);
        let stage: DeclaredStage = serde_json::from_value(json).expect("a stage");
        stage.kind("tools")
    }

    #[test]
    fn a_stage_becomes_a_kind() {
        let kind = stage(|_| {}).expect("sound");
        assert_eq!((kind.name.as_str(), kind.places), ("tools.readability", Places::Anywhere));
        assert_eq!(kind.args[1].default, DefaultValue::Float(1.0));
        assert_eq!(kind.args[3].accepts[0].ty(), Type::Metrics.list());
        assert_eq!(kind.example, "tools.readability(responses: …)");
        assert!(kind.cacheable);
        let reads = stage(|s| s["args"][1] = json!({ "name": "at", "takes": ["Path"] })).expect("sound");
        assert!(!reads.cacheable, "what reads a path is never cached");
        let role = stage(|s| s["makes"] = json!("Dataset")).expect("sound").role;
        assert_eq!(role, Role::Dataset);
    }

    #[test]
    fn a_number_may_leave_within_the_bounds_that_it_declares() {
        let declared = json!([{ "name": "mean", "low": 0, "high": 100, "digits": 3 }, "words"]);
        let kind = stage(|s| s["metrics"] = declared.clone()).expect("sound");
        assert_eq!(kind.metrics[0].leaving(12.3456), Some(12.3));
        assert_eq!(kind.metrics[0].leaving(1234.5), Some(100.0));
        assert_eq!(kind.metrics[1].leaving(5.0), None, "declared without bounds");
        assert_eq!(kind.metrics[0].rows, [RowBound::One], "it does not say of how many rows");
        let unknown = json!([{ "name": "mean", "low": 0, "high": 100, "round": 3 }]);
        let read: Result<Vec<DeclaredNumber>, _> = serde_json::from_value(unknown);
        assert!(read.is_err(), "a field that is not known");
    }

    #[test]
    fn rows_of_a_number_are_its_own_or_its_stages() {
        let own = json!({ "name": "few", "low": 0, "high": 1, "rows": ["others", "threshold"] });
        let stage: DeclaredStage = serde_json::from_value(json!({
            "name": "s", "version": 1, "makes": "Metrics", "rows": ["responses"],
            "args": [{ "name": "responses", "takes": ["Responses"] }, { "name": "others", "takes": ["Dataset"] },
                { "name": "threshold", "takes": ["Int"] }],
            "metrics": [{ "name": "all", "low": 0, "high": 1 }, own],
        }))
        .expect("a stage");
        let numbers = stage.kind("tools").expect("sound").metrics;
        let of = |name: &'static str| RowBound::Of(name.into());
        assert_eq!(stage.row_bounds(), [of("responses")]);
        assert_eq!(numbers[0].rows, [of("responses")]);
        assert_eq!(numbers[1].rows, [of("others"), of("threshold")]);
    }

    #[test]
    fn errors_are_reported() {
        let message = |change: &dyn Fn(&mut Json)| stage(change).expect_err("a mistake");
        let unknown = message(&|s| s["args"][0]["takes"] = json!(["Respones"]));
        assert!(
            unknown.unknown_type && unknown.way == ["readability", "responses", "Respones"],
            "{unknown:?}"
        );
        assert!(message(&|s| s["makes"] = json!("Metric")).unknown_type);
        for (change, text) in [
            (json!({ "makes": "Catalog" }), "cannot make a Catalog"),
            (json!({ "version": 0 }), "start at 1"),
            (json!({ "rows": ["threshold", "answers"] }), "`answers`, which is no argument"),
            (json!({ "metrics": [{ "name": "n", "low": 0, "high": 1, "rows": ["x"] }] }), "names `x`"),
            (json!({ "places": [] }), "nowhere"),
            (json!({ "name": "a b" }), "no name"),
            (json!({ "metrics": ["mean", "mean"] }), "declares the metric `mean` twice"),
            (json!({ "metrics": ["my name is Ann"] }), "no name for a metric"),
            (json!({ "metrics": ["a".repeat(65)] }), "no name for a metric"),
            (json!({ "metrics": ["n"], "makes": "Dataset" }), "which has no metrics to declare"),
            (json!({ "metrics": [{ "name": "n", "low": 1, "high": 0 }] }), "bounded by 1 and 0"),
            (json!({ "metrics": [{ "name": "n", "low": 0, "high": 1, "digits": 9 }] }), "has 9 digits"),
            (json!({ "args": [{ "name": "x" }] }), "takes nothing"),
            (json!({ "args": [{ "name": "x", "takes": ["Int"], "default": 0.5 }] }), "cannot be 0.5"),
            (json!({ "args": [{ "name": "x", "takes": ["Int"], "one_of": ["a"] }] }), "both"),
            (json!({ "args": [{ "name": "x", "one_of": ["a-b"] }] }), "written bare"),
        ] {
            let set = |s: &mut Json| {
                for (key, value) in change.as_object().expect("an object") {
                    s[key.as_str()] = value.clone();
                }
            };
            let e = message(&set);
            assert!(e.message.contains(text), "{change}: {e}");
        }
    }

    #[test]
    fn the_file_lies_beside_the_program() {
        assert_eq!(Declaration::path_for("stages/tools.py"), "stages/tools.stages.json");
        assert_eq!(Declaration::path_for("tools"), "tools.stages.json");
        assert_eq!(Declaration::path_for("/a.b/tools"), "/a.b/tools.stages.json");
        assert!(is_inside("lib/x.py") && !is_inside("../x") && !is_inside("/x") && !is_inside("a//b"));
    }
}
