//! What config.json means, and what is refused.

use super::*;
use serde_json::json;

fn read(change: impl FnOnce(&mut Value)) -> Result<DecoderConfig, LmError> {
    let mut j = json!({
        "model_type": "llama", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 160, "rms_norm_eps": 1e-5,
    });
    change(&mut j);
    DecoderConfig::from_json(Path::new("config.json"), &j)
}

#[test]
fn both_spellings_of_rope_mean_the_same() {
    let scaling = json!({"rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0,
            "high_freq_factor": 4.0, "original_max_position_embeddings": 64});
    let old = read(|j| {
        j["rope_theta"] = json!(500000.0);
        j["rope_scaling"] = scaling.clone();
    });
    let new = read(|j| {
        j["rope_parameters"] = scaling.clone();
        j["rope_parameters"]["rope_theta"] = json!(500000.0);
    });
    let (old, new) = (old.unwrap(), new.unwrap());
    assert_eq!(old, new);
    let f = old.rope_frequencies();
    assert_eq!(f[0], 1.0, "a short wavelength is kept");
    assert!((f[3] / (500000f64.powf(-0.75) / 32.0) as f32 - 1.0).abs() < 1e-6, "a long one is divided");
}

#[test]
fn a_sliding_window_is_refused_where_it_has_an_effect() {
    let window = |window: Value, first: u64, types: Value| {
        read(|j| {
            j["model_type"] = json!("qwen2");
            j["max_position_embeddings"] = json!(128);
            j["use_sliding_window"] = json!(true);
            j["sliding_window"] = window;
            j["max_window_layers"] = json!(first);
            if !types.is_null() {
                j["layer_types"] = types;
            }
        })
    };
    let refused = |c: Result<DecoderConfig, LmError>| c.unwrap_err().to_string();
    assert!(refused(window(json!(64), 1, Value::Null)).contains("use_sliding_window"));
    assert!(window(json!(64), 2, Value::Null).is_ok(), "no layer has it");
    assert!(window(json!(128), 0, Value::Null).is_ok(), "it holds the whole context");
    assert!(window(Value::Null, 0, Value::Null).is_ok());
    let absent = read(|j| {
        j["model_type"] = json!("qwen2");
        j["max_position_embeddings"] = json!(8192);
        j["use_sliding_window"] = json!(true);
        j["max_window_layers"] = json!(0);
    });
    assert!(refused(absent).contains("use_sliding_window"), "transformers' default is 4096 tokens");
    let types = json!(["full_attention", "sliding_attention"]);
    assert!(refused(window(json!(64), 2, types.clone())).contains("layer_types"));
    assert!(window(json!(256), 0, types).is_ok());
}

/// Whatever a configuration states, nothing of that size is made before the weights were seen.
#[test]
fn sizes_have_a_largest_value() {
    for key in [
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "head_dim",
        "vocab_size",
        "max_position_embeddings",
    ] {
        for huge in [u64::MAX, 1 << 40, (1 << 24) + 1] {
            let e = read(|j| j[key] = json!(huge)).unwrap_err().to_string();
            assert!(e.contains(key) && e.contains(&huge.to_string()), "{e}");
        }
    }
    let most = read(|j| {
        j["hidden_size"] = json!(1 << 20);
        j["intermediate_size"] = json!(1 << 20);
        j["num_hidden_layers"] = json!(1 << 12);
        j["vocab_size"] = json!(1 << 24);
    });
    assert!(most.unwrap().parameters() > 1 << 50, "counted without overflow");
}

#[test]
fn unsupported_keys_are_named() {
    let cases: [(&str, Value); 5] = [
        ("hidden_act", json!("gelu")),
        ("quantization_config", json!({"bits": 4})),
        ("rope_scaling", json!({"rope_type": "yarn", "factor": 4.0})),
        ("layer_types", json!(["full_attention", "sliding_attention"])),
        ("num_key_value_heads", json!(3)),
    ];
    for (key, value) in cases {
        let e = read(|j| j[key] = value).unwrap_err().to_string();
        assert!(e.contains(key), "{e}");
    }
    assert!(read(|j| j["model_type"] = json!("mamba")).unwrap_err().to_string().contains("model_type"));
}

/// What the files published with these models say, and the numbers of weights they have.
#[test]
fn published_models_have_their_published_sizes() {
    let read = |j: Value| DecoderConfig::from_json(Path::new("config.json"), &j).unwrap();
    let smollm = read(json!({"model_type": "llama", "attention_bias": false, "hidden_act": "silu",
            "hidden_size": 576, "intermediate_size": 1536, "max_position_embeddings": 2048,
            "num_attention_heads": 9, "num_hidden_layers": 30, "num_key_value_heads": 3, "pretraining_tp": 1,
            "rms_norm_eps": 1e-5, "rope_scaling": null, "rope_theta": 10000.0, "tie_word_embeddings": true,
            "torch_dtype": "bfloat16", "vocab_size": 49152}));
    assert_eq!((smollm.parameters(), smollm.head_dim), (134_515_008, 64));
    let smollm2 = read(json!({"model_type": "llama", "attention_bias": false, "hidden_act": "silu",
            "hidden_size": 960, "intermediate_size": 2560, "is_llama_config": true, "mlp_bias": false,
            "max_position_embeddings": 8192, "num_attention_heads": 15, "num_hidden_layers": 32,
            "num_key_value_heads": 5, "rms_norm_eps": 1e-5, "rope_interleaved": false, "rope_scaling": null,
            "rope_theta": 100000, "tie_word_embeddings": true, "vocab_size": 49152}));
    assert_eq!(smollm2.parameters(), 361_821_120);
    let llama = read(json!({"model_type": "llama", "attention_bias": false, "head_dim": 64,
            "hidden_act": "silu", "hidden_size": 2048, "intermediate_size": 8192, "mlp_bias": false,
            "max_position_embeddings": 131072, "num_attention_heads": 32, "num_hidden_layers": 16,
            "num_key_value_heads": 8, "rms_norm_eps": 1e-5, "rope_scaling": {"factor": 32.0,
                "high_freq_factor": 4.0, "low_freq_factor": 1.0, "original_max_position_embeddings": 8192,
                "rope_type": "llama3"}, "rope_theta": 500000.0, "tie_word_embeddings": true,
            "eos_token_id": [128001, 128008, 128009], "vocab_size": 128256}));
    assert_eq!((llama.parameters(), llama.eos.len()), (1_235_814_400, 3));
    // A window that is switched off, as in all small Qwen2 and Qwen2.5 models.
    let qwen = read(json!({"model_type": "qwen2", "hidden_act": "silu", "hidden_size": 896,
            "intermediate_size": 4864, "max_position_embeddings": 32768, "max_window_layers": 24,
            "num_attention_heads": 14, "num_hidden_layers": 24, "num_key_value_heads": 2,
            "rms_norm_eps": 1e-6, "rope_theta": 1000000.0, "sliding_window": 32768,
            "tie_word_embeddings": true, "use_sliding_window": false, "vocab_size": 151936}));
    assert_eq!((qwen.parameters(), qwen.qkv_bias), (494_032_768, true));
}

#[test]
fn qwen2_has_biases_on_q_k_v_only() {
    let c = read(|j| j["model_type"] = json!("qwen2")).unwrap();
    assert!(c.qkv_bias && !c.o_bias && !c.mlp_bias);
}
