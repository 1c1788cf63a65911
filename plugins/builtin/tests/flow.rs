//! The whole flow on the real backend, small: a base is trained, two styles are cached, explained,
//! chosen from, merged and trained further. What is asserted is what a user relies on.

#![allow(clippy::unwrap_used, reason = "clippy counts the helpers of a test as no test")]

use headstart_protocol::{ArtifactRef, MixTerm, Value};
use headstart_runner::StageRegistry;
use headstart_testkit::MemoryContext;
use headstart_train::default_backend;
use serde_json::json;

const THINGS: [&str; 24] = [
    "rain", "snow", "wind", "fire", "ice", "sand", "salt", "gold", "iron", "wood", "milk", "bread", "honey",
    "tea", "wine", "ink", "silk", "wool", "glass", "clay", "coal", "oil", "wax", "rope",
];

/// Answers to the questions about a range of things.
fn rows(range: std::ops::Range<usize>, answer: impl Fn(&str) -> String) -> Vec<(String, String)> {
    THINGS[range].iter().map(|t| (format!("What is {t}?"), answer(t))).collect()
}

fn plain(thing: &str) -> String {
    format!("It is {thing}. We use {thing} at home.")
}

fn loud(thing: &str) -> String {
    format!("WOW! {thing}! YES! YES! {thing}! SO GOOD!!!")
}

fn formal(thing: &str) -> String {
    format!(
        "Permit me to explain, with due respect, that {thing} is hereby described as {thing}, kind reader."
    )
}

struct Flow {
    ctx: MemoryContext,
    registry: StageRegistry,
}

impl Flow {
    fn run<'a>(&self, kind: &str, args: impl IntoIterator<Item = (&'a str, Value)>) -> ArtifactRef {
        let stage = self.registry.built_in(kind).unwrap();
        self.ctx.run(stage, args).unwrap_or_else(|e| panic!("{kind}: {e}"))
    }

    fn dataset(&self, rows: &[(String, String)]) -> ArtifactRef {
        let rows: Vec<(&str, &str)> = rows.iter().map(|(p, r)| (p.as_str(), r.as_str())).collect();
        self.ctx.dataset(&rows)
    }

    fn metric(&self, pllm: &ArtifactRef, name: &str) -> f64 {
        self.ctx.value_of(pllm)["metrics"][name].as_f64().unwrap_or_else(|| panic!("no metric {name}"))
    }

    /// A base with random weights, then trained in full on plain answers.
    fn base(&self) -> ArtifactRef {
        let config = json!({
            "model_type": "llama", "hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 2,
            "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128,
            "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": true,
        });
        let config = self.ctx.write("tiny.json", config.to_string());
        let corpus: Vec<(String, String)> =
            [plain, loud, formal].into_iter().flat_map(|style| rows(0..24, style)).collect();
        let args = [
            ("config", Value::Path(config.display().to_string())),
            ("corpus", artifact(&self.dataset(&corpus))),
            ("vocab", Value::Int(400)),
        ];
        let new = self.run("init", args);
        let data = self.dataset(&rows(0..24, plain));
        self.run(
            "finetune",
            [
                ("from", artifact(&new)),
                ("data", artifact(&data)),
                ("method", Value::Text("full".into())),
                ("max_steps", Value::Int(120)),
                ("learning_rate", Value::Float(0.005)),
            ],
        )
    }

    fn adapter(&self, from: &ArtifactRef, data: &[(String, String)], steps: i64) -> ArtifactRef {
        self.run(
            "finetune",
            [
                ("from", artifact(from)),
                ("data", artifact(&self.dataset(data))),
                ("max_steps", Value::Int(steps)),
                ("learning_rate", Value::Float(0.01)),
            ],
        )
    }
}

fn artifact(a: &ArtifactRef) -> Value {
    Value::Artifact(a.clone())
}

fn list(items: &[(&str, &ArtifactRef)]) -> Value {
    Value::List(items.iter().map(|(k, a)| ((*k).to_owned(), artifact(a))).collect())
}

#[test]
fn a_user_is_given_the_pllm_of_their_style_and_starts_ahead() {
    let flow = Flow {
        ctx: MemoryContext::new(),
        registry: StageRegistry::new(headstart_builtin::stages(default_backend())),
    };
    let base = flow.base();
    assert!(flow.metric(&base, "loss") < 0.5 * flow.metric(&base, "start_loss"), "the base learns");
    let styles = [
        ("loud", flow.adapter(&base, &rows(0..12, loud), 60)),
        ("formal", flow.adapter(&base, &rows(0..12, formal), 60)),
    ];
    for (name, pllm) in &styles {
        assert!(flow.metric(pllm, "loss") < 0.7 * flow.metric(pllm, "start_loss"), "{name} learns");
    }

    let questions = flow.dataset(&rows(0..8, |_| String::new()));
    let probe = |model: &ArtifactRef| {
        flow.run(
            "probe",
            [("model", artifact(model)), ("prompts", artifact(&questions)), ("max_tokens", Value::Int(40))],
        )
    };
    let space = flow.run("pooled", [("model", artifact(&base))]);
    let said = probe(&base);
    let embed = |responses: &ArtifactRef, against: &ArtifactRef| {
        flow.run(
            "embed",
            [
                ("responses", artifact(responses)),
                ("against", artifact(against)),
                ("space", artifact(&space)),
                ("max_tokens", Value::Int(40)),
            ],
        )
    };
    let drift: Vec<(&str, ArtifactRef)> =
        styles.iter().map(|(name, pllm)| (*name, embed(&probe(pllm), &said))).collect();
    let named: Vec<(&str, &ArtifactRef)> = drift.iter().map(|(n, d)| (*n, d)).collect();
    let catalog = flow.run("decompose", [("divergences", list(&named))]);

    // The user answers other questions, loudly.
    let mine = rows(12..20, loud);
    let me = embed(&flow.dataset(&mine), &base);
    let pick = flow.run("select", [("catalog", artifact(&catalog)), ("user", artifact(&me))]);
    assert_eq!(flow.ctx.manifest_of(&pick).uses["pllm"], styles[0].1, "{}", flow.ctx.value_of(&pick));

    // Starting from it, the user's own texts are far more probable than from the base.
    let from_base = flow.adapter(&base, &mine, 10);
    let from_pick = flow.adapter(&styles[0].1, &mine, 10);
    assert!(flow.metric(&from_pick, "start_loss") < 0.7 * flow.metric(&from_base, "start_loss"));
    assert_eq!(flow.ctx.manifest_of(&from_pick).uses["base"], base);

    // A mix of one pLLM with weight 1 is that pLLM.
    let term = MixTerm { weight: 1.0, pllm: styles[0].1.clone(), name: "loud".into() };
    let merged = flow.run("merge", [("mix", Value::Mix(vec![term]))]);
    let loss = |model: &ArtifactRef| {
        let data = flow.dataset(&mine);
        let args = [("model", artifact(model)), ("data", artifact(&data)), ("answers", Value::Int(0))];
        flow.ctx.value_of(&flow.run("evaluate", args))["loss"].as_f64().unwrap()
    };
    assert!((loss(&merged) - loss(&styles[0].1)).abs() < 1e-4);

    // What was answered once is not asked again.
    let passes = flow.ctx.counter("forward_passes");
    assert_eq!(probe(&base), said);
    assert_eq!(flow.ctx.counter("forward_passes"), passes);
}

#[test]
fn training_does_not_depend_on_chance() {
    let weights = || {
        let flow = Flow {
            ctx: MemoryContext::new(),
            registry: StageRegistry::new(headstart_builtin::stages(default_backend())),
        };
        let base = flow.base();
        let adapter = flow.adapter(&base, &rows(0..12, loud), 5);
        [base, adapter].map(|pllm| flow.ctx.manifest_of(&pllm).files)
    };
    assert_eq!(weights(), weights());
}
