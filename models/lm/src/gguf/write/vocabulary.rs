//! A model's tokenizer as metadata of a GGUF file, for programs that have nothing else; Headstart
//! itself reads the tokenizer.json beside it.

use std::path::Path;

use headstart_disk::read;

use serde_json::Value;

use super::Meta;
use crate::config::DecoderConfig;
use crate::error::LmError;
use crate::text::read_json;

/// llama.cpp's kinds of tokens.
const NORMAL: i32 = 1;
const CONTROL: i32 = 3;
const USER: i32 = 4;
const UNUSED: i32 = 5;

/// The vocabulary, where the tokenizer is of a kind that GGUF can say; else the mark that there is
/// none.
pub(super) fn metadata(model: &Path, c: &DecoderConfig) -> Result<Vec<(String, Meta)>, LmError> {
    let path = model.join("tokenizer.json");
    let Some(json) = read_json(&path)? else { return Ok(none()) };
    let (Some(pre), Some(vocab)) = (splitting(&json), json["model"]["vocab"].as_object()) else {
        tracing::warn!("{}: llama.cpp knows no such tokenizer; the GGUF file has none", path.display());
        return Ok(none());
    };
    let (mut tokens, mut kinds) = (Vec::new(), vec![UNUSED; c.vocab]);
    tokens.extend((0..c.vocab).map(|id| format!("[PAD{id}]")));
    let mut set = |id: Option<u64>, text: &str, kind: i32| {
        if let Some(id) = id.filter(|id| (*id as usize) < c.vocab) {
            tokens[id as usize] = text.to_owned();
            kinds[id as usize] = kind;
        }
    };
    vocab.iter().for_each(|(text, id)| set(id.as_u64(), text, NORMAL));
    for added in json["added_tokens"].as_array().into_iter().flatten() {
        let kind = if added["special"] == true { CONTROL } else { USER };
        set(added["id"].as_u64(), added["content"].as_str().unwrap_or_default(), kind);
    }
    let merge = |m: &Value| match m {
        Value::String(s) => s.clone(),
        pair => format!("{} {}", pair[0].as_str().unwrap_or_default(), pair[1].as_str().unwrap_or_default()),
    };
    let merges = json["model"]["merges"].as_array().into_iter().flatten().map(merge).collect();
    let mut all = vec![
        ("model", Meta::Text("gpt2".into())),
        ("pre", Meta::Text(pre.into())),
        ("tokens", Meta::Texts(tokens)),
        ("token_type", Meta::Numbers(kinds)),
        ("merges", Meta::Texts(merges)),
    ];
    let config = read_json(&model.join("config.json"))?.unwrap_or_default();
    let bos = config["bos_token_id"].as_u64();
    all.extend(c.eos.first().map(|id| ("eos_token_id", Meta::U32(*id))));
    all.extend(bos.map(|id| ("bos_token_id", Meta::U32(id as u32))));
    let empty = crate::text::load_tokenizer(&path)?.encode("", true);
    let opened = empty.is_ok_and(|e| bos.is_some() && e.get_ids().first().map(|id| u64::from(*id)) == bos);
    all.push(("add_bos_token", Meta::Bool(opened)));
    let mut all: Vec<_> = all.into_iter().map(|(key, v)| (format!("tokenizer.ggml.{key}"), v)).collect();
    if let Some(template) = template(model)? {
        all.push(("tokenizer.chat_template".into(), Meta::Text(template)));
    }
    Ok(all)
}

fn none() -> Vec<(String, Meta)> {
    vec![("tokenizer.ggml.model".into(), Meta::Text("no_vocab".into()))]
}

fn template(model: &Path) -> Result<Option<String>, LmError> {
    if let Ok(text) = read::text(&model.join("chat_template.jinja"), read::SETTINGS) {
        return Ok(Some(text));
    }
    let config = read_json(&model.join("tokenizer_config.json"))?.unwrap_or_default();
    Ok(config["chat_template"].as_str().map(str::to_owned))
}

/// llama.cpp's name of the way in which a byte-level tokenizer splits texts.
fn splitting(json: &Value) -> Option<&'static str> {
    if json["model"]["type"] != "BPE" {
        return None;
    }
    let pre = &json["pre_tokenizer"];
    let one = [pre.clone()];
    let parts = pre["pretokenizers"].as_array().map_or(&one[..], Vec::as_slice);
    let kinds: Vec<&str> = parts.iter().filter_map(|p| p["type"].as_str()).collect();
    let regex = parts.iter().find_map(|p| p["pattern"]["Regex"].as_str());
    match (kinds.as_slice(), regex) {
        (["Split", "ByteLevel"], Some(r)) if r.contains(r"\p{N}{1,3}") => Some("llama-bpe"),
        (["Split", "ByteLevel"], Some(r)) if r.contains(r"|\p{N}|") => Some("qwen2"),
        (["Digits", "ByteLevel"], None) if parts[0]["individual_digits"] == true => Some("smollm"),
        (["ByteLevel"], None) if parts[0]["use_regex"] != false => Some("gpt-2"),
        _ => None,
    }
}
