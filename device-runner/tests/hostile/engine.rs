//! An engine, or whoever is in its place, that lies: what it cannot prove has no effect.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::serve::Listener;
use headstart_device::{DeviceError, Options, Target, Until};
use headstart_protocol::Type;
use headstart_protocol::expr::Value;
use headstart_protocol::task::Task;
use headstart_protocol::wire::{Signed, WireError};
use headstart_transport::signed::Kind;
use headstart_transport::{Identity, Invitation};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use crate::common::tls::TlsListener;
use crate::common::{Engine, Place, stages, task};

fn probe(engine: &Engine, fence: u64) -> Task {
    let model = engine.publish(Type::Model, &[("model.safetensors", b"weights")], json!({}));
    let rows = engine.publish(Type::Dataset, &[("rows.jsonl", b"{}\n")], json!({ "rows": 1 }));
    let args = [("model", Value::Artifact(model)), ("prompts", Value::Artifact(rows))];
    task(fence, "probe", Type::Responses, &args)
}

/// Runs a device until it is idle; how often its stage ran.
async fn ran(options: Options) -> (Result<(), DeviceError>, usize) {
    let count = Arc::new(AtomicUsize::new(0));
    let stages = vec![stages::probe(count.clone())];
    let run = headstart_device::run(options, stages, CancellationToken::new()).await;
    (run.map(drop), count.load(Ordering::SeqCst))
}

fn outbox(place: &Place) -> usize {
    let files = std::fs::read_dir(place.state().join("outbox")).expect("there").flatten();
    files.filter(|f| f.path().extension().is_some_and(|e| e == "json")).count()
}

#[tokio::test]
async fn a_recorded_grant_runs_on_no_device_again() {
    let (engine, place) = (Engine::start().await, Place::new());
    engine.offer(probe(&engine, 5));
    let (first, times) = ran(place.options(&engine)).await;
    first.expect("runs");
    assert_eq!(times, 1);
    let recorded = engine.lock().grants[0].clone();

    engine.lock().replay = Some(recorded.clone());
    let (again, times) = ran(place.options(&engine)).await;
    again.expect("goes on");
    assert_eq!(times, 0, "not twice on the same device, also after a restart");

    let other = Place::new();
    engine.lock().replay = Some(recorded);
    let (elsewhere, times) = ran(other.options(&engine)).await;
    elsewhere.expect("goes on");
    assert_eq!(times, 0, "not on another device");

    // Newer work still runs on both.
    for (place, fence) in [(&place, 6), (&other, 7)] {
        engine.offer(probe(&engine, fence));
        assert_eq!(ran(place.options(&engine)).await.1, 1);
    }
}

#[tokio::test]
async fn an_older_or_expired_or_changed_grant_is_not_run() {
    let (engine, place) = (Engine::start().await, Place::new());
    engine.offer(probe(&engine, 50));
    assert_eq!(ran(place.options(&engine)).await.1, 1);
    engine.offer(probe(&engine, 49));
    assert_eq!(ran(place.options(&engine)).await.1, 0, "older");
    engine.lock().late_ms = 600_000;
    engine.offer(probe(&engine, 51));
    assert_eq!(ran(place.options(&engine)).await.1, 0, "expired");
    engine.lock().late_ms = 0;
    let tampers: [fn(&mut Signed, Kind); 3] = [
        |m, kind| {
            if kind == Kind::Grant {
                m.body = m.body.replace("probe", "jsonl");
            }
        },
        |m, kind| {
            if kind == Kind::Grant {
                m.fence += 1;
            }
        },
        |m, kind| {
            if kind == Kind::Grant {
                m.expires_ms += 1;
            }
        },
    ];
    for (i, tamper) in tampers.into_iter().enumerate() {
        engine.lock().tamper = Some(tamper);
        engine.offer(probe(&engine, 60 + i as u64));
        assert_eq!(ran(place.options(&engine)).await.1, 0, "changed ({i})");
    }
    engine.lock().tamper = None;
    engine.offer(probe(&engine, 70));
    assert_eq!(ran(place.options(&engine)).await.1, 1, "the honest one runs");
}

/// Nobody empties the outbox but the engine, and only for this very commit.
#[tokio::test]
async fn an_acceptance_counts_for_the_commit_that_it_was_signed_for() {
    let tampers: [fn(&mut Signed, Kind); 3] = [
        // Unsigned.
        |m, kind| {
            if kind == Kind::Commit {
                m.signature = "00".repeat(64);
            }
        },
        // Signed, and about another commit.
        |m, kind| {
            if kind == Kind::Commit {
                m.fence += 1;
            }
        },
        |m, kind| {
            if kind == Kind::Commit {
                m.body = m.body.replace("accepted", "superseded");
            }
        },
    ];
    for (i, tamper) in tampers.into_iter().enumerate() {
        let (engine, place) = (Engine::start().await, Place::new());
        engine.lock().tamper = Some(tamper);
        engine.offer(probe(&engine, 5));
        let (ended, times) = ran(place.options(&engine)).await;
        assert!(matches!(ended, Err(DeviceError::Run(_))), "{i}: {ended:?}");
        assert_eq!((times, outbox(&place)), (1, 1), "{i}: it is kept");
        engine.lock().tamper = None;
        let (ended, times) = ran(place.options(&engine)).await;
        ended.expect("delivers");
        assert_eq!((times, outbox(&place)), (0, 0), "{i}");
    }
}

/// Without TLS anybody on the way can write refusals: they neither empty the outbox nor set aside what is in it.
#[tokio::test]
async fn a_man_in_the_middle_of_plain_http_cannot_refuse_in_the_engines_place() {
    let (engine, place) = (Engine::start_plain(7).await, Place::new());
    for (i, (status, code)) in
        [(422, "residency"), (404, "not_found"), (400, "invalid"), (413, "invalid")].into_iter().enumerate()
    {
        let error = WireError { code: code.into(), message: "no".into() };
        engine.lock().refuse_commits = Some((status, error));
        engine.offer(probe(&engine, 5 + i as u64));
        let (ended, times) = ran(place.options(&engine)).await;
        assert!(matches!(ended, Err(DeviceError::Run(_))), "{status}: {ended:?}");
        assert_eq!((times, outbox(&place)), (usize::from(i == 0), 1), "{status}: it is kept");
    }
    engine.lock().refuse_commits = None;
    // What was offered meanwhile runs now, after the result that waited.
    ran(place.options(&engine)).await.0.expect("delivers");
    assert_eq!(outbox(&place), 0);
}

/// Without TLS a rogue can be called, and proves nothing.
#[tokio::test]
async fn a_rogue_on_plain_http_gets_a_hello_and_no_more() {
    let (rogue, place) = (Engine::start_plain(66).await, Place::new());
    rogue.offer(probe(&rogue, 1));
    let mut options = place.options(&rogue);
    let honest = Identity::from_secret(&[1; 32]).public();
    options.target = Target::Key { url: rogue.url.clone(), name: "phone".into(), key: honest };
    let (ended, times) = ran(options).await;
    let error = ended.expect_err("refused").to_string();
    assert!(error.contains("is not the engine with the key"), "{error}");
    assert_eq!((times, rogue.lock().calls.as_slice()), (0, ["POST /v1/hello".to_owned()].as_slice()));
}

/// The rogue states the engine's key in its invitation-like address, but holds another.
#[tokio::test]
async fn an_engine_that_does_not_hold_the_key_hears_nothing() {
    let (rogue, place) = (Engine::start_with_key(66).await, Place::new());
    let honest = Identity::from_secret(&[1; 32]).public();
    let mut options = place.options(&rogue);
    options.target = Target::Key { url: rogue.url.clone(), name: "phone".into(), key: honest };
    let (ended, _) = ran(options.clone()).await;
    let error = ended.expect_err("refused");
    assert!(matches!(error, DeviceError::KeyChanged { .. }) && error.exit_code() == 2, "{error}");
    options.target = Target::Invitation(Box::new(Invitation {
        engine: honest,
        url: rogue.url.clone(),
        device: "phone".into(),
        token: [7; 16],
        expires_ms: u64::MAX,
    }));
    let (ended, _) = ran(options).await;
    assert!(matches!(ended, Err(DeviceError::KeyChanged { .. })));
    assert!(rogue.lock().calls.is_empty(), "no byte of a request: {:?}", rogue.lock().calls);
}

/// A proxy that ends TLS towards both sides, with keys of its own, and would pass everything on.
async fn proxy_to(engine: &Engine) -> (String, Arc<Mutex<Vec<u8>>>) {
    let own = Identity::from_secret(&[66; 32]);
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let url = format!("https://{}", listener.local_addr().expect("bound"));
    let mut listener = TlsListener::new(listener, &own);
    let to: SocketAddr = engine.url.trim_start_matches("https://").parse().expect("an address");
    let config = headstart_transport::tls::client_config(&own, engine.key()).expect("a key");
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let read = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&read);
    tokio::spawn(async move {
        loop {
            let (mut device, _) = Listener::accept(&mut listener).await;
            let name = tokio_rustls::rustls::pki_types::ServerName::from(to.ip());
            let onwards = TcpStream::connect(to).await.expect("the engine listens");
            let mut engine = connector.connect(name, onwards).await.expect("it takes any key");
            let seen = Arc::clone(&seen);
            tokio::spawn(async move {
                let mut buffer = [0; 4096];
                while let Ok(n) = device.read(&mut buffer).await
                    && n > 0
                {
                    seen.lock().expect("not poisoned").extend_from_slice(&buffer[..n]);
                    engine.write_all(&buffer[..n]).await.expect("passes on");
                }
            });
        }
    });
    (url, read)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_ends_tls_reads_nothing_and_passes_nothing_on() {
    let (engine, place) = (Engine::start().await, Place::new());
    engine.offer(probe(&engine, 1));
    let (url, read) = proxy_to(&engine).await;
    let mut options = place.options(&engine);
    options.target = Target::Key { url, name: "phone".into(), key: engine.key() };
    let (ended, times) = ran(options).await;
    assert!(matches!(ended, Err(DeviceError::KeyChanged { .. })), "{ended:?}");
    assert_eq!((times, read.lock().expect("not poisoned").len()), (0, 0));
    assert!(engine.lock().calls.is_empty(), "{:?}", engine.lock().calls);
    // Straight to the engine it works.
    let (ended, times) = ran(place.options(&engine)).await;
    assert!(ended.is_ok() && times == 1, "{ended:?}");
}

/// The invitation's token never crosses, and neither does the device's secret.
#[tokio::test]
async fn joining_sends_no_secret() {
    let (engine, place) = (Engine::start().await, Place::new());
    let invitation = Invitation {
        engine: engine.key(),
        url: engine.url.clone(),
        device: "phone".into(),
        token: [0xa7; 16],
        expires_ms: u64::MAX,
    };
    let mut options = place.options(&engine);
    options.target = Target::Invitation(Box::new(invitation.clone()));
    ran(options.clone()).await.0.expect("joins");
    let join = engine.lock().joins[0].clone();
    let invited = join.invitation.expect("an invitation");
    assert_eq!(invited.key, invitation.token_key().public().to_string());
    let traffic = String::from_utf8_lossy(&engine.lock().traffic).into_owned();
    assert!(!traffic.contains(&"a7".repeat(16)), "the token crossed");
    let secret = std::fs::read(place.state().join("secret")).expect("a secret");
    let hex: String = secret.iter().map(|b| format!("{b:02x}")).collect();
    assert!(!traffic.contains(&hex), "the secret crossed");

    // Paired: from now on no argument is needed, and another engine is refused.
    options.target = Target::Paired;
    ran(options.clone()).await.0.expect("joins again");
    let other = Engine::start_with_key(9).await;
    options.target = Target::Key { url: other.url.clone(), name: "phone".into(), key: other.key() };
    assert!(matches!(ran(options).await.0, Err(DeviceError::KeyChanged { .. })));
}

#[tokio::test]
async fn a_device_waits_for_approval_and_says_with_which_key() {
    let (engine, place) = (Engine::start().await, Place::new());
    let message = "headstart devices approve phone";
    engine.lock().refuse_joins = Some(WireError { code: "pending".into(), message: message.into() });
    let waiting = ran(place.options(&engine)).await.0.expect_err("not approved");
    assert!(waiting.exit_code() == 1 && waiting.to_string().contains(message), "{waiting}");
    engine.lock().refuse_joins = None;
    let mut options = place.options(&engine);
    // It remembers where it waits.
    options.target = Target::Paired;
    engine.offer(probe(&engine, 1));
    assert_eq!(ran(options).await.1, 1);
}

#[tokio::test]
async fn what_goes_without_tls_says_so() {
    let (engine, place) = (Engine::start().await, Place::new());
    let mut options = place.options(&engine);
    let url = engine.url.replace("https", "http");
    options.target = Target::Key { url: url.clone(), name: "phone".into(), key: engine.key() };
    let error = ran(options.clone()).await.0.expect_err("refused");
    assert!(error.exit_code() == 2 && error.to_string().contains("--insecure-plaintext"), "{error}");
    options.target = Target::Paired;
    let error = ran(options).await.0.expect_err("not paired");
    assert!(error.to_string().contains("headstart devices invite"), "{error}");
    assert!(engine.lock().calls.is_empty());
}

#[tokio::test]
async fn a_state_folder_of_an_earlier_version_must_pair_again() {
    let (engine, place) = (Engine::start().await, Place::new());
    std::fs::create_dir_all(place.state()).expect("a folder");
    std::fs::write(place.state().join("name"), "phone").expect("writes");
    std::fs::write(place.state().join("engine.key"), format!("{}\n", engine.key())).expect("writes");
    let mut options = place.options(&engine);
    options.target = Target::Paired;
    let error = ran(options.clone()).await.0.expect_err("must pair again").to_string();
    assert!(error.contains("`phone`") && error.contains("headstart devices invite phone"), "{error}");
    // The engine that it had joined may take it again, and no other may.
    let other = Engine::start_with_key(9).await;
    options.target = Target::Key { url: other.url.clone(), name: "phone".into(), key: other.key() };
    assert!(matches!(ran(options.clone()).await.0, Err(DeviceError::KeyChanged { .. })));
    options.target = Target::Key { url: engine.url.clone(), name: "phone".into(), key: engine.key() };
    options.until = Until::Idle(Duration::from_millis(50));
    ran(options).await.0.expect("pairs");
}
