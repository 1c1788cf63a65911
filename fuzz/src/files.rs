//! Files of models, adapters and datasets.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use headstart_disk::SystemDisk;
use headstart_lm::gguf::Gguf;
use headstart_lm::lora::AdapterConfig;
use headstart_lm::{Adapter, DecoderConfig, Proj, TextCodec, Weights, encoder};
use headstart_protocol::rows::{Role, Row, Turn, from_jsonl, to_jsonl};
use headstart_protocol::{Stage, Value};
use headstart_testkit::MemoryContext;
use serde_json::json;

/// A folder of this process below `TMPDIR`, which `run.sh` puts into memory.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let at = std::env::temp_dir().join(format!("headstart-fuzz-{name}-{}", std::process::id()));
        fs::create_dir_all(&at).expect("a folder");
        Self(at)
    }

    fn write(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let at = self.0.join(name);
        fs::write(&at, bytes).expect("a file");
        at
    }
}

/// A tokenizer of a few words, which loads in microseconds.
const WORDS: &str = r#"{"version":"1.0","truncation":null,"padding":null,"added_tokens":[{"id":0,"content":"<|end|>",
"single_word":false,"lstrip":false,"rstrip":false,"normalized":false,"special":true}],"normalizer":null,
"pre_tokenizer":{"type":"Whitespace"},"post_processor":null,"decoder":null,"model":{"type":"WordLevel",
"vocab":{"<|end|>":0,"[UNK]":1,"rain":2,"What":3,"is":4},"unk_token":"[UNK]"}}"#;

/// What is tokenized and rendered: plain words, other scripts, control characters, a long run.
fn texts() -> [String; 4] {
    [
        "What is rain?".into(),
        "日本語 ü\u{301} \u{202e}x\u{0}\u{1b}[31m <|end|>{{ 1 }}".into(),
        String::new(),
        "ab ".repeat(400),
    ]
}

fn conversation() -> Row {
    let turn = |role, content: &str| Turn::new(role, content);
    let [a, b, ..] = texts();
    Row {
        prompt: b,
        response: "Falling water.".into(),
        history: vec![turn(Role::System, "Be brief."), turn(Role::User, &a), turn(Role::Assistant, "Yes.")],
    }
}

fn base() -> DecoderConfig {
    let json = json!({"model_type": "llama", "hidden_size": 8, "num_attention_heads": 2, "num_hidden_layers": 2,
        "vocab_size": 16, "intermediate_size": 12, "max_position_embeddings": 64});
    DecoderConfig::from_json(Path::new("config.json"), &json).expect("a plain configuration")
}

/// `adapter_config.json`: what is understood is written back the same, and every module has a rank that fits.
pub fn adapter_config(data: &[u8]) {
    static FOLDER: LazyLock<Folder> = LazyLock::new(|| Folder::new("adapter"));
    static BASE: LazyLock<DecoderConfig> = LazyLock::new(base);
    FOLDER.write("adapter_config.json", data);
    let Ok(config) = AdapterConfig::load(&FOLDER.0) else { return };
    let text = serde_json::to_string(&config).expect("a configuration is JSON");
    let again = AdapterConfig::from_text(&config.path, &text).expect("what it wrote itself");
    assert_eq!(again.rank, config.rank);
    assert_eq!(again.targets, config.targets);
    for block in 0..BASE.layers {
        for p in Proj::ALL {
            if let Ok(Some((rank, _))) = config.module(block, p) {
                assert!((1..=65_536).contains(&rank), "{rank}");
            }
        }
    }
    // The weights' file holds nothing: whatever ranks are stated, no memory is taken for them.
    FOLDER.write("adapter_model.safetensors", b"\x02\0\0\0\0\0\0\0{}");
    let _ = Adapter::load(&FOLDER.0, &BASE);
}

/// `config.json`, of decoders and of sentence encoders.
pub fn model_config(data: &[u8]) {
    static FOLDER: LazyLock<Folder> = LazyLock::new(|| Folder::new("config"));
    FOLDER.write("config.json", data);
    if let Ok(config) = DecoderConfig::load(&FOLDER.0) {
        assert_eq!(config.rope_frequencies().len(), config.head_dim / 2);
        assert_eq!(config.heads % config.kv_heads, 0);
    }
    let _ = encoder::check(&FOLDER.0);
}

/// `tokenizer.json`: ids lie in the vocabulary, and a row's ids are those of the model's range.
pub fn tokenizer(data: &[u8]) {
    static FOLDER: LazyLock<Folder> = LazyLock::new(|| {
        let folder = Folder::new("tokenizer");
        folder.write("tokenizer_config.json", br#"{"eos_token": "<|end|>"}"#);
        folder
    });
    FOLDER.write("tokenizer.json", data);
    let Ok(codec) = TextCodec::load(&FOLDER.0) else { return };
    for text in texts() {
        let _ = codec.prompt_ids(&text);
    }
    if let Ok((ids, spans)) = codec.row_ids(&conversation()) {
        assert!(spans.iter().all(|s| s.start <= s.end && s.end <= ids.len()), "{spans:?} of {}", ids.len());
    }
}

/// A safetensors file: every tensor that it names lies in it.
pub fn safetensors(data: &[u8]) {
    static FOLDER: LazyLock<Folder> = LazyLock::new(|| Folder::new("safetensors"));
    let path = FOLDER.write("model.safetensors", data);
    if let Ok(weights) = Weights::open(&[path]) {
        for (_, weight) in weights.iter() {
            assert!(weight.footprint() <= 4 * data.len() as u64);
            assert_eq!(weight.to_vec().len(), weight.len());
        }
        let _ = weights.check_finite();
    }
}

/// A GGUF file: every tensor that it names lies in it, and its metadata make a model's folder or an error.
pub fn gguf(data: &[u8]) {
    static FOLDER: LazyLock<(Folder, Folder)> =
        LazyLock::new(|| (Folder::new("gguf"), Folder::new("described")));
    let path = FOLDER.0.write("model.gguf", data);
    let Ok(file) = Gguf::open(&path) else { return };
    if let Ok(weights) = file.weights() {
        for (_, weight) in weights.iter() {
            assert!(weight.footprint() <= data.len() as u64);
        }
        let _ = weights.check_finite();
    }
    if file.describe(&SystemDisk, &FOLDER.1.0).is_ok() {
        DecoderConfig::load(&FOLDER.1.0).expect("a configuration that it made itself");
    }
}

/// `chat_template.jinja` over a fixed conversation: it ends, and what it writes has a largest size. One that is
/// judged to treat all content alike writes the same around whatever is said.
pub fn chat_template(data: &[u8]) {
    if let Ok(source) = std::str::from_utf8(data) {
        alike(source);
    }
    static FOLDER: LazyLock<Folder> = LazyLock::new(|| {
        let folder = Folder::new("template");
        folder.write("tokenizer_config.json", br#"{"eos_token": "<|end|>", "bos_token": "<|end|>"}"#);
        folder.write("tokenizer.json", WORDS.as_bytes());
        folder
    });
    FOLDER.write("chat_template.jinja", data);
    let Ok(codec) = TextCodec::load(&FOLDER.0) else { return };
    let row = conversation();
    if let (Ok(question), Ok((ids, _))) = (codec.question_ids(&row), codec.row_ids(&row)) {
        assert_eq!(ids.get(..question.len()), Some(question.as_slice()), "a row begins with its question");
    }
}

/// Conversations of the same roles that say different things; none of them is empty or white space alone, which a
/// template that trims around a text would trim further.
fn alike(source: &str) {
    let said =
        [["Abc", "7", "xy z"], ["a", "\"q\\\"\nz", " padded\n"], ["user", "{{ 1 }}", "longer, and longer"]];
    for roles in [["system", "user", "assistant"], ["user", "assistant", "user"]] {
        for texts in said {
            let turns: Vec<(&str, &str)> = roles.into_iter().zip(texts).collect();
            for generation in [true, false] {
                match headstart_lm::treats_alike(source, &turns, generation) {
                    // Not judged to be alike, whatever it is given.
                    None => break,
                    Some(found) => found.unwrap_or_else(|e| panic!("{source:?} of {turns:?}: {e}")),
                }
            }
        }
    }
}

/// JSON Lines: what is read as rows is written and read as the same rows.
pub fn rows(data: &[u8]) {
    static CONTEXT: LazyLock<(MemoryContext, PathBuf)> = LazyLock::new(|| {
        let context = MemoryContext::new();
        let at = context.write("rows.jsonl", b"");
        (context, at)
    });
    if let Ok(text) = std::str::from_utf8(data)
        && let Ok(rows) = from_jsonl(text)
    {
        assert_eq!(from_jsonl(&to_jsonl(&rows)).expect("rows that it wrote itself"), rows);
    }
    let (context, at) = &*CONTEXT;
    fs::write(at, data).expect("a file");
    let path = Value::List(vec![("0".into(), Value::Text(at.to_string_lossy().into_owned()))]);
    let args = MemoryContext::args("jsonl", [("path", path)]);
    if let Ok(output) = headstart_ingest::JsonLines.run(&args, context) {
        let (_, made) = output.files.first().expect("rows");
        let text = fs::read_to_string(made).expect("text");
        assert!(!from_jsonl(&text).expect("rows that it wrote itself").is_empty());
    }
}
