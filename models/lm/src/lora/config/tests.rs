//! What adapter_config.json means, and what is refused.

use super::*;

fn read(change: impl FnOnce(&mut Value)) -> Result<AdapterConfig, LmError> {
    let mut j = json!({"peft_type": "LORA", "r": 8, "lora_alpha": 16, "target_modules": ["q_proj"]});
    change(&mut j);
    AdapterConfig::from_json(Path::new(FILE), &j)
}

#[test]
fn scales_follow_patterns_and_rslora() {
    let c = read(|j| {
        j["use_rslora"] = json!(true);
        j["rank_pattern"] = json!({"layers.1.self_attn.q_proj": 4});
        j["alpha_pattern"] = json!({"q_proj": 6});
    });
    let c = c.unwrap();
    assert_eq!(c.module(1, Proj::Q).unwrap(), Some((4, 3.0)));
    assert_eq!(c.module(11, Proj::Q).unwrap(), Some((8, (6.0 / 8f64.sqrt()) as f32)), "not layer 1");
    assert_eq!(c.module(1, Proj::V).unwrap(), None);
}

/// PEFT 0.21: the first key of the file that matches decides, whichever comes first in the alphabet.
#[test]
fn the_first_pattern_of_the_file_decides() {
    let read = |patterns: &str| {
        let text = format!(
            r#"{{"peft_type": "LORA", "r": 8, "lora_alpha": 16, "target_modules": ["q_proj", "v_proj"], {patterns}}}"#
        );
        AdapterConfig::from_text(Path::new(FILE), &text).unwrap()
    };
    let scale = |c: &AdapterConfig, block| c.module(block, Proj::Q).unwrap().unwrap();
    let narrow = read(r#""alpha_pattern": {"q_proj": 4, "layers.0.self_attn.q_proj": 40}"#);
    assert_eq!(scale(&narrow, 0), (8, 0.5));
    let wide = read(r#""alpha_pattern": {"layers.0.self_attn.q_proj": 40, "q_proj": 4}"#);
    assert_eq!((scale(&wide, 0), scale(&wide, 1)), ((8, 5.0), (8, 0.5)));
    let ranks = read(r#""rank_pattern": {"self_attn.q_proj": 2, ".*q_proj": 4, "^model.layers.1.*": 1}"#);
    assert_eq!((scale(&ranks, 0), scale(&ranks, 1)), ((2, 8.0), (2, 8.0)));
    let ranks = read(r#""rank_pattern": {"model\\.layers\\.(1|3)\\..*": 1, "q_proj": 2}"#);
    assert_eq!((scale(&ranks, 0).0, scale(&ranks, 3).0), (2, 1));
    // A key that is there twice has its last value at its first place, as in Python.
    let twice = read(r#""alpha_pattern": {"q_proj": 4, "self_attn.q_proj": 8, "q_proj": 24}"#);
    assert_eq!(scale(&twice, 0), (8, 3.0));
    // What is written keeps the order.
    for config in [narrow, wide, ranks] {
        let text = serde_json::to_string(&config).unwrap();
        assert_eq!(AdapterConfig::from_text(Path::new(FILE), &text).unwrap(), config, "{text}");
    }
}

#[test]
fn a_module_that_is_named_in_full_is_changed_in_any_block() {
    let c = read(|j| {
        j["target_modules"] = json!(["model.layers.0.self_attn.q_proj", "v_proj"]);
        j["layers_to_transform"] = json!([1]);
    });
    let c = c.unwrap();
    let hit = |block, p| c.module(block, p).unwrap().is_some();
    assert_eq!(
        (hit(0, Proj::Q), hit(1, Proj::Q), hit(0, Proj::V), hit(1, Proj::V)),
        (true, false, false, true)
    );
    let e = read(|j| {
        j["target_modules"] = json!(".*q_proj");
        j["layers_to_transform"] = json!([1]);
    });
    assert!(e.unwrap_err().to_string().contains("layers_to_transform"));
}

#[test]
fn targets_are_names_or_an_expression_over_the_whole_name() {
    let hits = |v: Value| {
        let c = read(|j| j["target_modules"] = v).unwrap();
        Proj::ALL.map(|p| c.module(0, p).unwrap().is_some())
    };
    assert_eq!(hits(json!("all-linear")), [true; 7]);
    assert_eq!(hits(json!(r".*\.(gate|up)_proj")), [false, false, false, false, true, true, false]);
    assert_eq!(hits(json!("q_proj")), [false; 7], "an expression must match the whole name");
    let ahead = json!(r"^(?!.*visual)(?:.*\.)?(?:q_proj|down_proj)");
    assert_eq!(hits(ahead), [true, false, false, false, false, false, true], "as LLaMA-Factory writes");
    let c = read(|j| j["layers_to_transform"] = json!([2])).unwrap();
    assert!(c.module(0, Proj::Q).unwrap().is_none() && c.module(2, Proj::Q).unwrap().is_some());
}

#[test]
fn unsupported_options_are_refused_by_name() {
    let cases = [
        ("use_dora", json!(true)),
        ("bias", json!("lora_only")),
        ("modules_to_save", json!(["lm_head"])),
        ("init_lora_weights", json!("pissa")),
        ("init_lora_weights", json!("pissa_niter_16")),
        ("init_lora_weights", json!("olora")),
        ("init_lora_weights", json!("loftq")),
        ("lora_bias", json!(true)),
        ("use_qalora", json!(true)),
        ("target_parameters", json!(["mlp.experts.gate_up_proj"])),
        ("trainable_token_indices", json!([1, 2])),
        ("layer_replication", json!([[0, 4], [2, 5]])),
        ("layers_pattern", json!("h")),
        ("fan_in_fan_out", json!(true)),
        ("peft_type", json!("IA3")),
        ("r", json!(0)),
    ];
    for (key, value) in cases {
        let e = read(|j| j[key] = value).unwrap_err().to_string();
        assert!(e.contains(key) && e.contains(FILE), "{e}");
    }
    assert!(read(|j| j["some_new_key"] = json!({"a": 1})).is_ok(), "unknown keys are let pass");
}
