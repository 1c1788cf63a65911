//! Who is signed in. Sessions live in memory: a restart ends them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use data_encoding::HEXLOWER;
use headstart_env::Env;
use headstart_protocol::Digest;

use crate::tokens::{Role, Token, Tokens};

/// A session ends after this long without a request.
const IDLE_MS: u64 = 2 * 3600 * 1000;
/// A session ends after this long.
pub(crate) const LONGEST_MS: u64 = 12 * 3600 * 1000;
/// Sessions at most; another one ends the one that was used least lately.
const MOST: usize = 1000;

/// Who asks.
#[derive(Clone, Debug)]
pub(crate) struct Visitor {
    /// The token that was shown.
    pub(crate) token: Token,
}

impl Visitor {
    /// Whether it may change something.
    pub(crate) fn may_change(&self) -> bool {
        self.token.role == Role::Operator
    }
}

struct Session {
    token: Token,
    begun_ms: u64,
    used_ms: u64,
}

/// All sessions.
#[derive(Clone)]
pub(crate) struct Sessions {
    tokens: Tokens,
    env: Env,
    /// By the hash of the session's id, so that memory holds no id.
    open: Arc<Mutex<HashMap<Digest, Session>>>,
}

impl Sessions {
    pub(crate) fn new(tokens: Tokens, env: Env) -> Self {
        Self { tokens, env, open: Arc::default() }
    }

    /// Begins a session for the holder of a token; gives its id.
    pub(crate) fn begin(&self, text: &str) -> std::io::Result<Option<String>> {
        let Some(token) = self.tokens.find(text) else { return Ok(None) };
        let mut id = [0; 32];
        self.env.random.fill(&mut id)?;
        let id = HEXLOWER.encode(&id);
        let now = self.env.clock.now_ms();
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|_, s| is_open(s, now));
        if open.len() >= MOST
            && let Some(oldest) = open.iter().min_by_key(|(_, s)| s.used_ms).map(|(id, _)| *id)
        {
            open.remove(&oldest);
        }
        open.insert(Digest::of(id.as_bytes()), Session { token, begun_ms: now, used_ms: now });
        Ok(Some(id))
    }

    /// Who has this session.
    pub(crate) fn of(&self, id: &str) -> Option<Visitor> {
        let id = Digest::of(id.as_bytes());
        let now = self.env.clock.now_ms();
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let session = open.get_mut(&id)?;
        if !is_open(session, now) || !self.tokens.has(&session.token) {
            open.remove(&id);
            return None;
        }
        session.used_ms = now;
        Some(Visitor { token: session.token.clone() })
    }

    /// Who shows this token with each request, as programs do.
    pub(crate) fn of_token(&self, text: &str) -> Option<Visitor> {
        self.tokens.find(text).map(|token| Visitor { token })
    }

    /// Ends a session.
    pub(crate) fn end(&self, id: &str) {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).remove(&Digest::of(id.as_bytes()));
    }
}

fn is_open(session: &Session, now: u64) -> bool {
    now.saturating_sub(session.used_ms) < IDLE_MS && now.saturating_sub(session.begun_ms) < LONGEST_MS
}
