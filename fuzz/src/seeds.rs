//! The seeds: small files that are right, for each target, in `corpus/seeds/TARGET/`.
//!
//! Most are fixtures of the tests and files of the examples; what must be small and binary is made here.

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};

use headstart_disk::SystemDisk;
use headstart_lm::gguf::{QuantType, quantize};
use headstart_lm::init_model;
use headstart_protocol::{ArtifactRef, Digest, FileRef, Manifest, Type};
use headstart_transport::signed::{Kind, Stamp, sign};
use headstart_transport::{Identity, Invitation};
use serde_json::json;

type Done = Result<(), Box<dyn Error>>;

fn put(target: &str, name: &str, bytes: impl AsRef<[u8]>) -> Done {
    let folder = PathBuf::from("corpus/seeds").join(target);
    fs::create_dir_all(&folder)?;
    Ok(fs::write(folder.join(name), bytes)?)
}

/// A model with a GGUF file of 20 kB, and its tokenizer and template.
fn models(scratch: &Path) -> Done {
    let (model, packed) = (scratch.join("model"), scratch.join("packed"));
    fs::create_dir_all(&model)?;
    let corpus = ["What is rain? Falling water.".to_owned(), "Tell me of the sea.".to_owned()];
    let config = json!({"model_type": "llama", "hidden_size": 32, "num_attention_heads": 2, "num_hidden_layers": 1,
        "intermediate_size": 32, "max_position_embeddings": 64, "rms_norm_eps": 1e-6,
        "tie_word_embeddings": true, "hidden_act": "silu"});
    fs::write(scratch.join("config.json"), config.to_string())?;
    init_model(&scratch.join("config.json"), &corpus, 270, 1, &SystemDisk, &model)?;
    quantize(&SystemDisk, &model, &packed, QuantType::Q8_0)?;
    for entry in fs::read_dir(&packed)? {
        let path = entry?.path();
        if path.extension().is_some_and(|e| e == "gguf") {
            put("gguf", "q8_0.gguf", fs::read(path)?)?;
        }
    }
    put("tokenizer", "trained.json", fs::read(model.join("tokenizer.json"))?)?;
    put("safetensors", "model.safetensors", fs::read(model.join("model.safetensors"))?)?;
    put("model_config", "small.json", fs::read(model.join("config.json"))?)
}

fn messages() -> Done {
    let (engine, device) = (Identity::from_secret(&[1; 32]), Identity::from_secret(&[2; 32]));
    let digest = Digest::of(b"weights");
    let mut manifest = Manifest {
        ty: Type::Model,
        files: [("model.safetensors".to_owned(), FileRef { digest, size: 7 })].into(),
        value: json!({"parameters": 7}),
        uses: Default::default(),
    };
    let model = ArtifactRef::public(&manifest);
    manifest.uses.insert("base".into(), model.clone());
    let task = json!({"run": "r", "instance": 1, "name": "said[\"friendly\"]", "attempt": 1, "fence": 9,
        "kind": "probe", "version": 1, "ty": "Responses", "private": true, "release": [["loss"]],
        "args": {"model": {"expr": "value", "value": {"type": "artifact", "value": model}}}, "prefetch": [model]});
    let failure = json!({"class": "input", "message": "no", "help": "yes"});
    let outcome = json!({"outcome": "succeeded", "output": model, "usage": {"seconds": 1.5, "counters": {"rows": 3}},
        "released": {"loss": {"is": "json", "value": 1.9}}});
    let progress = json!({"done": 1, "total": 9, "unit": "rows", "metrics": {"loss": 1.5}});
    let facts = json!({"threads": 2, "memory": 1024, "holds": ["charging"], "other": {"os": "linux"}});
    let all = [
        (0, json!(manifest)),
        (
            1,
            json!({"device": "phone", "protocol": 2, "version": "0.2.0", "kinds": ["probe"], "facts": facts,
            "highest_fence": 3, "challenge": "c", "nonce": "n", "proof": "00", "invitation": {"key": "k", "proof": "p"}}),
        ),
        (2, json!({"session": "s", "device": "phone", "nonce": "n"})),
        (3, json!({"task": task, "lease_ms": 9000})),
        (4, json!({"fence": 9, "outcome": outcome, "manifests": {"a": manifest}})),
        (5, json!({"commit": digest, "answer": "taken", "counts": "accepted"})),
        (6, json!({"fence": 9, "progress": progress})),
        (7, json!({"answer": "ok"})),
        (8, json!({"challenge": "c", "nonce": "n", "protocol": 2})),
        (9, json!({"code": "invalid", "message": "no"})),
        (10, json!({"facts": facts, "wait_ms": 25000})),
        (11, task),
        (12, json!({"outcome": "failed", "failure": failure})),
        (13, failure),
        (14, progress),
        (15, json!({"protocol": 2, "nonce": "n"})),
    ];
    for (kind, message) in all {
        let mut bytes = vec![kind];
        bytes.extend_from_slice(message.to_string().as_bytes());
        put("messages", &format!("{kind:02}"), bytes)?;
    }
    let stamp = Stamp { fence: 9, issued_ms: 1000, expires_ms: 2000 };
    let signed = sign(&engine, &device.public(), Kind::Grant, stamp, &json!({"a": 1}))?;
    put("signed", "grant.json", serde_json::to_vec(&signed)?)?;
    let invitation = Invitation {
        engine: engine.public(),
        url: "https://10.0.0.5:7878".into(),
        device: "phone".into(),
        token: [7; 16],
        expires_ms: 4_000_000_000_000,
    };
    put("signed", "invitation", invitation.to_string())
}

/// Writes the seeds into the current folder's `corpus` and ends the process, where `HEADSTART_FUZZ_SEEDS` is set.
/// Any target does so: a program of its own would need another build of everything.
pub fn write_if_asked() {
    if std::env::var_os("HEADSTART_FUZZ_SEEDS").is_some() {
        let done = write();
        if let Err(e) = &done {
            eprintln!("error: {e}");
        }
        std::process::exit(i32::from(done.is_err()));
    }
}

fn write() -> Done {
    let scratch = std::env::temp_dir().join(format!("headstart-fuzz-seeds-{}", std::process::id()));
    fs::create_dir_all(&scratch)?;
    let done = models(&scratch).and_then(|()| messages());
    fs::remove_dir_all(&scratch)?;
    done?;
    for (i, text) in
        ["0 3 * * *\nEurope/London", "*/5 8-17 * * mon-fri\nAmerica/New_York", "30 1 31 12 7\nUTC"]
            .into_iter()
            .enumerate()
    {
        put("cron", &i.to_string(), text)?;
    }
    Ok(())
}
