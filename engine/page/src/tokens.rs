//! Tokens with which people and programs sign in. Kept hashed; shown once, when they are made.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use data_encoding::HEXLOWER;
use fs4::fs_std::FileExt;
use headstart_disk::{Disk, DiskError, Mode, Open, files, read};
use headstart_protocol::Digest;
use headstart_store::Workspace;
use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq;

/// What every token begins with, so that scanners for leaked secrets know one.
const PREFIX: &str = "headstart_page_";
/// Tokens of a workspace at most.
const MOST: usize = 1000;

/// What the holder of a token may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Sees everything, and pauses, runs, approves and revokes.
    Operator,
    /// Sees everything.
    ReadOnly,
}

impl Role {
    /// The word for it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Operator => "operator",
            Self::ReadOnly => "read-only",
        }
    }
}

/// A token, without what proves that somebody has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Token {
    /// Its name.
    pub name: String,
    /// What its holder may do.
    pub role: Role,
    /// When it was made, in milliseconds since 1970.
    pub created_ms: u64,
    /// Its hash. A token has 256 random bits: no guessing finds one, however fast the hash is.
    hash: Digest,
}

/// Why a token cannot be made, listed or revoked.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The disk did not allow it.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// The file cannot be read.
    #[error("cannot read {}: {}", .path.display(), headstart_disk::reason(.source))]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file holds something else.
    #[error("{} is damaged: {source}", .path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: serde_json::Error,
    },
    /// There is a token of this name.
    #[error("there is a token `{0}` already")]
    Exists(String),
    /// There is none of this name.
    #[error("there is no token `{0}`")]
    Unknown(String),
    /// A name is not one.
    #[error("`{0}` cannot be the name of a token: it has 1 to 64 letters, digits, `-`, `_` and `.`")]
    Name(String),
    /// There are too many.
    #[error("a workspace has at most {MOST} tokens")]
    TooMany,
    /// The system gives no random numbers.
    #[error("the system gives no random numbers: {0}")]
    Random(std::io::Error),
}

impl TokenError {
    /// What to do about it.
    pub fn help(&self) -> Option<String> {
        match self {
            Self::Exists(name) => Some(format!("revoke it first: headstart tokens revoke {name}")),
            Self::Unknown(_) => Some("`headstart tokens list` lists them".to_owned()),
            Self::Damaged { path, .. } => {
                Some(format!("remove it and make new tokens: rm {}", path.display()))
            }
            Self::TooMany => Some("revoke some: headstart tokens revoke NAME".to_owned()),
            _ => None,
        }
    }
}

/// The tokens of a workspace.
#[derive(Clone)]
pub struct Tokens {
    path: PathBuf,
    disk: Arc<dyn Disk>,
    known: Arc<Mutex<Known>>,
}

/// What was read last, and what the file system said of the file then.
#[derive(Default)]
struct Known {
    stamp: Option<(SystemTime, u64)>,
    tokens: Vec<Token>,
}

impl Tokens {
    /// Those of a workspace.
    pub fn of(ws: &Workspace) -> Self {
        Self { path: ws.dir().join("page-tokens.json"), disk: ws.disk().clone(), known: Arc::default() }
    }

    /// Makes a token, and gives the text that proves that somebody has it. It is kept nowhere.
    ///
    /// # Errors
    /// If there is one of this name already, or the file cannot be written.
    pub fn create(
        &self,
        name: &str,
        role: Role,
        now_ms: u64,
        random: &dyn headstart_env::Random,
    ) -> Result<String, TokenError> {
        let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if name.is_empty() || name.len() > 64 || !name.chars().all(fits) {
            return Err(TokenError::Name(name.to_owned()));
        }
        let mut secret = [0; 32];
        random.fill(&mut secret).map_err(TokenError::Random)?;
        let text = format!("{PREFIX}{}", HEXLOWER.encode(&secret));
        self.change(|tokens| {
            if tokens.iter().any(|t| t.name == name) {
                return Err(TokenError::Exists(name.to_owned()));
            }
            if tokens.len() >= MOST {
                return Err(TokenError::TooMany);
            }
            let hash = Digest::of(text.as_bytes());
            tokens.push(Token { name: name.to_owned(), role, created_ms: now_ms, hash });
            Ok(())
        })?;
        Ok(text)
    }

    /// Revokes a token: sessions that were begun with it end.
    ///
    /// # Errors
    /// If there is none of this name, or the file cannot be written.
    pub fn revoke(&self, name: &str) -> Result<(), TokenError> {
        self.change(|tokens| {
            let at = tokens.iter().position(|t| t.name == name);
            tokens.remove(at.ok_or_else(|| TokenError::Unknown(name.to_owned()))?);
            Ok(())
        })
    }

    /// All tokens, oldest first.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn list(&self) -> Result<Vec<Token>, TokenError> {
        let bytes = match read::whole(&self.path, read::SETTINGS) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(source) => return Err(TokenError::Read { path: self.path.clone(), source }),
        };
        serde_json::from_slice(&bytes)
            .map_err(|source| TokenError::Damaged { path: self.path.clone(), source })
    }

    /// The token that a text is; none for any other text. Reads the file again when it has changed.
    pub fn find(&self, text: &str) -> Option<Token> {
        let hash = Digest::of(text.trim().as_bytes());
        let all = self.current();
        // All are compared, each in constant time.
        let mut found = None;
        for token in all {
            if bool::from(token.hash.0.ct_eq(&hash.0)) {
                found = Some(token);
            }
        }
        found
    }

    /// Whether a token has not been revoked.
    pub fn has(&self, token: &Token) -> bool {
        self.current().contains(token)
    }

    fn current(&self) -> Vec<Token> {
        let facts = std::fs::metadata(&self.path);
        let stamp = facts.ok().and_then(|f| Some((f.modified().ok()?, f.len())));
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if stamp.is_none() || stamp != known.stamp {
            // Nobody signs in with a file that cannot be read.
            known.tokens = self.list().inspect_err(|e| tracing::warn!("{e}")).unwrap_or_default();
            known.stamp = stamp;
        }
        known.tokens.clone()
    }

    fn change(
        &self,
        change: impl FnOnce(&mut Vec<Token>) -> Result<(), TokenError>,
    ) -> Result<(), TokenError> {
        let lock = self.path.with_extension("lock");
        let file = self.disk.open(&lock, Open::Update).map_err(DiskError::at("open", &lock))?;
        FileExt::lock_exclusive(file.system()).map_err(DiskError::at("lock", &lock))?;
        let mut tokens = self.list()?;
        change(&mut tokens)?;
        let bytes = serde_json::to_vec_pretty(&tokens).expect("tokens serialize");
        Ok(files::write_atomic(&*self.disk, &self.path, &bytes, Mode::Secret)?)
    }
}
