//! Sources: where models, datasets and spaces come from.

use super::Accepts as A;
use super::{Arg, DefaultValue, Kind, Places, Role, optional, required, word};
use crate::types::Type;

pub(super) fn sources() -> Vec<Kind> {
    vec![local(), hf(), init(), jsonl(), blend(), concat(), sentence(), summarizer(), pooled()]
}

/// The day that chat templates are told.
fn date() -> Arg {
    optional(
        "date",
        &[A::Text],
        DefaultValue::Absent,
        "the day that a chat template is told which asks for today's, such as \"2026-01-31\"; without it \
         always 2024-07-26, so that results do not depend on when they are computed",
    )
}

fn local() -> Kind {
    Kind {
        name: "local".into(),
        version: 2,
        role: Role::Model,
        doc: "A model folder: config.json, tokenizer.json and safetensors files. Decoders of type \
          llama and qwen2 and encoders of type bert are read."
            .into(),
        args: vec![required("path", &[A::Path], "the folder"), date()],
        returns: Type::Model,
        metrics: Vec::new(),
        places: Places::Anywhere,
        cacheable: false,
        numeric: false,
        example: "local(\"models/tiny\")".into(),
    }
}

fn hf() -> Kind {
    Kind {
        name: "hf".into(),
        version: 2,
        role: Role::Model,
        doc: "A model of the Hugging Face hub. On the engine's machine what is missing of it is downloaded before a \
          run begins, into the cache that the hub's tools use (`HF_HOME`), with their settings (`HF_TOKEN`, \
          `HF_ENDPOINT`, `HF_HUB_OFFLINE`); a branch or tag is replaced by the commit that it stands for then. A \
          device reads its own cache, and downloads nothing."
            .into(),
        args: vec![
            required("repo", &[A::Text], "owner and name"),
            optional(
                "revision",
                &[A::Text],
                DefaultValue::Text("main".into()),
                "a commit, so that the model cannot change; or a branch or tag",
            ),
            date(),
        ],
        returns: Type::Model,
        metrics: Vec::new(),
        places: Places::Anywhere,
        cacheable: true,
        numeric: false,
        example: "hf(\"Qwen/Qwen2-0.5B\", revision: \"91d2aff3f957f99e4c74c962f2f408dcc88a18d8\")".into(),
    }
}

fn init() -> Kind {
    Kind {
        name: "init".into(),
        version: 1,
        role: Role::Model,
        doc: "A new model with random weights, and a byte-level BPE tokenizer trained on a dataset.".into(),
        args: vec![
            required("config", &[A::Path], "a config.json in the published format"),
            required("corpus", &[A::Dataset, A::Datasets], "what the tokenizer is trained on"),
            optional("vocab", &[A::Int], DefaultValue::Int(2048), "entries of the tokenizer's vocabulary"),
            optional("seed", &[A::Int], DefaultValue::Int(0), "seed of the random weights"),
        ],
        returns: Type::Model,
        metrics: Vec::new(),
        places: Places::Server,
        cacheable: false,
        numeric: true,
        example: "init(\"tiny.json\", corpus: questions, vocab: 4096)".into(),
    }
}

fn jsonl() -> Kind {
    Kind {
        name: "jsonl".into(),
        version: 2,
        role: Role::Dataset,
        doc: "Rows of a JSON Lines file, an object a line. In a conversation, an answer with `weight: 0` or \
          `train: false` is context and has no part in a loss, and `system` beside the list is its system message. \
          Rows with tools, reasoning or other keys that a chat template could read are refused."
            .into(),
        args: vec![
            required("path", &[A::Path, A::Paths], "the file, or several that are read one after another"),
            optional(
                "prompt",
                &[A::Text, A::Texts],
                DefaultValue::Text("prompt".into()),
                "the key of the prompt; several are joined with a line break, empty ones left out",
            ),
            optional(
                "response",
                &[A::Text],
                DefaultValue::Text("response".into()),
                "the key of the response; a file of bare prompts may lack it",
            ),
            optional(
                "messages",
                &[A::Text],
                DefaultValue::Text("messages".into()),
                "the key of a whole conversation, a list of `{role, content}`; rows that have it need no \
             prompt and response",
            ),
            optional(
                "turns",
                &[word(&["all", "first"])],
                DefaultValue::Text("all".into()),
                "what is taken of a conversation: all of it, or its first question and answer",
            ),
            optional(
                "skip",
                &[A::Int],
                DefaultValue::Int(0),
                "rows left out at the start, after sorting if `sort` is set",
            ),
            optional("take", &[A::Count], DefaultValue::Absent, "rows taken at most"),
            optional(
                "sort",
                &[A::Bool],
                DefaultValue::Bool(false),
                "orders rows by the digest of their prompt, so that files with the same prompts are cut alike",
            ),
        ],
        returns: Type::Dataset,
        metrics: Vec::new(),
        places: Places::Anywhere,
        cacheable: false,
        numeric: false,
        example: "jsonl(\"me.jsonl\")".into(),
    }
}

fn blend() -> Kind {
    Kind {
        name: "blend".into(),
        version: 1,
        role: Role::Dataset,
        doc: "A simulated user: rows of which a share comes from one dataset and the rest, on other \
          prompts, from another. Both must answer the same prompts."
            .into(),
        args: vec![
            required("styled", &[A::Dataset], "rows in the user's style"),
            required("plain", &[A::Dataset], "rows in the default style"),
            required("share", &[A::Float], "share of styled rows, 0 to 1"),
            optional("rows", &[A::Count], DefaultValue::Int(50), "rows in all"),
            optional("seed", &[A::Int], DefaultValue::Int(0), "seed of the draw"),
        ],
        returns: Type::Dataset,
        metrics: Vec::new(),
        places: Places::Anywhere,
        cacheable: true,
        numeric: false,
        example: "blend(humorous, plain: default, share: 0.7)".into(),
    }
}

fn concat() -> Kind {
    Kind {
        name: "concat".into(),
        version: 1,
        role: Role::Dataset,
        doc: "The rows of several datasets, one after another.".into(),
        args: vec![required("datasets", &[A::Datasets], "the datasets")],
        returns: Type::Dataset,
        metrics: Vec::new(),
        places: Places::Anywhere,
        cacheable: true,
        numeric: false,
        example: "concat(styles)".into(),
    }
}

fn sentence() -> Kind {
    Kind {
        name: "sentence".into(),
        version: 2,
        role: Role::Space,
        doc: "A sentence encoder's vectors, pooled and normalized as its modules.json says (the normalized mean \
          without one), with plain stylometric features beside them. Long texts are embedded in windows and averaged."
            .into(),
        args: vec![required("model", &[A::Path, A::Model], "the encoder: a folder, or a model")],
        returns: Type::Space,
        metrics: Vec::new(),
        places: Places::Anywhere,
        cacheable: false,
        numeric: false,
        example: "sentence(\"models/all-MiniLM-L6-v2\")".into(),
    }
}

fn summarizer() -> Kind {
    Kind {
        name: "summarizer".into(),
        version: 1,
        role: Role::Space,
        doc: "The published method's space: the hidden state of the token that would follow a \
          question about which language style is more characteristic of one answer than of \
          the other, asked in both orders and averaged."
            .into(),
        args: vec![
            required("model", &[A::Model], "an instruction-tuned causal language model"),
            optional(
                "orders",
                &[word(&["both", "forth"])],
                DefaultValue::Text("both".into()),
                "orders of the two answers: both, halved and subtracted, or the described answer first",
            ),
        ],
        returns: Type::Space,
        metrics: Vec::new(),
        places: Places::Anywhere,
        cacheable: true,
        numeric: false,
        example: "summarizer(base)".into(),
    }
}

fn pooled() -> Kind {
    Kind {
        name: "pooled".into(),
        version: 1,
        role: Role::Space,
        doc: "The mean hidden state of a causal language model, with plain stylometric features \
          beside it. Needs no model beyond the one that is personalized."
            .into(),
        args: vec![required("model", &[A::Model, A::Pllm], "a causal language model")],
        returns: Type::Space,
        metrics: Vec::new(),
        places: Places::Anywhere,
        cacheable: true,
        numeric: false,
        example: "pooled(base)".into(),
    }
}
