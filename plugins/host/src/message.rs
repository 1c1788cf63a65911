//! The messages between a runner and a program: a JSON object a line, with the key `headstart`.

use std::collections::BTreeMap;

use headstart_protocol::declared::DeclaredStage;
use headstart_protocol::{FailureClass, Progress};
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

/// What a runner can take beyond the necessary.
pub const FEATURES: &[&str] = &["count", "log", "progress"];

/// What a runner says.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "headstart", rename_all = "snake_case")]
pub enum ToProgram<'a> {
    /// The first message.
    Hello {
        /// Version of the protocol.
        protocol: u32,
        /// What it can take.
        features: &'a [&'a str],
    },
    /// Run a stage. There is one at most.
    Run {
        /// The stage's own name.
        stage: &'a str,
        /// Its arguments; see [`crate::arguments`].
        args: Json,
        /// The folder to write into: empty, and the program's working folder.
        scratch: &'a str,
        /// Threads that it may use.
        threads: usize,
        /// Bytes of memory that it may use, where there is a limit.
        #[serde(skip_serializing_if = "Option::is_none")]
        memory: Option<u64>,
    },
    /// Stop soon. What follows no longer counts.
    Cancel,
}

/// What a program says.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(tag = "headstart", rename_all = "snake_case")]
pub enum FromProgram {
    /// The answer to the runner's hello.
    Hello {
        /// Version of the protocol.
        protocol: u32,
        /// What it can do beyond the necessary.
        #[serde(default)]
        features: Vec<String>,
        /// What it is made of outside its folder.
        #[serde(default)]
        files: Vec<String>,
        /// Its stages.
        stages: Vec<DeclaredStage>,
    },
    /// How far it is.
    Progress(Progress),
    /// Adds to a counter.
    Count {
        /// The counter's name.
        counter: String,
        /// How much.
        n: u64,
    },
    /// A line for the attempt's log.
    Log {
        /// The line.
        message: String,
    },
    /// What it made. Then it ends with exit status 0.
    Done {
        /// Files in the scratch folder.
        #[serde(default)]
        files: Vec<MadeFile>,
        /// A small value.
        #[serde(default)]
        value: Json,
        /// Artifacts among its arguments that the output refers to, by id.
        #[serde(default)]
        uses: BTreeMap<String, String>,
    },
    /// Why it failed. Then it ends with another exit status.
    Failed {
        /// What happened, where and why.
        message: String,
        /// What to do about it.
        #[serde(default)]
        help: Option<String>,
        /// `input`, `transient`, `memory`; `transient` where nothing is said.
        #[serde(default)]
        class: Option<FailureClass>,
    },
    /// A message of a later version, which is not needed.
    #[serde(other)]
    Unknown,
}

/// A file that a program made.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct MadeFile {
    /// Its name in the artifact, and its path below the scratch folder.
    pub name: String,
    /// Its size in bytes.
    pub size: u64,
    /// SHA-256 of its content, hexadecimal.
    pub sha256: String,
}

/// What a line of a program's standard output is.
#[derive(Debug, PartialEq)]
pub enum Line {
    /// A message.
    Message(FromProgram),
    /// Meant as a message, but not one: why.
    Broken(String),
    /// Anything else: a library's banner, a progress bar.
    Noise,
}

/// Whether a text begins like a message.
pub fn begins_like_a_message(text: &str) -> bool {
    let rest = text.trim_start().strip_prefix('{').map(str::trim_start);
    rest.is_some_and(|r| r.starts_with("\"headstart\""))
}

impl Line {
    /// Tells messages from noise: a message is a JSON object with the key `headstart`.
    pub fn of(text: &str) -> Self {
        let Ok(json) = serde_json::from_str::<Json>(text) else {
            return if begins_like_a_message(text) {
                Self::Broken("it is not JSON".into())
            } else {
                Self::Noise
            };
        };
        if json.get("headstart").is_none() {
            return Self::Noise;
        }
        match serde_json::from_value(json) {
            Ok(message) => Self::Message(message),
            Err(e) => Self::Broken(e.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_told_from_noise() {
        assert_eq!(Line::of("Loading weights: 100%"), Line::Noise);
        assert_eq!(Line::of("{\"loss\": 0.3}"), Line::Noise);
        assert_eq!(Line::of("[1, 2]"), Line::Noise);
        assert_eq!(Line::of(r#"{"headstart":"stretch","n":3}"#), Line::Message(FromProgram::Unknown));
        let count = FromProgram::Count { counter: "rows".into(), n: 3 };
        assert_eq!(Line::of(r#" {"n":3,"headstart":"count","counter":"rows"}"#), Line::Message(count));
        assert!(matches!(Line::of(r#"{"headstart":"count"}"#), Line::Broken(why) if why.contains("counter")));
        assert!(matches!(Line::of(r#"{"headstart":"do"#), Line::Broken(_)));
    }
}
