//! Stages that measure how well personalization works: the evidence, as pipelines.

use super::Accepts as A;
use super::{Arg, DefaultValue, Kind, Need, Places, Role, optional, required, word};
use crate::release::of_kind;
use crate::types::Type;

pub(super) fn studies() -> Vec<Kind> {
    vec![simulate(), scale(), levels(), savings(), table()]
}

fn simulate() -> Kind {
    Kind {
        name: "simulate".into(),
        version: 4,
        role: Role::Stage,
        doc: "How often simulated users are given the right pLLM. Questions are split: some are the \
          probes that make the catalog, users write on others. A share of a user's texts is in \
          one of the styles, the rest is plain."
            .into(),
        args: simulate_args(),
        returns: Type::Metrics,
        metrics: of_kind("simulate"),
        places: Places::Server,
        cacheable: true,
        numeric: true,
        example: "simulate(drift, probes: 50)".into(),
    }
}

fn simulate_args() -> Vec<Arg> {
    let mut args = simulate_texts();
    args.extend(simulate_users());
    args.extend(simulate_method());
    args
}

/// Whose texts are compared.
fn simulate_texts() -> Vec<Arg> {
    vec![
        required(
            "styles",
            &[A::Divergences],
            "a style's answers against the plain ones; the keys name the styles",
        ),
        optional(
            "users",
            &[A::Divergences],
            DefaultValue::Absent,
            "what people write, keyed alike; left out, people write the styles' own answers",
        ),
        optional(
            "plain",
            &[A::Divergence],
            DefaultValue::Absent,
            "people's plain texts on the users' prompts; left out, they are the plain answers",
        ),
        optional(
            "reference",
            &[A::Divergence],
            DefaultValue::Absent,
            "as for `decompose`: how people's plain texts differ from the base's answers",
        ),
        optional(
            "space",
            &[A::Space],
            DefaultValue::Absent,
            "the space, where the divergences do not name it",
        ),
    ]
}

/// Which users are drawn.
fn simulate_users() -> Vec<Arg> {
    vec![
        optional("probes", &[A::Count], DefaultValue::Int(50), "questions that make the catalog"),
        optional("texts", &[A::Ints], DefaultValue::Absent, "texts of a user; left out, 5, 10 and 50"),
        optional(
            "shares",
            &[A::Floats],
            DefaultValue::Absent,
            "similarities that are tried, 0 to 1; left out, 0.3, 0.5, 0.7 and 0.9",
        ),
        optional(
            "similarity",
            &[word(&["user", "pllm"])],
            DefaultValue::Text("user".into()),
            "share of the style in the user's texts, or in the pLLM's answers (as the paper has it)",
        ),
        optional("mixed", &[A::Count], DefaultValue::Int(1), "styles that a user mixes in equal parts"),
        optional("users_each", &[A::Count], DefaultValue::Int(10), "users of each style in each split"),
        optional("splits", &[A::Count], DefaultValue::Int(8), "ways in which the questions are split"),
    ]
}

/// How the nearest pLLM is found.
fn simulate_method() -> Vec<Arg> {
    vec![
        optional(
            "metric",
            &[word(&["whitened", "cosine", "l1"])],
            DefaultValue::Text("whitened".into()),
            "as for `select`",
        ),
        optional(
            "method",
            &[word(&["sparse", "ridge", "omp", "paper"])],
            DefaultValue::Text("sparse".into()),
            "as for `decompose`",
        ),
        optional(
            "words",
            &[A::Count],
            DefaultValue::Absent,
            "words of the lexicon that are used; left out, all",
        )
        .needs(Need::Word("metric", &["l1"])),
        optional(
            "centre",
            &[A::Bool],
            DefaultValue::Bool(true),
            "whether what all pLLMs share is taken off before words are looked for, as in `decompose`",
        )
        .needs(Need::Word("metric", &["l1"])),
        optional("seed", &[A::Int], DefaultValue::Int(0), "seed of splits and users"),
    ]
}

fn scale() -> Kind {
    Kind {
        name: "scale".into(),
        version: 1,
        role: Role::Stage,
        doc: "What a selection costs for catalogs of growing size: bytes, forward passes, and the \
          seconds of reading the catalog and ranking its pLLMs. Larger catalogs are resampled \
          from a real one."
            .into(),
        args: vec![
            required("catalog", &[A::Catalog], "the catalog that is resampled"),
            required("user", &[A::Divergence], "a user's texts in the same space"),
            optional("sizes", &[A::Ints], DefaultValue::Absent, "numbers of pLLMs; left out, 8 to 100,000"),
            optional("seed", &[A::Int], DefaultValue::Int(0), "seed of the resampling"),
        ],
        returns: Type::Metrics,
        metrics: of_kind("scale"),
        places: Places::Anywhere,
        cacheable: false,
        numeric: true,
        example: "scale(catalog, user: me)".into(),
    }
}

fn levels() -> Kind {
    Kind {
        name: "levels".into(),
        version: 1,
        role: Role::Stage,
        doc: "Whether coefficients follow the levels of one style: each word's coefficient from level \
          to level, its rank correlation with the level, and the L1 distances between levels."
            .into(),
        args: vec![required(
            "catalog",
            &[A::Catalog],
            "its pLLMs are the levels, in the order of their names",
        )],
        returns: Type::Metrics,
        metrics: of_kind("levels"),
        places: Places::Anywhere,
        cacheable: true,
        numeric: false,
        example: "levels(catalog)".into(),
    }
}

fn savings() -> Kind {
    Kind {
        name: "savings".into(),
        version: 2,
        role: Role::Stage,
        doc: "Steps, seconds and rows that a head start saves until a target loss, over many users. The \
          target is what training from the base reaches: the loss at which it has made the share \
          `share` of all its progress."
            .into(),
        args: vec![
            required("tuned", &[A::Pllms], "trainings with a head start; keyed USER or USER,GROUP,…"),
            required("scratch", &[A::Pllms], "the same users' trainings from the base, keyed alike"),
            optional(
                "selections",
                &[A::Selections],
                DefaultValue::Absent,
                "keyed alike; their forward passes are added to the steps of the head start",
            ),
            optional(
                "share",
                &[A::Float],
                DefaultValue::Float(0.95),
                "share of scratch's progress that is the target",
            ),
            optional("batch", &[A::Count], DefaultValue::Int(8), "rows a step of these trainings"),
            optional("seed", &[A::Int], DefaultValue::Int(0), "seed of the bootstrap"),
        ],
        returns: Type::Metrics,
        metrics: of_kind("savings"),
        places: Places::Anywhere,
        cacheable: true,
        numeric: false,
        example: "savings(tuned, scratch: scratch)".into(),
    }
}

fn table() -> Kind {
    Kind {
        name: "table".into(),
        version: 1,
        role: Role::Stage,
        doc: "Metrics below one another as a table, in Markdown and JSON.".into(),
        args: vec![
            required("rows", &[A::AllMetrics], "the metrics; keys name the rows"),
            optional(
                "pool",
                &[A::Bool],
                DefaultValue::Bool(false),
                "averages rows whose keys agree behind the first comma, with a 95% bootstrap interval",
            ),
        ],
        returns: Type::Metrics,
        metrics: Vec::new(),
        places: Places::Anywhere,
        cacheable: true,
        numeric: false,
        example: "table(scores)".into(),
    }
}
