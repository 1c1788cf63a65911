//! Stages: what a pipeline does.

use super::Accepts as A;
use super::{Arg, DefaultValue, Kind, Need, Places, Role, optional, required, word};
use crate::release::of_kind;
use crate::types::Type;

pub(super) fn stages() -> Vec<Kind> {
    vec![ingest(), probe(), embed(), decompose(), select(), merge(), finetune(), evaluate(), accuracy()]
}

fn ingest() -> Kind {
    Kind {
        name: "ingest".into(),
        version: 2,
        role: Role::Stage,
        doc: "Takes a LoRA adapter in PEFT's or mlx-lm's format or a full model into the catalog, \
          after checking that it fits its base."
            .into(),
        args: vec![
            required("base", &[A::Model, A::Pllm], "the model that it personalizes"),
            required("source", &[A::Path], "the adapter's folder"),
        ],
        returns: Type::Pllm,
        metrics: of_kind("ingest"),
        places: Places::Anywhere,
        cacheable: false,
        numeric: false,
        example: "ingest(base: base, source: a)".into(),
    }
}

fn probe() -> Kind {
    Kind {
        name: "probe".into(),
        version: 2,
        role: Role::Stage,
        doc: "Puts the same prompts to a model and keeps its answers.".into(),
        args: vec![
            required("model", &[A::Pllm, A::Model], "the model"),
            required("prompts", &[A::Dataset], "the prompts"),
            optional("max_tokens", &[A::Count], DefaultValue::Int(128), "tokens of an answer at most"),
            optional(
                "temperature",
                &[A::Float],
                DefaultValue::Float(0.0),
                "0 takes the most probable token; more samples",
            ),
            optional("seed", &[A::Int], DefaultValue::Int(0), "seed of the sampling")
                .needs(Need::AboveZero("temperature")),
        ],
        returns: Type::Responses,
        metrics: Vec::new(),
        places: Places::Anywhere,
        cacheable: true,
        numeric: true,
        example: "probe(p, prompts: questions)".into(),
    }
}

fn embed() -> Kind {
    Kind {
        name: "embed".into(),
        version: 3,
        role: Role::Stage,
        doc: "Embeds how answers differ from the base's answers to the same prompts, one vector a \
          prompt. Where `against` is a model, it is asked the rows' prompts first."
            .into(),
        args: vec![
            required("responses", &[A::Responses, A::Dataset], "the answers"),
            required(
                "against",
                &[A::Responses, A::Dataset, A::Model, A::Pllm],
                "the base's answers, or the base itself",
            ),
            required("space", &[A::Space], "how text becomes a vector"),
            optional(
                "max_tokens",
                &[A::Count],
                DefaultValue::Int(128),
                "tokens of an answer at most, where a model is asked",
            )
            .needs(Need::Of("against", &[Type::Model, Type::Pllm])),
            optional(
                "rows",
                &[A::Count],
                DefaultValue::Absent,
                "rows that are embedded at most, spread evenly over all; the others may then verify a \
                 choice without having made it",
            ),
            optional(
                "words",
                &[A::Count],
                DefaultValue::Absent,
                "words of each text that are looked at; where models' answers are cut short, people's \
                 texts must be too, or they seem longer by style",
            ),
        ],
        returns: Type::Divergence,
        metrics: Vec::new(),
        places: Places::Anywhere,
        cacheable: true,
        numeric: true,
        example: "embed(r, against: plain, space: style)".into(),
    }
}

fn decompose() -> Kind {
    Kind {
        name: "decompose".into(),
        version: 5,
        role: Role::Stage,
        doc: "Decomposes divergences into named style coefficients and publishes the catalog: \
          lexicon, metric and every pLLM's coefficients."
            .into(),
        args: vec![
            required("divergences", &[A::Divergences], "one for each pLLM; keys become names"),
            optional(
                "space",
                &[A::Space],
                DefaultValue::Absent,
                "the space, where the divergences do not name it",
            ),
            optional(
                "words",
                &[A::Dataset],
                DefaultValue::Absent,
                "further style words: rows with prompt `word` and response `text in that style`",
            ),
            optional(
                "method",
                &[word(&["sparse", "ridge", "omp", "paper"])],
                DefaultValue::Text("sparse".into()),
                "how coefficients are found",
            ),
            optional(
                "reference",
                &[A::Divergence],
                DefaultValue::Absent,
                "how people's plain texts differ from the base's answers; taken off every user before selection",
            ),
            optional("max_words", &[A::Count], DefaultValue::Int(5), "words of a pLLM at most"),
            optional(
                "centre",
                &[A::Bool],
                DefaultValue::Bool(true),
                "whether what all pLLMs share is taken off before words are looked for",
            )
            .needs(Need::Word("method", &["sparse", "ridge", "omp"])),
            optional(
                "whiten",
                &[A::Bool],
                DefaultValue::Bool(true),
                "whether the metric is whitened by how a style varies from prompt to prompt",
            )
            .needs(Need::Word("method", &["sparse", "ridge", "omp"])),
            optional("seed", &[A::Int], DefaultValue::Int(0), "seed of the bootstrap"),
        ],
        returns: Type::Catalog,
        metrics: Vec::new(),
        places: Places::Anywhere,
        cacheable: true,
        numeric: true,
        example: "decompose(drift)".into(),
    }
}

fn select() -> Kind {
    Kind {
        name: "select".into(),
        version: 9,
        role: Role::Stage,
        doc: "Chooses where a user's training should start: the nearest pLLM, a mix of several, or the base. With \
          `verify`, likelihood decides: `pllm` is the single pLLM under which the rows are most likely, or the \
          base, and a mix is the start only where it is better than that."
            .into(),
        args: vec![
            required("catalog", &[A::Catalog], "the catalog"),
            required("user", &[A::Divergence], "the user's texts in the same space"),
            optional(
                "verify",
                &[A::Dataset],
                DefaultValue::Absent,
                "the user's rows; the likelihood of the shortlist and of the mix decides, on as many as it \
                 takes. Where `user` was made from some of these rows, the others verify; where from all, half of \
                 them choose and the other half verifies. Where these leave the best single pLLM open, all rows \
                 are asked",
            ),
            optional("shortlist", &[A::Count], DefaultValue::Int(3), "pLLMs that are verified").needs(Need::Given("verify")).needs(Need::Word("strategy", &["nearest"])),
            optional(
                "strategy",
                &[word(&["nearest", "exhaustive", "bayesian", "hyperband"])],
                DefaultValue::Text("nearest".into()),
                "which pLLMs are asked for their likelihood of `verify`: the nearest; all; or those that \
                 Bayesian optimisation over the space or Hyperband over rows would ask",
            ),
            optional(
                "budget",
                &[A::Count],
                DefaultValue::Absent,
                "pLLMs that `bayesian` asks at most; left out, all",
            ).needs(Need::Word("strategy", &["bayesian"])),
            optional(
                "metric",
                &[word(&["whitened", "cosine", "l1"])],
                DefaultValue::Text("whitened".into()),
                "distance: whitened with fitted strength, cosine, or L1 over coefficients (the paper's)",
            ),
            optional(
                "max_mix",
                &[A::Count],
                DefaultValue::Int(3),
                "pLLMs in a mix at most; 1 forbids mixing, with the base too",
            ),
            optional("seed", &[A::Int], DefaultValue::Int(0), "seed of the bootstrap"),
        ],
        returns: Type::Selection,
        metrics: Vec::new(),
        places: Places::Anywhere,
        cacheable: true,
        numeric: true,
        example: "select(catalog, user: me)".into(),
    }
}

fn merge() -> Kind {
    Kind {
        name: "merge".into(),
        version: 2,
        role: Role::Stage,
        doc: "Merges pLLMs of one base by weights. Adapters are merged exactly, by concatenation, \
          or to a given rank with a reported error; full weights are streamed. With the base b, pLLMs mᵢ \
          and weights wᵢ, `task_arithmetic` is b + Σ wᵢ (mᵢ − b), and `linear` the weighted average \
          Σ wᵢ mᵢ / Σ wᵢ, in which the base counts where it is a term. `ties` keeps the share `density` of \
          each difference from the base that is largest by magnitude, per tensor, all equal entries at the \
          threshold included; elects each entry's sign by the weighted sum; and averages the entries of \
          that sign by weight, Σ wᵢ δᵢ / Σ |wᵢ|. So only the proportions of its weights matter, and a \
          negative weight subtracts. `dare` drops entries at random and scales the others by \
          1 / `density`. Numbers that are not finite are refused."
            .into(),
        args: vec![
            required("mix", &[A::Mix], "weights over pLLMs"),
            optional(
                "method",
                &[word(&["task_arithmetic", "linear", "ties", "dare"])],
                DefaultValue::Text("task_arithmetic".into()),
                "how weights are combined; `ties` and `dare` are for full models only",
            ),
            optional(
                "rank",
                &[A::Count],
                DefaultValue::Absent,
                "rank of the merged adapter; left out, it is the sum and exact. For adapters only",
            ),
            optional(
                "density",
                &[A::Float],
                DefaultValue::Absent,
                "share of a difference's entries that is kept, above 0 and up to 1; left out, 0.5",
            )
            .needs(Need::Word("method", &["ties", "dare"])),
            optional("seed", &[A::Int], DefaultValue::Absent, "seed of what is dropped; left out, 0")
                .needs(Need::Word("method", &["dare"])),
        ],
        returns: Type::Pllm,
        metrics: of_kind("merge"),
        places: Places::Anywhere,
        cacheable: true,
        numeric: true,
        example: "merge(0.6 * a + 0.4 * b)".into(),
    }
}

fn finetune() -> Kind {
    Kind {
        name: "finetune".into(),
        version: 2,
        role: Role::Stage,
        doc: "Fine-tunes a model on rows, with the loss on responses only. Starting from an adapter, \
          it trains that adapter further with its own rank, scale and targets: a `rank`, `alpha`, `targets` or \
          `rslora` that says otherwise is refused."
            .into(),
        args: finetune_args(),
        returns: Type::Pllm,
        metrics: of_kind("finetune"),
        places: Places::Anywhere,
        cacheable: true,
        numeric: true,
        example: "finetune(base, data: mine, until: loss < 1.9, max_steps: 400)".into(),
    }
}

fn finetune_args() -> Vec<Arg> {
    let mut args = finetune_data();
    args.extend(finetune_adapter());
    args.extend(finetune_training());
    args
}

/// Where training starts, and what decides when it ends.
fn finetune_data() -> Vec<Arg> {
    vec![
        required("from", &[A::Pllm, A::Model], "where to start"),
        required("data", &[A::Dataset], "the rows"),
        optional(
            "eval",
            &[A::Dataset],
            DefaultValue::Absent,
            "rows held back, whose loss decides; left out, a tenth of `data` is",
        ),
        optional(
            "until",
            &[A::Condition],
            DefaultValue::Absent,
            "stop as soon as this holds of the held-back rows",
        ),
    ]
}

/// What is trained: an adapter's shape.
fn finetune_adapter() -> Vec<Arg> {
    vec![
        optional(
            "method",
            &[word(&["lora", "full"])],
            DefaultValue::Text("lora".into()),
            "train an adapter, or all weights",
        ),
        optional("rank", &[A::Count], DefaultValue::Int(8), "rank of a new adapter")
            .needs(Need::Word("method", &["lora"])),
        optional(
            "alpha",
            &[A::Float],
            DefaultValue::Absent,
            "scale of a new adapter times its rank; left out, twice the rank",
        )
        .needs(Need::Word("method", &["lora"])),
        optional(
            "targets",
            &[A::Texts],
            DefaultValue::Absent,
            "projections that a new adapter changes; left out, all linear ones",
        )
        .needs(Need::Word("method", &["lora"])),
        optional(
            "rslora",
            &[A::Bool],
            DefaultValue::Bool(false),
            "scale a new adapter by `alpha` / √`rank` instead of `alpha` / `rank`",
        )
        .needs(Need::Word("method", &["lora"])),
        optional(
            "dropout",
            &[A::Float],
            DefaultValue::Float(0.0),
            "share of an adapter's inputs that are set to zero while training",
        )
        .needs(Need::Word("method", &["lora"])),
    ]
}

/// How it is trained.
fn finetune_training() -> Vec<Arg> {
    vec![
        optional("learning_rate", &[A::Float], DefaultValue::Float(0.001), "peak learning rate"),
        optional(
            "weight_decay",
            &[A::Float],
            DefaultValue::Absent,
            "decay of weight matrices; left out, 0 for adapters and 0.01 for all weights",
        ),
        optional(
            "clip",
            &[A::Float],
            DefaultValue::Float(1.0),
            "largest norm of all gradients together; 0 does not clip",
        ),
        optional(
            "batch",
            &[A::Count],
            DefaultValue::Int(8),
            "rows a step; put through the model in as many parts as the memory limit asks for",
        ),
        optional("max_steps", &[A::Count], DefaultValue::Int(400), "steps at most"),
        optional("warmup", &[A::Int], DefaultValue::Int(10), "steps over which the rate rises"),
        optional(
            "schedule",
            &[word(&["cosine", "constant"])],
            DefaultValue::Text("cosine".into()),
            "the rate after warm-up: falls to a tenth at `max_steps`, or stays",
        ),
        optional("eval_every", &[A::Count], DefaultValue::Int(10), "steps between evaluations"),
        optional(
            "patience",
            &[A::Count],
            DefaultValue::Absent,
            "stop after so many evaluations in a row without a new best loss",
        ),
        optional(
            "max_tokens",
            &[A::Count],
            DefaultValue::Int(512),
            "tokens of a row at most; longer rows are cut at the end",
        ),
        optional(
            "seed",
            &[A::Int],
            DefaultValue::Int(0),
            "seed of the initial adapter and of the order of rows",
        ),
    ]
}

fn evaluate() -> Kind {
    Kind {
        name: "evaluate".into(),
        version: 2,
        role: Role::Stage,
        doc: "Measures a model on rows: loss, perplexity, bits per byte, and BLEU and ROUGE of what \
          it answers. A few answers are kept beside the numbers and never released."
            .into(),
        args: vec![
            required("model", &[A::Pllm, A::Model], "the model"),
            required("data", &[A::Dataset], "the rows"),
            optional(
                "answers",
                &[A::Int],
                DefaultValue::Int(3),
                "rows that are answered; 0 measures the likelihood only",
            ),
            optional("max_tokens", &[A::Count], DefaultValue::Int(128), "tokens of an answer at most")
                .needs(Need::AboveZero("answers")),
        ],
        returns: Type::Metrics,
        metrics: of_kind("evaluate"),
        places: Places::Anywhere,
        cacheable: true,
        numeric: true,
        example: "evaluate(tuned, data: mine)".into(),
    }
}

fn accuracy() -> Kind {
    Kind {
        name: "accuracy".into(),
        version: 1,
        role: Role::Stage,
        doc: "The share of selections that chose the pLLM named by the first part of their key, \
          with a 95% interval, in all and for each value of the key's other parts; and what they \
           cost on average: forward passes, bytes, seconds."
            .into(),
        args: vec![required(
            "selections",
            &[A::Selections],
            "keyed by the right pLLM, then by what to group by",
        )],
        returns: Type::Metrics,
        metrics: of_kind("accuracy"),
        places: Places::Anywhere,
        cacheable: true,
        numeric: false,
        example: "accuracy(picked)".into(),
    }
}
