//! How many different rows are behind what a stage makes: what bounds them, kind by kind and number by number.
//!
//! A device counts the rows behind the private values that a task reads, and takes the smallest of these
//! counts. But a stage may compute a number over a part of its rows, so each kind declares what else bounds
//! them: arguments that say how many rows are taken, and what the stage itself counted while it ran, which can
//! only lower a bound. What a kind does not bound here has all rows of its inputs behind it.

use std::borrow::Cow;

use crate::args::Args;
use crate::expr::Value;

/// Different rows that an `evaluate` scored.
pub const SCORED_ROWS: &str = "rows_scored";
/// Different rows that an `evaluate` answered.
pub const ANSWERED_ROWS: &str = "rows_answered";
/// Different rows that a training trained on.
pub const TRAINED_ROWS: &str = "rows_trained";
/// Different rows that a training held back.
pub const HELD_BACK_ROWS: &str = "rows_held_back";
/// Different rows that were embedded.
pub const EMBEDDED_ROWS: &str = "rows_embedded";
/// Different rows by whose place in the space a `select` chose.
pub const CHOOSING_ROWS: &str = "rows_choosing";
/// Different rows by whose likelihood a `select` chose.
pub const VERIFYING_ROWS: &str = "rows_verifying";

/// A tenth of the rows is held back where a training is given none for that.
const HELD_BACK: u64 = 10;

/// An upper bound on the different private rows behind a number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RowBound {
    /// The rows of this argument that have a response.
    Answered(Cow<'static, str>),
    /// Rows of `eval` that have a response; where that is left out, a tenth of those of `data`.
    HeldBack,
    /// This argument, a whole number; where it is left out, all.
    AtMost(Cow<'static, str>),
    /// The product of two arguments, whole numbers.
    Product(&'static str, &'static str),
    /// As many of an argument's rows as a share of `rows` comes to; or those that are left.
    Share {
        /// The argument whose rows they are.
        of: &'static str,
        /// The argument that is the share.
        share: &'static str,
        /// The argument that is the number of rows.
        rows: &'static str,
        /// Whether it is what the share leaves.
        rest: bool,
    },
    /// A counter of the attempt; where the stage did not count, no bound.
    Counted(&'static str),
    /// What a program's stage says bounds it: the rows of an artifact or of a file, or a whole number.
    Of(Cow<'static, str>),
    /// One row: nobody knows how many.
    One,
}

/// What a bound is computed from.
pub trait RowFacts {
    /// The arguments as they were resolved.
    fn args(&self) -> &Args;
    /// Different private rows of an argument that have a response; `None` where it is public or left out.
    fn answered(&self, arg: &str) -> Option<u64>;
    /// Different private rows behind an argument; `None` where it is public or left out.
    fn rows(&self, arg: &str) -> Option<u64>;
    /// What the stage counted.
    fn counted(&self, counter: &str) -> Option<u64>;
}

impl RowBound {
    /// The argument that it depends on, if it depends on one alone.
    pub fn args(&self) -> Vec<&str> {
        match self {
            Self::Answered(arg) | Self::AtMost(arg) | Self::Of(arg) => vec![arg],
            Self::HeldBack => vec!["eval", "data"],
            Self::Product(a, b) => vec![a, b],
            Self::Share { of, share, rows, .. } => vec![of, share, rows],
            Self::Counted(_) | Self::One => Vec::new(),
        }
    }

    /// How many rows at most; `None` where it bounds nothing here. What should bound them and cannot be
    /// computed counts as one.
    pub fn rows(&self, facts: &dyn RowFacts) -> Option<u64> {
        let args = facts.args();
        let whole = |arg: &str| args.int_opt(arg).and_then(|n| u64::try_from(n).ok());
        match self {
            Self::Answered(arg) => facts.answered(arg),
            Self::HeldBack if args.get("eval").is_some() => facts.answered("eval"),
            Self::HeldBack => facts.answered("data").map(|n| ((n + HELD_BACK / 2) / HELD_BACK).max(1)),
            Self::AtMost(arg) => args.get(arg).map(|_| whole(arg).unwrap_or(1)),
            Self::Product(a, b) => Some(whole(a).zip(whole(b)).map_or(1, |(a, b)| a.saturating_mul(b))),
            Self::Share { of, share, rows, rest } => facts.rows(of).map(|_| {
                let both = args.float_opt(share).zip(whole(rows)).filter(|(s, _)| (0.0..=1.0).contains(s));
                both.map_or(1, |(share, rows)| {
                    let taken = (share * rows as f64).round() as u64;
                    if *rest { rows.saturating_sub(taken) } else { taken }
                })
            }),
            Self::Counted(counter) => facts.counted(counter).filter(|n| *n > 0),
            Self::Of(arg) => Some(match args.get(arg) {
                Some(Value::Int(_)) => whole(arg).unwrap_or(1),
                // A public argument, or none: nothing private is bounded by it.
                _ => return facts.rows(arg),
            }),
            Self::One => Some(1),
        }
        .map(|n| n.max(1))
    }
}

const fn answered(arg: &'static str) -> RowBound {
    RowBound::Answered(Cow::Borrowed(arg))
}

const fn at_most(arg: &'static str) -> RowBound {
    RowBound::AtMost(Cow::Borrowed(arg))
}

const fn part(of: &'static str, rest: bool) -> RowBound {
    RowBound::Share { of, share: "share", rows: "rows", rest }
}

/// The held-back rows decide which weights are kept and when a training ends; steps times rows a step are all
/// that it can have seen.
const FINETUNE: &[RowBound] = &[
    answered("data"),
    RowBound::HeldBack,
    RowBound::Counted(HELD_BACK_ROWS),
    RowBound::Product("batch", "max_steps"),
    RowBound::Counted(TRAINED_ROWS),
];

/// What bounds the rows behind everything that a stage of a built-in kind makes.
pub fn rows_of_kind(kind: &str) -> Vec<RowBound> {
    let bounds: &[RowBound] = match kind {
        "blend" => &[part("styled", false), part("plain", true)],
        "embed" => &[at_most("rows"), RowBound::Counted(EMBEDDED_ROWS)],
        "evaluate" => &[answered("data")],
        "finetune" => FINETUNE,
        "select" => &[RowBound::Counted(CHOOSING_ROWS), RowBound::Counted(VERIFYING_ROWS)],
        // Users are drawn by its arguments; it does not run on devices.
        "simulate" => &[RowBound::One],
        _ => &[],
    };
    bounds.to_vec()
}

/// What else bounds the rows behind a number of a built-in kind.
pub(super) fn rows_of_number(kind: &str, number: &str) -> Vec<RowBound> {
    let bounds: &[RowBound] = match (kind, number) {
        ("evaluate", "answers" | "bleu" | "rouge1" | "rouge2" | "rougeL") => {
            &[at_most("answers"), RowBound::Counted(ANSWERED_ROWS)]
        }
        ("evaluate", _) => &[RowBound::Counted(SCORED_ROWS)],
        ("finetune", "train_loss") => &[at_most("batch")],
        // What somebody wrote beside an adapter: over nobody knows what.
        ("ingest", _) => &[RowBound::One],
        _ => &[],
    };
    bounds.to_vec()
}

/// Whether a stage reads more of an argument than its files: numbers that were reported beside them, also of
/// what the argument refers to. Only what is known to read files alone does not.
pub fn reads_numbers(kind: &str, arg: &str) -> bool {
    const FILES: &[(&str, &[&str])] = &[
        ("concat", &["datasets"]),
        ("blend", &["styled", "plain"]),
        ("ingest", &["base"]),
        ("probe", &["model", "prompts"]),
        ("embed", &["responses", "against", "space"]),
        ("select", &["user", "verify"]),
        ("merge", &["mix"]),
        ("finetune", &["from", "data", "eval"]),
        ("evaluate", &["model", "data"]),
        ("sentence", &["model"]),
        ("summarizer", &["model"]),
        ("pooled", &["model"]),
    ];
    !FILES.iter().any(|(k, args)| *k == kind && args.contains(&arg))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::artifact::{ArtifactRef, ArtifactType};
    use crate::digest::Digest;
    use crate::kinds::{self, Accepts};

    struct Facts {
        args: Args,
        rows: BTreeMap<&'static str, u64>,
        counted: BTreeMap<&'static str, u64>,
    }

    impl RowFacts for Facts {
        fn args(&self) -> &Args {
            &self.args
        }

        fn answered(&self, arg: &str) -> Option<u64> {
            self.rows(arg)
        }

        fn rows(&self, arg: &str) -> Option<u64> {
            self.rows.get(arg).copied()
        }

        fn counted(&self, counter: &str) -> Option<u64> {
            self.counted.get(counter).copied()
        }
    }

    fn facts(args: &[(&str, Value)], rows: &[(&'static str, u64)]) -> Facts {
        let args = args.iter().map(|(k, v)| ((*k).to_owned(), v.clone())).collect();
        Facts { args: Args(args), rows: rows.iter().copied().collect(), counted: BTreeMap::new() }
    }

    fn dataset() -> Value {
        Value::Artifact(ArtifactRef { id: Digest::of(b"d"), ty: ArtifactType::Dataset, private_to: None })
    }

    #[test]
    fn bounds_follow_from_arguments() {
        let answers = at_most("answers");
        let rows = |bound: &RowBound, args: &[(&str, Value)], rows: &[(&'static str, u64)]| {
            bound.rows(&facts(args, rows))
        };
        assert_eq!(rows(&answers, &[("answers", Value::Int(3))], &[]), Some(3));
        assert_eq!(rows(&answers, &[], &[]), None, "left out, all");
        for odd in [Value::Int(-7), Value::Int(0), Value::Float(1e9), Value::Text("many".into())] {
            assert_eq!(rows(&answers, &[("answers", odd.clone())], &[]), Some(1), "{odd:?}");
        }
        let held = RowBound::HeldBack;
        assert_eq!(rows(&held, &[], &[("data", 204)]), Some(20));
        assert_eq!(rows(&held, &[], &[("data", 3)]), Some(1));
        assert_eq!(rows(&held, &[("eval", dataset())], &[("data", 204), ("eval", 30)]), Some(30));
        assert_eq!(rows(&held, &[("eval", dataset())], &[("data", 204)]), None, "public rows judge");
        let seen = RowBound::Product("batch", "max_steps");
        assert_eq!(rows(&seen, &[("batch", Value::Int(8)), ("max_steps", Value::Int(2))], &[]), Some(16));
        assert_eq!(rows(&seen, &[("batch", Value::Int(8))], &[]), Some(1), "cannot be computed");
        let huge = [("batch", Value::Int(i64::MAX)), ("max_steps", Value::Int(i64::MAX))];
        assert_eq!(rows(&seen, &huge, &[]), Some(u64::MAX));
        let blend = [("share", Value::Float(0.02)), ("rows", Value::Int(50))];
        assert_eq!(rows(&part("styled", false), &blend, &[("styled", 80)]), Some(1));
        assert_eq!(rows(&part("plain", true), &blend, &[("plain", 80)]), Some(49));
        assert_eq!(rows(&part("plain", true), &blend, &[("styled", 80)]), None, "plain is public");
        let of = RowBound::Of("data".into());
        assert_eq!(rows(&of, &[("data", Value::Int(4))], &[]), Some(4));
        assert_eq!(rows(&of, &[("data", dataset())], &[("data", 25)]), Some(25));
    }

    #[test]
    fn what_a_stage_counted_bounds_it_too() {
        let mut facts = facts(&[], &[]);
        let scored = RowBound::Counted(SCORED_ROWS);
        assert_eq!(scored.rows(&facts), None);
        facts.counted.insert(SCORED_ROWS, 2);
        assert_eq!(scored.rows(&facts), Some(2));
    }

    /// A new argument that chooses rows has to be bounded, and one that does not has to be named here.
    #[test]
    fn every_number_among_the_arguments_bounds_rows_or_is_known_not_to() {
        /// Made of rows of the dataset alone, which the device counts in the result.
        const COUNTED_IN_RESULT: &[&str] = &["jsonl", "concat", "blend", "probe"];
        const OTHER: &[(&str, &[&str])] = &[
            ("init", &["vocab", "seed"]),
            ("embed", &["max_tokens", "words"]),
            ("decompose", &["max_words", "seed"]),
            ("select", &["shortlist", "budget", "max_mix", "seed"]),
            ("merge", &["rank", "density", "seed"]),
            (
                "finetune",
                &[
                    "rank",
                    "alpha",
                    "dropout",
                    "learning_rate",
                    "weight_decay",
                    "clip",
                    "warmup",
                    "eval_every",
                    "patience",
                    "max_tokens",
                    "seed",
                ],
            ),
            ("evaluate", &["max_tokens"]),
            ("scale", &["sizes", "seed"]),
            ("savings", &["share", "batch", "seed"]),
        ];
        let is_number = |a: &Accepts| {
            matches!(a, Accepts::Int | Accepts::Count | Accepts::Float | Accepts::Ints | Accepts::Floats)
        };
        for kind in kinds::all() {
            let mut bounds = rows_of_kind(&kind.name);
            bounds.extend(kind.metrics.iter().flat_map(|n| n.rows.clone()));
            let bounding: Vec<&str> = bounds.iter().flat_map(RowBound::args).collect();
            let known = OTHER.iter().find(|(k, _)| *k == kind.name).map_or(&[][..], |(_, args)| args);
            for arg in kind.args.iter().filter(|a| a.accepts.iter().any(is_number)) {
                let name = arg.name.as_str();
                let fine = bounding.contains(&name)
                    || known.contains(&name)
                    || COUNTED_IN_RESULT.contains(&kind.name.as_str())
                    || bounds.contains(&RowBound::One);
                assert!(fine, "{}({name}): does it choose rows?", kind.name);
            }
            for name in bounding {
                assert!(kind.arg(name).is_some(), "{} has no argument `{name}`", kind.name);
            }
        }
    }

    #[test]
    fn arguments_of_which_files_alone_are_read_are_arguments() {
        for kind in kinds::all() {
            for arg in &kind.args {
                let read = !reads_numbers(&kind.name, &arg.name);
                let artifact = arg.accepts.iter().any(|a| {
                    let ty = a.ty();
                    ArtifactType::of(&ty).is_some() || matches!(ty, crate::Type::List(_) | crate::Type::Mix)
                });
                assert!(!read || artifact, "{}({})", kind.name, arg.name);
            }
        }
        assert!(reads_numbers("savings", "tuned") && reads_numbers("tools.words", "answers"));
    }
}
