//! Names that are safe in a path and in an address.

use std::fmt;
use std::str::FromStr;

use crate::error::HubError;

/// Longest name of an owner or a repository, in bytes, as on the hub.
const LONGEST: usize = 96;

/// A model's repository: `owner/name`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Repo {
    owner: String,
    name: String,
}

impl Repo {
    /// Its folder in a cache.
    pub(crate) fn folder(&self) -> String {
        format!("models--{}--{}", self.owner, self.name)
    }
}

impl FromStr for Repo {
    type Err = HubError;

    fn from_str(text: &str) -> Result<Self, HubError> {
        let plain = |part: &str| {
            let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
            // `--` stands between owner and name in the names of folders.
            let unclear =
                part.is_empty() || part.starts_with('.') || part.contains("--") || part.len() > LONGEST;
            !unclear && part.chars().all(allowed)
        };
        match text.split_once('/').filter(|(owner, name)| plain(owner) && plain(name)) {
            Some((owner, name)) => Ok(Self { owner: owner.to_owned(), name: name.to_owned() }),
            None => Err(HubError::NoRepo { text: text.to_owned() }),
        }
    }
}

impl fmt::Display for Repo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.owner, self.name)
    }
}

/// A commit: 40 hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Commit(String);

impl Commit {
    /// The digits, in lower case.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// A text that is a commit already, and no branch or tag.
    pub fn parse(text: &str) -> Option<Self> {
        is_hex(text, 40).then(|| Self(text.to_ascii_lowercase()))
    }
}

impl fmt::Display for Commit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Whether a text is so many hexadecimal digits.
pub(crate) fn is_hex(text: &str, digits: usize) -> bool {
    text.len() == digits && text.bytes().all(|b| b.is_ascii_hexdigit())
}

/// Whether a revision may be asked for: a branch or tag, in one or more parts.
pub(crate) fn is_revision(text: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    let part = |part: &str| !part.is_empty() && !part.starts_with('.') && part.chars().all(allowed);
    text.len() <= 200 && text.split('/').all(part)
}

/// Whether the name of a file of a repository leads nowhere else: parts of plain characters.
pub(crate) fn is_file_name(text: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.+ @=()".contains(c);
    let part = |part: &str| !part.is_empty() && part != "." && part != ".." && part.chars().all(allowed);
    text.len() <= 255 && text.split('/').all(part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_nowhere() {
        for good in ["Qwen/Qwen2-0.5B", "HuggingFaceTB/SmolLM2-135M-Instruct", "a/b_c"] {
            assert_eq!(good.parse::<Repo>().expect("a repository").to_string(), good);
        }
        for bad in ["", "gpt2", "a/b/c", "../etc", "a/..", "a/b?x", "a//b", "a/b c", "a--b/c", "/a", "a/"] {
            assert!(bad.parse::<Repo>().is_err(), "{bad}");
        }
        assert!(Commit::parse("91D2aff3f957f99e4c74c962f2f408dcc88a18d8").is_some());
        assert!(Commit::parse("main").is_none() && Commit::parse(&"g".repeat(40)).is_none());
        assert!(is_revision("refs/pr/1") && is_revision("v1.0"));
        for bad in ["", "../x", "a/../b", "a?b", ".hidden", "a//b"] {
            assert!(!is_revision(bad), "{bad}");
        }
        assert!(is_file_name("1_Pooling/config.json") && is_file_name("model-00001-of-00002.safetensors"));
        for bad in ["", "/etc/passwd", "../x", "a/../b", "a\\b", "a\0b", "a/./b", "a\nb", "C:x"] {
            assert!(!is_file_name(bad), "{bad}");
        }
    }
}
