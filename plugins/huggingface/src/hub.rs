//! The hub over the network.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use headstart_env::Env;
use reqwest::redirect::Policy;
use reqwest::{Client, Response, StatusCode, Url};

use crate::cache::Cache;
use crate::error::HubError;
use crate::listing::{Answer, Listing};
use crate::names::{Commit, Repo, is_revision};

/// The hub's address where no other is named.
const ENDPOINT: &str = "https://huggingface.co";
/// Bytes of an answer about a repository at most.
const LARGEST_ANSWER: usize = 16 << 20;
/// A connection on which nothing comes for this long is given up, and tried again.
const STALL: Duration = Duration::from_secs(60);
/// Redirects that are followed at most.
const MOST_REDIRECTS: usize = 10;
/// Bytes in a second that a file moves at least, on the whole; a slower answer is given up, and tried again.
const SLOWEST: u64 = 4 << 10;
/// How long an answer may take beside that.
const ANSWER: Duration = Duration::from_secs(120);

/// How long an answer of so many bytes may take.
pub(crate) fn longest(size: u64) -> Duration {
    ANSWER + Duration::from_secs(size / SLOWEST)
}

/// How the hub is reached: what its own tools read from the environment.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The hub's address: `HF_ENDPOINT`.
    pub endpoint: String,
    /// Where downloads are kept: `HF_HUB_CACHE`, else `HF_HOME/hub`, else `~/.cache/huggingface/hub`.
    pub cache: PathBuf,
    /// Who asks: `HF_TOKEN`, else what `hf auth login` wrote (`HF_TOKEN_PATH`, `HF_HOME/token`).
    pub token: Option<String>,
    /// Nothing is downloaded: `HF_HUB_OFFLINE`.
    pub offline: bool,
}

impl Settings {
    /// Where downloads are kept, by the variables of an environment.
    pub fn cache_of(variable: impl Fn(&str) -> Option<String>) -> PathBuf {
        let set = |name: &str| variable(name).filter(|v| !v.is_empty());
        set("HF_HUB_CACHE").map_or_else(|| home(&variable).join("hub"), PathBuf::from)
    }

    /// From the variables of an environment.
    ///
    /// # Errors
    /// [`HubError::Setting`].
    pub fn of(variable: impl Fn(&str) -> Option<String>) -> Result<Self, HubError> {
        let set = |name: &str| variable(name).filter(|v| !v.is_empty());
        let token_file = set("HF_TOKEN_PATH").map_or_else(|| home(&variable).join("token"), PathBuf::from);
        let kept = || headstart_disk::read::text(&token_file, headstart_disk::read::FACTS).ok();
        let token = set("HF_TOKEN").or_else(kept).map(|t| t.trim().to_owned()).filter(|t| !t.is_empty());
        let offline = match set("HF_HUB_OFFLINE").map(|v| v.to_ascii_lowercase()).as_deref() {
            Some("1" | "true" | "yes" | "on") => true,
            None | Some("0" | "false" | "no" | "off") => false,
            Some(other) => {
                let why = format!("`{other}` is neither 1 nor 0");
                return Err(HubError::Setting { name: "HF_HUB_OFFLINE", why });
            }
        };
        let endpoint = set("HF_ENDPOINT").unwrap_or_else(|| ENDPOINT.to_owned());
        let cache = Self::cache_of(&variable);
        Ok(Self { endpoint: endpoint.trim_end_matches('/').to_owned(), cache, token, offline })
    }

    /// From the environment of this process.
    ///
    /// # Errors
    /// As [`Settings::of`].
    pub fn from_env() -> Result<Self, HubError> {
        Self::of(|name| std::env::var(name).ok())
    }
}

/// Refuses what is no revision.
fn is_asked(revision: &str) -> Result<(), HubError> {
    if is_revision(revision) { Ok(()) } else { Err(HubError::NoRevision { text: revision.to_owned() }) }
}

/// The folder of the hub's tools.
fn home(variable: impl Fn(&str) -> Option<String>) -> PathBuf {
    let set = |name: &str| variable(name).filter(|v| !v.is_empty());
    let user = || PathBuf::from(set("HOME").unwrap_or_default()).join(".cache");
    let cache = || set("XDG_CACHE_HOME").map_or_else(user, PathBuf::from);
    set("HF_HOME").map_or_else(|| cache().join("huggingface"), PathBuf::from)
}

/// Where a hub may send its clients: to itself, and to other hosts by name and https. Neither a number nor this
/// machine's name: what listens in the network of the client is none of the hub's.
fn redirects(endpoint: &Url) -> Policy {
    let (scheme, own) = (endpoint.scheme().to_owned(), endpoint.host_str().map(str::to_owned));
    Policy::custom(move |attempt| {
        let to = attempt.url();
        let itself = to.scheme() == scheme && to.host_str() == own.as_deref();
        if attempt.previous().len() > MOST_REDIRECTS {
            attempt.error("it redirects again and again")
        } else if itself || is_public(to) {
            attempt.follow()
        } else {
            let where_to = to.host_str().unwrap_or_default().to_owned();
            attempt.error(format!(
                "it redirects to {where_to}, which is not a name of the public network by https"
            ))
        }
    })
}

/// Whether an address is one that a hub may redirect to.
fn is_public(to: &Url) -> bool {
    let Some(host) = to.host_str() else { return false };
    let number = host.starts_with('[') || host.parse::<std::net::IpAddr>().is_ok();
    let name = host.trim_end_matches('.');
    let here = name == "localhost" || name.ends_with(".localhost");
    to.scheme() == "https" && !number && !here
}

/// The hub, and the cache of what came from it.
pub struct Hub {
    pub(crate) cache: Cache,
    pub(crate) env: Env,
    endpoint: Url,
    token: Option<String>,
    offline: bool,
    http: Client,
}

impl Hub {
    /// A hub that is reached by these settings.
    ///
    /// # Errors
    /// [`HubError::Setting`] for an address that is none; [`HubError::Internal`] where there can be no TLS.
    pub fn new(settings: Settings, env: Env) -> Result<Self, HubError> {
        let wrong = |why: String| HubError::Setting { name: "HF_ENDPOINT", why };
        let endpoint = Url::parse(&settings.endpoint)
            .map_err(|e| wrong(format!("{:?} is no address: {e}", settings.endpoint)))?;
        let local = matches!(endpoint.host_str(), Some("localhost" | "127.0.0.1" | "[::1]"));
        if endpoint.scheme() != "https" && !(endpoint.scheme() == "http" && local) {
            return Err(wrong(format!(
                "{endpoint} is not https: whoever is on the way could send another model"
            )));
        }
        let internal = |e: &dyn std::fmt::Display| HubError::Internal(format!("TLS: {e}"));
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|e| internal(&e))?;
        let tls = rustls_platform_verifier::BuilderVerifierExt::with_platform_verifier(tls);
        let tls = tls.map_err(|e| internal(&e))?.with_no_client_auth();
        let http = Client::builder()
            .tls_backend_preconfigured(tls)
            .connect_timeout(Duration::from_secs(20))
            .read_timeout(STALL)
            .referer(false)
            .redirect(redirects(&endpoint))
            .user_agent(concat!("headstart/", env!("CARGO_PKG_VERSION")));
        let http = if local { http.no_proxy() } else { http };
        let http = http.build().map_err(|e| internal(&e))?;
        let Settings { cache, token, offline, .. } = settings;
        Ok(Self { cache: Cache::new(cache), env, endpoint, token, offline, http })
    }

    /// The cache.
    pub fn cache(&self) -> &Cache {
        &self.cache
    }

    /// The commit that a revision stands for. A commit stands for itself, without any network.
    ///
    /// # Errors
    /// [`HubError::NoRevision`], [`HubError::Unknown`], [`HubError::UnknownRevision`], [`HubError::Gated`],
    /// [`HubError::Unreachable`]; [`HubError::Offline`] where nothing may be asked and the cache does not know
    /// it.
    pub async fn resolve(&self, repo: &Repo, revision: &str) -> Result<Commit, HubError> {
        if let Some(commit) = Commit::parse(revision) {
            return Ok(commit);
        }
        is_asked(revision)?;
        if self.offline {
            return self.cache.known(repo, revision).ok_or_else(|| self.is_offline(repo, revision));
        }
        Ok(self.listing(repo, revision).await?.commit)
    }

    pub(crate) fn is_offline(&self, repo: &Repo, revision: &str) -> HubError {
        let cache = self.cache.root().to_owned();
        HubError::Offline { repo: repo.to_string(), revision: revision.to_owned(), cache }
    }

    /// Whether nothing may be downloaded.
    pub(crate) fn offline(&self) -> bool {
        self.offline
    }

    /// What a repository holds at a revision.
    pub(crate) async fn listing(&self, repo: &Repo, revision: &str) -> Result<Listing, HubError> {
        is_asked(revision)?;
        let mut url = self.address(&["api", "models"], repo)?;
        // A revision such as `refs/pr/1` is one part of the address.
        self.extend(&mut url, ["revision", revision])?;
        url.set_query(Some("blobs=true"));
        let mut answer = self.ask(url, 0, repo, revision).await?;
        let by = self.env.clock.elapsed() + longest(LARGEST_ANSWER as u64);
        let mut body = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(|e| self.unreachable(&e))? {
            if self.env.clock.elapsed() > by {
                return Err(self.too_slow());
            }
            if body.len() + chunk.len() > LARGEST_ANSWER {
                return Err(self.wrong(repo, format!("an answer of more than {LARGEST_ANSWER} bytes")));
            }
            body.extend_from_slice(&chunk);
        }
        let answer: Answer = serde_json::from_slice(&body)
            .map_err(|e| self.wrong(repo, format!("an answer that is not understood: {e}")))?;
        answer.read(repo, |why| self.wrong(repo, why))
    }

    /// A file of a commit, from a byte on.
    pub(crate) async fn file(
        &self,
        repo: &Repo,
        commit: &Commit,
        name: &str,
        from: u64,
    ) -> Result<Response, HubError> {
        let mut url = self.address(&[], repo)?;
        self.extend(&mut url, ["resolve", commit.as_str()].into_iter().chain(name.split('/')))?;
        self.ask(url, from, repo, commit.as_str()).await
    }

    fn address(&self, before: &[&str], repo: &Repo) -> Result<Url, HubError> {
        let mut url = self.endpoint.clone();
        let name = repo.to_string();
        self.extend(&mut url, before.iter().copied().chain(name.split('/')))?;
        Ok(url)
    }

    /// Adds parts to an address, each escaped.
    fn extend<'a>(&self, url: &mut Url, parts: impl IntoIterator<Item = &'a str>) -> Result<(), HubError> {
        let mut path = url.path_segments_mut().map_err(|()| HubError::Setting {
            name: "HF_ENDPOINT",
            why: format!("{} is an address without paths", self.endpoint),
        })?;
        path.pop_if_empty().extend(parts);
        Ok(())
    }

    /// Asks, and understands refusals. A redirect to another host does not carry the token.
    async fn ask(&self, url: Url, from: u64, repo: &Repo, revision: &str) -> Result<Response, HubError> {
        let mut request = self.http.get(url);
        if let Some(token) = &self.token {
            request = request.bearer_auth(token);
        }
        if from > 0 {
            request = request.header(reqwest::header::RANGE, format!("bytes={from}-"));
        }
        let answer = request.send().await.map_err(|e| self.unreachable(&e))?;
        let code = answer.headers().get("x-error-code").and_then(|v| v.to_str().ok()).unwrap_or_default();
        let (endpoint, name) = (self.endpoint_text(), repo.to_string());
        Err(match (answer.status(), code) {
            (status, _) if status.is_success() => return Ok(answer),
            (_, "GatedRepo") => HubError::Gated { endpoint, repo: name },
            (_, "RevisionNotFound") => {
                HubError::UnknownRevision { repo: name, revision: revision.to_owned() }
            }
            (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::NOT_FOUND, _) => {
                let who = if self.token.is_some() { "token" } else { "machine" };
                HubError::Unknown { endpoint, repo: name, who }
            }
            (StatusCode::RANGE_NOT_SATISFIABLE, _) => {
                self.wrong(repo, "a file is shorter than it is stated to be".to_owned())
            }
            (status, _) => HubError::Unreachable { endpoint, why: format!("it answers {status}") },
        })
    }

    pub(crate) fn unreachable(&self, e: &reqwest::Error) -> HubError {
        // The innermost cause says most: "connection refused", "failed to lookup address".
        let mut cause: &dyn std::error::Error = e;
        while let Some(inner) = cause.source() {
            cause = inner;
        }
        HubError::Unreachable { endpoint: self.endpoint_text(), why: cause.to_string() }
    }

    pub(crate) fn too_slow(&self) -> HubError {
        let why = format!("it sends less than {SLOWEST} bytes in a second");
        HubError::Unreachable { endpoint: self.endpoint_text(), why }
    }

    pub(crate) fn wrong(&self, repo: &Repo, why: String) -> HubError {
        HubError::Answer { endpoint: self.endpoint_text(), repo: repo.to_string(), why }
    }

    fn endpoint_text(&self) -> String {
        self.endpoint.as_str().trim_end_matches('/').to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_those_of_the_hubs_tools() {
        let with = |set: &'static [(&str, &str)]| {
            Settings::of(move |name| set.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned()))
        };
        let cache = |set| with(set).expect("settings").cache;
        assert_eq!(cache(&[("HOME", "/h")]), PathBuf::from("/h/.cache/huggingface/hub"));
        assert_eq!(cache(&[("HOME", "/h"), ("HF_HOME", "/d")]), PathBuf::from("/d/hub"));
        assert_eq!(cache(&[("HF_HUB_CACHE", "/c"), ("HF_HOME", "/d")]), PathBuf::from("/c"));
        assert_eq!(cache(&[("HOME", "/h"), ("XDG_CACHE_HOME", "/x")]), PathBuf::from("/x/huggingface/hub"));
        let s = with(&[("HF_TOKEN", " t\n"), ("HF_HUB_OFFLINE", "1"), ("HF_ENDPOINT", "https://h/")])
            .expect("settings");
        assert_eq!((s.token.as_deref(), s.offline, s.endpoint.as_str()), (Some("t"), true, "https://h"));
        assert!(
            with(&[("HF_HUB_OFFLINE", "maybe")])
                .expect_err("neither")
                .to_string()
                .contains("neither 1 nor 0")
        );
        let hub = |endpoint: &str| {
            let settings = Settings { endpoint: endpoint.into(), ..with(&[]).expect("settings") };
            Hub::new(settings, Env::system()).map(|_| ()).map_err(|e| e.to_string())
        };
        for (to, public) in [
            ("https://cdn.example/x", true),
            ("http://cdn.example/x", false),
            ("https://169.254.169.254/x", false),
            ("https://[fe80::1]/x", false),
            ("https://0x7f000001/x", false),
            ("https://localhost./x", false),
        ] {
            assert_eq!(is_public(&Url::parse(to).expect("an address")), public, "{to}");
        }
        assert!(hub("http://mirror.example").expect_err("open").contains("not https"));
        assert!(hub("http://127.0.0.1:9").is_ok() && hub("https://mirror.example/hf").is_ok());
    }
}
