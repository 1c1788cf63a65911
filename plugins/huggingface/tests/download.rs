//! Downloads from a hub of the test's own, which misbehaves on demand.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use headstart_env::{Clock, Env, Sleep, SystemClock, Wake};
use headstart_huggingface::{Commit, Downloaded, Hub, HubError, Repo, Settings};
use serde_json::{Value as Json, json};
use sha1::Digest as _;
use tokio_util::io::ReaderStream;

const COMMIT: &str = "91d2aff3f957f99e4c74c962f2f408dcc88a18d8";

/// What the hub holds and how it misbehaves.
#[derive(Default)]
struct Inner {
    files: BTreeMap<String, Vec<u8>>,
    /// Answered instead of the listing.
    listing: Option<Json>,
    /// Where everybody is sent.
    redirects: Option<String>,
    /// Answered to everything.
    refuses: Option<(u16, &'static str)>,
    /// Only whoever shows this token is answered.
    token: Option<&'static str>,
    /// The next downloads break off after so many bytes each.
    cuts: Vec<usize>,
    /// Ranges are not honoured.
    whole: bool,
    /// Sent in the place of a file.
    instead: BTreeMap<String, Vec<u8>>,
    /// Method, path, range and authorization of each request.
    calls: Vec<String>,
}

#[derive(Clone, Default)]
struct Server(Arc<Mutex<Inner>>);

impl Server {
    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.0.lock().expect("not poisoned")
    }

    async fn start(&self) -> String {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let url = format!("http://{}", listener.local_addr().expect("bound"));
        let app = Router::new().fallback(answer).with_state(self.clone());
        tokio::spawn(async move { axum::serve(listener, app).await });
        url
    }

    fn listing(&self) -> Json {
        let inner = self.lock();
        let sibling = |(name, content): (&String, &Vec<u8>)| {
            let size = content.len();
            if name.ends_with("safetensors") {
                let sha256 = data_encoding::HEXLOWER.encode(&sha2::Sha256::digest(content));
                return json!({ "rfilename": name, "size": size, "blobId": "f".repeat(40),
                    "lfs": { "sha256": sha256, "size": size, "pointerSize": 130 } });
            }
            let mut git = sha1::Sha1::new();
            git.update(format!("blob {size}\0"));
            git.update(content);
            json!({ "rfilename": name, "size": size, "blobId": data_encoding::HEXLOWER.encode(&git.finalize()) })
        };
        let siblings: Vec<Json> = inner.files.iter().map(sibling).collect();
        json!({ "id": "o/m", "sha": COMMIT, "siblings": siblings })
    }
}

async fn answer(State(server): State<Server>, request: Request) -> Response {
    let path = request.uri().path().to_owned();
    let text =
        |name| request.headers().get(name).and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned();
    let (range, who) = (text(header::RANGE), text(header::AUTHORIZATION));
    server.lock().calls.push(format!("{path} {range} {who}").trim_end().to_owned());
    let listing = server.listing();
    let mut inner = server.lock();
    if let Some(to) = &inner.redirects {
        return (StatusCode::FOUND, [(header::LOCATION, to.clone())]).into_response();
    }
    if let Some((status, code)) = inner.refuses {
        let status = StatusCode::from_u16(status).expect("a status");
        return (status, [("x-error-code", code)]).into_response();
    }
    if inner.token.is_some_and(|token| who != format!("Bearer {token}")) {
        return (StatusCode::UNAUTHORIZED, [("x-error-code", "RepoNotFound")]).into_response();
    }
    if path.starts_with("/api/models/o/m/revision/") {
        return match path.as_str() {
            "/api/models/o/m/revision/gone" => {
                (StatusCode::NOT_FOUND, [("x-error-code", "RevisionNotFound")]).into_response()
            }
            _ => axum::Json(inner.listing.clone().unwrap_or(listing)).into_response(),
        };
    }
    let Some(name) = path.strip_prefix(&format!("/o/m/resolve/{COMMIT}/")) else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let content = inner.instead.get(name).or_else(|| inner.files.get(name)).cloned();
    let Some(content) = content else { return StatusCode::NOT_FOUND.into_response() };
    let from = range.strip_prefix("bytes=").and_then(|r| r.strip_suffix('-')?.parse::<usize>().ok());
    let from = from.filter(|_| !inner.whole);
    let rest = content[from.unwrap_or(0)..].to_vec();
    let status = if from.is_some() { StatusCode::PARTIAL_CONTENT } else { StatusCode::OK };
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_LENGTH, rest.len().into());
    match inner.cuts.pop() {
        Some(n) if n < rest.len() => {
            // Fewer bytes than were stated: the connection ends.
            (status, headers, broken(rest[..n].to_vec())).into_response()
        }
        _ => (status, headers, rest).into_response(),
    }
}

/// A body that breaks off after these bytes.
fn broken(bytes: Vec<u8>) -> Body {
    Body::from_stream(ReaderStream::new(tokio::io::AsyncReadExt::chain(
        std::io::Cursor::new(bytes),
        Broken(false),
    )))
}

/// A reader that breaks off when it is asked for the second time: before, what came first is sent.
struct Broken(bool);

impl tokio::io::AsyncRead for Broken {
    fn poll_read(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
        _: &mut tokio::io::ReadBuf<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        if std::mem::replace(&mut self.0, true) {
            return std::task::Poll::Ready(Err(std::io::Error::other("cut")));
        }
        cx.waker().wake_by_ref();
        std::task::Poll::Pending
    }
}

fn model() -> Server {
    let server = Server::default();
    let files = [
        ("config.json", b"{}".to_vec()),
        ("tokenizer.json", b"{\"model\":{}}".to_vec()),
        ("1_Pooling/config.json", b"{\"p\":1}".to_vec()),
        ("model.safetensors", (0..200_000u32).map(|i| (i % 251) as u8).collect()),
        ("pytorch_model.bin", vec![7; 1000]),
        ("README.md", b"read me".to_vec()),
    ];
    server.lock().files = files.into_iter().map(|(n, c)| (n.to_owned(), c)).collect();
    server
}

async fn hub(server: &Server, cache: &Path) -> Hub {
    let settings =
        Settings { endpoint: server.start().await, cache: cache.to_owned(), token: None, offline: false };
    Hub::new(settings, Env { clock: Arc::new(Hasty(SystemClock::new())), ..Env::system() }).expect("a hub")
}

/// A clock whose pauses are over at once.
struct Hasty(SystemClock);

impl Clock for Hasty {
    fn now_ms(&self) -> u64 {
        self.0.now_ms()
    }

    fn elapsed(&self) -> Duration {
        self.0.elapsed()
    }

    fn sleep(&self, _: Duration) -> Sleep {
        Box::pin(std::future::ready(()))
    }

    fn thread_wait(&self, duration: Duration) -> Option<Duration> {
        self.0.thread_wait(duration)
    }

    fn on_advance(&self, wake: Wake) {
        self.0.on_advance(wake);
    }
}

fn repo() -> Repo {
    "o/m".parse().expect("a repository")
}

async fn fetch(hub: &Hub, revision: &str) -> Result<std::path::PathBuf, HubError> {
    Ok(hub.download(&repo(), revision, &|_| {}).await?.folder)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_lies_in_the_cache_as_the_hubs_tools_keep_it() {
    let (server, dir) = (model(), tempfile::tempdir().expect("tempdir"));
    let hub = hub(&server, dir.path()).await;
    let heard = Mutex::new(Vec::new());
    let folder = hub.download(&repo(), "main", &|far: Downloaded| heard.lock().expect("ok").push(far)).await;
    let folder = folder.expect("downloads").folder;
    assert_eq!(folder, dir.path().join("models--o--m/snapshots").join(COMMIT));
    for name in ["config.json", "tokenizer.json", "1_Pooling/config.json", "model.safetensors"] {
        let at = folder.join(name);
        assert!(std::fs::symlink_metadata(&at).expect("there").is_symlink(), "{name}");
        assert_eq!(std::fs::read(&at).expect("reads"), server.lock().files[name], "{name}");
    }
    assert!(!folder.join("pytorch_model.bin").exists() && !folder.join("README.md").exists());
    let reference = std::fs::read_to_string(dir.path().join("models--o--m/refs/main")).expect("noted");
    assert_eq!(reference, COMMIT);
    let heard = heard.into_inner().expect("ok");
    let last = heard.last().expect("told");
    assert_eq!((last.bytes, last.of), (200_021, 200_021));
    assert_eq!(hub.resolve(&repo(), "main").await.expect("known").as_str(), COMMIT);

    // At a commit that is here, the hub is not asked.
    server.lock().refuses = Some((500, ""));
    let before = server.lock().calls.len();
    assert_eq!(fetch(&hub, COMMIT).await.expect("here"), folder);
    assert_eq!(server.lock().calls.len(), before);
    let commit = Commit::parse(COMMIT).expect("a commit");
    assert_eq!(hub.cache().known(&repo(), "main"), Some(commit));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_breaks_off_goes_on_where_it_was() {
    for whole in [false, true] {
        let (server, dir) = (model(), tempfile::tempdir().expect("tempdir"));
        (server.lock().cuts, server.lock().whole) = (vec![90_000, 70_000], whole);
        let large = |s: &Server| s.lock().files.retain(|n, _| n == "model.safetensors");
        large(&server);
        let hub = hub(&server, dir.path()).await;
        let folder = fetch(&hub, "main").await.expect("in the third try");
        assert_eq!(std::fs::read(folder.join("model.safetensors")).expect("reads").len(), 200_000);
        let asked: Vec<String> =
            server.lock().calls.iter().filter(|c| c.contains("resolve")).cloned().collect();
        assert_eq!(asked.len(), 3, "{asked:?}");
        assert!(asked[1].contains("bytes=") && asked[2].contains("bytes="), "{asked:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_content_than_the_hub_states_is_not_kept() {
    let server = model();
    for name in ["model.safetensors", "config.json"] {
        let dir = tempfile::tempdir().expect("tempdir");
        let hub = hub(&server, dir.path()).await;
        let mut other = server.lock().files[name].clone();
        other[0] ^= 1;
        server.lock().instead = BTreeMap::from([(name.to_owned(), other)]);
        let error = fetch(&hub, "main").await.expect_err("refused");
        assert!(matches!(&error, HubError::Digest { file, .. } if file == name), "{error}");
    }
    let dir = tempfile::tempdir().expect("tempdir");
    let hub = hub(&server, dir.path()).await;
    // Longer than stated: it ends there.
    server.lock().instead = BTreeMap::from([("config.json".to_owned(), vec![b' '; 1 << 20])]);
    let error = fetch(&hub, "main").await.expect_err("refused");
    assert!(error.to_string().contains("sends more"), "{error}");
    let blobs = dir.path().join("models--o--m/blobs");
    let kept = std::fs::read_dir(blobs).expect("there").flatten();
    let kept: u64 = kept.map(|e| e.metadata().expect("there").len()).sum();
    assert!(kept < 300, "{kept} bytes of what was refused");
    server.lock().instead.clear();
    fetch(&hub, "main").await.expect("as stated");
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_say_what_to_do() {
    let (server, dir) = (model(), tempfile::tempdir().expect("tempdir"));
    let url = server.start().await;
    let with = |token: Option<&str>, offline| {
        let settings = Settings {
            endpoint: url.clone(),
            cache: dir.path().to_owned(),
            token: token.map(str::to_owned),
            offline,
        };
        Hub::new(settings, Env::system()).expect("a hub")
    };
    server.lock().token = Some("secret");
    let error = fetch(&with(None, false), "main").await.expect_err("refused");
    assert!(matches!(error, HubError::Unknown { who: "machine", .. }), "{error}");
    assert!(error.help().expect("help").contains("hf auth login"));
    let error = fetch(&with(Some("wrong"), false), "main").await.expect_err("refused");
    assert!(matches!(error, HubError::Unknown { who: "token", .. }), "{error}");
    let error = fetch(&with(Some("secret"), false), "gone").await.expect_err("refused");
    assert!(matches!(error, HubError::UnknownRevision { .. }), "{error}");
    let error = fetch(&with(None, true), "main").await.expect_err("offline");
    assert!(error.help().expect("help").contains("hf download o/m --revision main"), "{error}");
    fetch(&with(Some("secret"), false), "main").await.expect("with the token");
    fetch(&with(None, true), "main").await.expect("offline, from the cache");
    server.lock().refuses = Some((403, "GatedRepo"));
    let error = fetch(&with(None, false), "v2").await.expect_err("refused");
    assert!(matches!(error, HubError::Gated { .. }) && error.help().expect("help").contains(&url), "{error}");
    for odd in ["../x", "a b", ""] {
        assert!(matches!(fetch(&with(None, false), odd).await, Err(HubError::NoRevision { .. })), "{odd}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hostile_listing_leads_nowhere() {
    let (server, dir) = (model(), tempfile::tempdir().expect("tempdir"));
    let hub = hub(&server, &dir.path().join("cache")).await;
    let lfs = |digest: &str, size: u64| json!({ "sha256": digest, "size": size });
    let file = |name: &str, lfs: Json| json!({ "rfilename": name, "size": 3, "lfs": lfs });
    let digest = "a".repeat(64);
    let listings = [
        json!({ "sha": "../../x", "siblings": [] }),
        json!({ "sha": COMMIT, "siblings": [file("model.safetensors", lfs("../../../x", 3))] }),
        json!({ "sha": COMMIT, "siblings": [file("../../model.safetensors", lfs(&digest, 3))] }),
        json!({ "sha": COMMIT, "siblings": [file("/tmp/model.safetensors", lfs(&digest, 3))] }),
        json!({ "sha": COMMIT, "siblings": [file("model.safetensors", lfs(&digest, u64::MAX))] }),
        json!({ "sha": COMMIT, "siblings": [file("model.safetensors", lfs(&digest, 1 << 41))] }),
        json!({ "sha": COMMIT, "siblings": [{ "rfilename": "model.safetensors" }] }),
        json!({ "siblings": "none" }),
        json!([1, 2]),
    ];
    for listing in listings {
        server.lock().listing = Some(listing.clone());
        let error = fetch(&hub, "main").await.expect_err("refused");
        assert!(
            matches!(error, HubError::Answer { .. } | HubError::NoModel { .. } | HubError::NoRoom { .. }),
            "{listing}: {error}"
        );
    }
    let outside: Vec<_> =
        std::fs::read_dir(dir.path()).expect("there").flatten().map(|e| e.file_name()).collect();
    assert!(outside.is_empty() || outside == ["cache"], "{outside:?}");
    let asked = server.lock().calls.iter().filter(|c| c.contains("resolve")).count();
    assert_eq!(asked, 0, "no file was asked for");
    // Another commit than the one that was asked for.
    server.lock().listing = None;
    let other = "b".repeat(40);
    let error = fetch(&hub, &other).await.expect_err("another commit");
    assert!(error.to_string().contains(&format!("commit {other} is {COMMIT}")), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hub_leads_nobody_into_another_network() {
    let (server, inside, dir) = (model(), model(), tempfile::tempdir().expect("tempdir"));
    let hub = hub(&server, dir.path()).await;
    let port = inside.start().await.rsplit_once(':').expect("a port").1.to_owned();
    for to in
        [format!("http://127.0.0.2:{port}/x"), format!("http://localhost:{port}/x"), "http://[::1]/".into()]
    {
        server.lock().redirects = Some(to.clone());
        let error = fetch(&hub, "main").await.expect_err("refused");
        assert!(error.to_string().contains("redirects"), "{to}: {error}");
    }
    assert!(inside.lock().calls.is_empty(), "{:?}", inside.lock().calls);
    server.lock().redirects = Some("/api/models/o/m/revision/main".into());
    assert!(fetch(&hub, "main").await.is_err(), "round and round");
    server.lock().redirects = None;
    fetch(&hub, "main").await.expect("downloads");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hub_that_drips_is_given_up() {
    let (server, dir) = (model(), tempfile::tempdir().expect("tempdir"));
    let settings =
        Settings { endpoint: server.start().await, cache: dir.path().into(), token: None, offline: false };
    let hub = Hub::new(settings, Env { clock: Arc::new(Racing::default()), ..Env::system() }).expect("a hub");
    let error = fetch(&hub, "main").await.expect_err("given up");
    assert!(error.to_string().contains("less than 4096 bytes in a second"), "{error}");
}

/// A clock on which a day is over with each look.
#[derive(Default)]
struct Racing(std::sync::atomic::AtomicU64);

impl Clock for Racing {
    fn now_ms(&self) -> u64 {
        0
    }

    fn elapsed(&self) -> Duration {
        Duration::from_secs(86_400 * self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed))
    }

    fn sleep(&self, _: Duration) -> Sleep {
        Box::pin(std::future::ready(()))
    }

    fn thread_wait(&self, duration: Duration) -> Option<Duration> {
        Some(duration)
    }

    fn on_advance(&self, _: Wake) {}
}
