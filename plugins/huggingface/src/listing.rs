//! What a repository holds at a commit, and which files of it make a model.

use serde::Deserialize;

use crate::error::HubError;
use crate::names::{Commit, Repo, is_file_name, is_hex};

/// Files of a repository at most; larger ones hold no single model.
const MOST_FILES: usize = 10_000;
/// Bytes of a file at most that is neither weights nor a tokenizer's vocabulary.
const LARGEST: u64 = 4 << 40;

/// By what a file's content is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FileDigest {
    /// A large file's SHA-256.
    Sha256(String),
    /// The SHA-1 of a small file's git object: of `blob SIZE\0`, then the content.
    GitSha1(String),
}

impl FileDigest {
    /// The digits, which are the content's name in a cache.
    pub fn digits(&self) -> &str {
        match self {
            Self::Sha256(digits) | Self::GitSha1(digits) => digits,
        }
    }
}

/// A file of a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelFile {
    /// Its path in the repository.
    pub name: String,
    /// Bytes.
    pub size: u64,
    /// Of its content.
    pub digest: FileDigest,
}

/// The hub's answer about a repository at a revision, as far as it is read.
#[derive(Deserialize)]
pub(crate) struct Answer {
    sha: String,
    #[serde(default)]
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
struct Sibling {
    rfilename: String,
    size: Option<u64>,
    #[serde(rename = "blobId")]
    blob_id: Option<String>,
    lfs: Option<Lfs>,
}

#[derive(Deserialize)]
struct Lfs {
    sha256: String,
    size: u64,
}

/// A repository at a commit.
pub(crate) struct Listing {
    pub(crate) commit: Commit,
    pub(crate) files: Vec<ModelFile>,
}

impl Answer {
    /// The commit and the files of the model, checked; `wrong` makes an error of what cannot be.
    pub(crate) fn read(self, repo: &Repo, wrong: impl Fn(String) -> HubError) -> Result<Listing, HubError> {
        let Some(commit) = Commit::parse(&self.sha) else {
            return Err(wrong(format!("its commit is {:?}, which is no commit", self.sha)));
        };
        if self.siblings.len() > MOST_FILES {
            return Err(wrong(format!(
                "it holds {} files; at most {MOST_FILES} are looked at",
                self.siblings.len()
            )));
        }
        let names: Vec<&str> = self.siblings.iter().map(|s| s.rfilename.as_str()).collect();
        let wanted = choose(&names).map_err(|why| HubError::NoModel { repo: repo.to_string(), why })?;
        let files = self.siblings.iter().filter(|s| wanted.contains(&s.rfilename.as_str()));
        let mut files = files.map(|s| s.file().map_err(&wrong)).collect::<Result<Vec<_>, _>>()?;
        // Weights last: where they are, everything else is.
        files.sort_by_key(|f| (is_weights(&f.name), f.size));
        Ok(Listing { commit, files })
    }
}

impl Sibling {
    fn file(&self) -> Result<ModelFile, String> {
        let name = &self.rfilename;
        let (digest, size) = match (&self.lfs, &self.blob_id, self.size) {
            (Some(lfs), ..) if is_hex(&lfs.sha256, 64) => {
                (FileDigest::Sha256(lfs.sha256.to_ascii_lowercase()), lfs.size)
            }
            (None, Some(blob), Some(size)) if is_hex(blob, 40) => {
                (FileDigest::GitSha1(blob.to_ascii_lowercase()), size)
            }
            _ => return Err(format!("it states no digest or no size of {name:?}")),
        };
        if size > LARGEST {
            return Err(format!("{name:?} is to have {size} bytes"));
        }
        Ok(ModelFile { name: name.clone(), size, digest })
    }
}

fn is_weights(name: &str) -> bool {
    name.ends_with(".safetensors") || name.ends_with(".gguf")
}

/// The files that make a model: what configures it and its tokenizer, and its weights as safetensors, or as
/// the one GGUF file that there is. Weights in other formats, and the same weights once more, are left.
///
/// # Errors
/// Why there is none.
pub(crate) fn choose<'a>(names: &[&'a str]) -> Result<Vec<&'a str>, String> {
    let safe: Vec<&str> = names.iter().copied().filter(|n| is_file_name(n)).collect();
    let extension = |n: &str| n.rsplit_once('.').map(|(_, e)| e.to_ascii_lowercase()).unwrap_or_default();
    let top = |n: &&str| !n.contains('/');
    // The modules of a sentence encoder lie in folders such as `1_Pooling`.
    let module = |n: &str| {
        n.split_once('/').is_some_and(|(folder, rest)| {
            folder.split_once('_').is_some_and(|(n, _)| n.parse::<u32>().is_ok()) && !rest.contains('/')
        })
    };
    let here: Vec<&str> = safe.iter().copied().filter(|n| top(n) || module(n)).collect();
    let of = |ext: &str| here.iter().copied().filter(|n| extension(n) == ext).collect::<Vec<_>>();
    let weights: Vec<&str> =
        of("safetensors").into_iter().filter(|n| !n.starts_with("consolidated")).collect();
    let gguf = of("gguf");
    let weights = match (weights.is_empty(), gguf.as_slice()) {
        (false, _) => weights,
        (true, [one]) => vec![*one],
        (true, []) => {
            let others = ["bin", "pt", "pth", "h5", "msgpack", "onnx", "npz"];
            let found = others.iter().find(|e| safe.iter().any(|n| extension(n) == **e));
            return Err(match found {
                Some(e) => format!("its weights are .{e} files, and safetensors or GGUF are read"),
                None => "it has neither safetensors files nor a GGUF file".to_owned(),
            });
        }
        (true, several) => {
            return Err(format!("it has {} GGUF files, and one has to be chosen", several.len()));
        }
    };
    let configures = |n: &&str| matches!(extension(n).as_str(), "json" | "jinja" | "txt" | "model");
    Ok(here.iter().copied().filter(|n| configures(n) || weights.contains(n)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_makes_a_model_is_chosen() {
        let chosen = |names: &[&'static str]| choose(names).expect("a model");
        let llama = [
            ".gitattributes",
            "README.md",
            "config.json",
            "generation_config.json",
            "model.safetensors",
            "onnx/model.onnx",
            "original/consolidated.00.pth",
            "pytorch_model.bin",
            "tokenizer.json",
            "consolidated.safetensors",
            "chat_template.jinja",
            "runs/x/events",
        ];
        let want = [
            "config.json",
            "generation_config.json",
            "model.safetensors",
            "tokenizer.json",
            "chat_template.jinja",
        ];
        assert_eq!(chosen(&llama), want);
        let encoder = [
            "1_Pooling/config.json",
            "2_Dense/model.safetensors",
            "config.json",
            "model.safetensors",
            "modules.json",
            "onnx/config.json",
            "vocab.txt",
        ];
        assert_eq!(
            chosen(&encoder),
            [
                "1_Pooling/config.json",
                "2_Dense/model.safetensors",
                "config.json",
                "model.safetensors",
                "modules.json",
                "vocab.txt"
            ]
        );
        assert_eq!(chosen(&["a.gguf", "README.md"]), ["a.gguf"]);
        let why = |names: &[&'static str]| choose(names).expect_err("no model");
        assert!(why(&["a.gguf", "b.gguf"]).contains("2 GGUF files"));
        assert!(why(&["config.json", "pytorch_model.bin"]).contains(".bin"));
        assert!(why(&["../model.safetensors"]).contains("neither"));
    }

    #[test]
    fn an_answer_that_leads_elsewhere_is_none() {
        let repo: Repo = "a/b".parse().expect("a repository");
        let read = |json: serde_json::Value| {
            let answer: Answer = serde_json::from_value(json).expect("the shape");
            let wrong = |why| HubError::Internal(why);
            answer.read(&repo, wrong).map(|l| l.files).map_err(|e| e.to_string())
        };
        let commit = "a".repeat(40);
        let file = |digest: serde_json::Value| serde_json::json!({ "sha": commit, "siblings": [{ "rfilename": "m.safetensors", "size": 3, "lfs": digest }] });
        let good = file(serde_json::json!({ "sha256": "B".repeat(64), "size": 7 }));
        assert_eq!(
            read(good).expect("good"),
            [ModelFile { name: "m.safetensors".into(), size: 7, digest: FileDigest::Sha256("b".repeat(64)) }]
        );
        let bad = file(serde_json::json!({ "sha256": "../../x", "size": 7 }));
        assert!(read(bad).expect_err("no digest").contains("no digest"));
        assert!(read(serde_json::json!({ "sha": "../x" })).expect_err("no commit").contains("no commit"));
    }
}
