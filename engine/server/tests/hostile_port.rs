//! The engine's port, spoken to from outside by strangers, web pages, thieves and slow callers.

#[allow(dead_code, reason = "every test uses its part")]
mod caller;

use std::time::Duration;

use caller::{Port, answer, tls};
use headstart_driver::hub::codes;
use headstart_protocol::Digest;
use headstart_server::{Channel, Limits};
use reqwest::Method;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const CHANNELS: [Channel; 2] = [Channel::Tls, Channel::InsecurePlaintext];

/// Limits that run out while a test waits.
fn hasty() -> Limits {
    let short = Duration::from_millis(150);
    Limits {
        handshake: short,
        head: short,
        body: short,
        stall: short * 4,
        stranger: short * 3,
        ..Limits::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invited_device_joins_and_a_stranger_under_its_name_waits() {
    for channel in CHANNELS {
        let port = Port::open(channel, Limits::default()).await;
        let (mut phone, mut thief) = (port.caller(1), port.caller(2));
        let invitation = port.invite("phone");
        assert_eq!(phone.join("phone", Some(&invitation)).await.status, 200, "{channel:?}");
        assert_eq!(thief.join("phone", Some(&invitation)).await.code(), (403, codes::INVITATION));
        assert_eq!(thief.join("phone", None).await.code(), (403, codes::PENDING));
        let claim = json!({ "wait_ms": 0 });
        assert_eq!(phone.post("/v1/claim", &claim).await.status, 204);
        // The session is of no use to anybody else.
        thief.session.clone_from(&phone.session);
        assert_eq!(thief.post("/v1/claim", &claim).await.code(), (401, codes::UNKNOWN_SESSION));
        port.hub().registry().revoke("phone").expect("known");
        assert_eq!(phone.post("/v1/claim", &claim).await.code(), (403, codes::REVOKED));
        let refused = phone.join("phone", None).await;
        assert_eq!(refused.code(), (403, codes::REVOKED));
        let told = refused.body.to_string();
        assert!(!told.contains(&*port.workspace().to_string_lossy()), "no folder is named: {told}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_have_fitting_status_codes_and_a_stable_name() {
    for channel in CHANNELS {
        let port = Port::open(channel, Limits::default()).await;
        let phone = port.caller(1);
        let digest = Digest::of(b"x");
        let claim = json!({ "wait_ms": 0 }).to_string();
        let cases = [
            (Method::POST, "/v1/claim".to_owned(), claim, 401, codes::UNKNOWN_SESSION),
            (Method::GET, format!("/v1/blobs/{digest}"), String::new(), 401, codes::UNKNOWN_SESSION),
            (Method::PUT, format!("/v1/blobs/{digest}"), "x".into(), 401, codes::UNKNOWN_SESSION),
            (Method::POST, "/v1/join".to_owned(), "{".to_owned(), 400, codes::INVALID),
            (Method::POST, "/v1/join".to_owned(), "x".repeat(300 << 10), 413, codes::INVALID),
            (Method::GET, "/v1/join".to_owned(), String::new(), 405, codes::INVALID),
            (Method::GET, "/v2/anything".to_owned(), String::new(), 404, codes::NOT_FOUND),
        ];
        for (method, path, body, status, code) in cases {
            let request = phone.request(method.clone(), &path, body.as_bytes());
            let request = request.header("content-type", "application/json").body(body);
            assert_eq!(answer(request).await.code(), (status, code), "{channel:?}: {method} {path}");
        }
        let mut join = phone.join_message("phone", None).await;
        join.protocol += 1;
        let newer = phone.post("/v1/join", &serde_json::to_value(join).expect("JSON")).await;
        assert_eq!(newer.code(), (426, codes::PROTOCOL));
    }
}

/// A form of a web page, a page whose name points here, and a script.
#[tokio::test(flavor = "multi_thread")]
async fn web_pages_reach_nothing() {
    for channel in CHANNELS {
        let port = Port::open(channel, Limits::default()).await;
        let mut phone = port.caller(1);
        phone.join("phone", Some(&port.invite("phone"))).await;
        let body = json!({ "wait_ms": 0 }).to_string();
        let claim = || phone.request(Method::POST, "/v1/claim", body.as_bytes()).body(body.clone());
        let json = "application/json";
        for kind in ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", ""]
        {
            let form = claim().header("content-type", kind);
            assert_eq!(answer(form).await.status, 415, "{kind}");
        }
        assert_eq!(answer(claim()).await.status, 415, "no type at all");
        let page = claim().header("content-type", json).header("origin", "https://evil.example");
        assert_eq!(answer(page).await.status, 403);
        let own = claim().header("content-type", json).header("origin", port.url());
        assert_eq!(answer(own).await.status, 403, "any origin");
        let script = claim().header("content-type", json).header("sec-fetch-site", "cross-site");
        assert_eq!(answer(script).await.status, 403);
        for host in ["evil.example", "evil.example:7878", "127.0.0.1.evil.example"] {
            let rebound = claim().header("content-type", json).header("host", host);
            assert_eq!(answer(rebound).await.status, 421, "{host}");
        }
        assert_eq!(
            answer(claim().header("content-type", "application/json; charset=utf-8")).await.status,
            204
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_tls_a_request_counts_only_as_it_was_signed() {
    let port = Port::open(Channel::InsecurePlaintext, Limits::default()).await;
    let mut phone = port.caller(1);
    phone.join("phone", Some(&port.invite("phone"))).await;
    let body = json!({ "wait_ms": 0 }).to_string();
    let json = ("content-type", "application/json");
    let plain = phone.http.post(format!("{}/v1/claim", phone.url)).header(json.0, json.1);
    let plain = plain.header(headstart_protocol::wire::SESSION, &phone.session).body(body.clone());
    assert_eq!(answer(plain).await.code(), (401, codes::UNPROVEN), "a session alone is worth nothing");
    // Somebody on the way changes the body, or sends it elsewhere.
    let changed = phone.request(Method::POST, "/v1/claim", body.as_bytes()).header(json.0, json.1);
    assert_eq!(answer(changed.body("{\"wait_ms\":1}")).await.code(), (401, codes::UNPROVEN));
    let mut elsewhere = phone.request(Method::POST, "/v1/claim", body.as_bytes()).build().expect("a request");
    elsewhere.url_mut().set_path("/v1/renew");
    let elsewhere = reqwest::RequestBuilder::from_parts(phone.http.clone(), elsewhere);
    let elsewhere = elsewhere.header(json.0, json.1).body(body.clone());
    assert_eq!(answer(elsewhere).await.code(), (401, codes::UNPROVEN));
    assert_eq!(phone.post("/v1/claim", &json!({ "wait_ms": 0 })).await.status, 204);
}

/// A man in the middle of a plaintext channel reads everything, and a join that he repeats is of no use.
#[tokio::test(flavor = "multi_thread")]
async fn a_recorded_join_gives_its_thief_nothing() {
    let port = Port::open(Channel::InsecurePlaintext, Limits::default()).await;
    let phone = port.caller(1);
    let join = phone.join_message("phone", Some(&port.invite("phone"))).await;
    let join = serde_json::to_value(join).expect("JSON");
    assert_eq!(phone.post("/v1/join", &join).await.status, 200);
    let mut thief = port.caller(2);
    assert_eq!(thief.post("/v1/join", &join).await.code(), (401, codes::UNPROVEN), "signed by another key");
    // Even with the phone's whole request: the session that it is given belongs to the phone's key.
    let repeated = phone.post("/v1/join", &join).await;
    thief.session = phone
        .read::<headstart_protocol::wire::Joined>(&repeated, headstart_transport::signed::Kind::Joined)
        .session;
    assert_eq!(thief.post("/v1/claim", &json!({ "wait_ms": 0 })).await.code(), (401, codes::UNKNOWN_SESSION));
}

#[tokio::test(flavor = "multi_thread")]
async fn plain_http_at_a_port_with_tls_is_told_so() {
    let port = Port::open(Channel::Tls, Limits::default()).await;
    let old =
        port.caller(1).http.post(format!("http://{}/v1/join", port.address)).body("{\"device\":\"phone\"}");
    let told = answer(old).await;
    assert_eq!(told.code(), (400, codes::PROTOCOL));
    assert!(
        told.body["message"].as_str().is_some_and(|m| m.contains("headstart devices invite")),
        "{told:?}"
    );
}

/// Reads until the other side closes; how long that took at most is the test's own limit.
async fn closed(mut stream: impl tokio::io::AsyncRead + Unpin) -> Vec<u8> {
    let mut bytes = Vec::new();
    let end = tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut bytes));
    // A reset is an end too.
    let _ = end.await.expect("the engine closes it");
    bytes
}

#[tokio::test(flavor = "multi_thread")]
async fn half_sent_requests_and_handshakes_end_by_themselves() {
    let port = Port::open(Channel::Tls, hasty()).await;
    // Nothing at all, half a handshake, plain bytes that are neither.
    let silent = TcpStream::connect(port.address).await.expect("connects");
    closed(silent).await;
    let mut half = TcpStream::connect(port.address).await.expect("connects");
    half.write_all(&[0x16, 3, 1, 2, 0]).await.expect("sends");
    closed(half).await;
    // Half a head, and half a body, by somebody whose key proves nothing.
    let mut head = tls(&port, 9).await;
    head.write_all(b"POST /v1/hello HTTP/1.1\r\nhost: 127.0.0.1\r\n").await.expect("sends");
    closed(head).await;
    let mut body = tls(&port, 9).await;
    let text = "POST /v1/hello HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\ncontent-length: 50\r\n\r\n{";
    body.write_all(text.as_bytes()).await.expect("sends");
    let told = closed(body).await;
    assert!(told.starts_with(b"HTTP/1.1 408"), "{}", String::from_utf8_lossy(&told));
    // A stranger that is busy all the time has to go as well.
    let mut busy = tls(&port, 9).await;
    let busy = tokio::spawn(async move {
        loop {
            let byte = busy.write_all(b"GET /v1/x HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n").await;
            if byte.is_err() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    tokio::time::timeout(Duration::from_secs(20), busy).await.expect("it ends").expect("no panic");
}

/// 300 connections that say nothing, all from the device's own address.
#[tokio::test(flavor = "multi_thread")]
async fn a_crowd_of_half_open_connections_shuts_no_device_out() {
    for channel in CHANNELS {
        let port = Port::open(channel, Limits::default()).await;
        let mut phone = port.caller(1);
        phone.join("phone", Some(&port.invite("phone"))).await;
        let mut crowd = Vec::new();
        for n in 0..300 {
            let mut stream = TcpStream::connect(port.address).await.expect("connects");
            let begin: &[u8] = if n % 2 == 0 { b"P" } else { &[0x16] };
            // Those that were ended already cannot be written to.
            let _ = stream.write_all(begin).await;
            crowd.push(stream);
        }
        // One that is connected works on, and so does one that comes anew.
        let claim = json!({ "wait_ms": 0 });
        assert_eq!(phone.post("/v1/claim", &claim).await.status, 204, "{channel:?}");
        let mut again = port.caller(1);
        assert_eq!(again.join("phone", None).await.status, 200, "{channel:?}");
        assert_eq!(again.post("/v1/claim", &claim).await.status, 204, "{channel:?}");
        drop(crowd);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_commit_of_a_stranger_is_not_read() {
    let port = Port::open(Channel::Tls, Limits::default()).await;
    let mut stream = tls(&port, 9).await;
    let head = format!(
        "POST /v1/commit HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n\
         headstart-session: guess\r\ncontent-length: {}\r\n\r\n",
        13 << 20
    );
    // Not a byte of the body: the answer comes without.
    stream.write_all(head.as_bytes()).await.expect("sends");
    let told = closed(stream).await;
    let told = String::from_utf8_lossy(&told);
    assert!(told.starts_with("HTTP/1.1 401") && told.contains("connection: close"), "{told}");
    assert!(told.contains(codes::UNKNOWN_SESSION), "{told}");
    // A caller that sends all of it without listening reads the refusal too.
    let body = vec![b'x'; 13 << 20];
    let stranger = port.caller(9);
    let request =
        stranger.request(Method::POST, "/v1/commit", &body).header("content-type", "application/json");
    assert_eq!(answer(request.body(body)).await.code(), (401, codes::UNKNOWN_SESSION));
}

#[tokio::test(flavor = "multi_thread")]
async fn uploads_that_nobody_asked_for_are_not_read() {
    let port = Port::open(Channel::Tls, Limits::default()).await;
    let mut phone = port.caller(1);
    phone.join("phone", Some(&port.invite("phone"))).await;
    let digest = Digest::of(b"x");
    let put = phone.request(Method::PUT, &format!("/v1/blobs/{digest}"), b"x").body("x");
    assert_eq!(answer(put).await.code(), (422, codes::RESIDENCY));
    let scratch = std::fs::read_dir(port.workspace().join("scratch")).map_or(0, |d| d.flatten().count());
    assert_eq!(scratch, 0, "nothing was written");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_waits_does_not_hold_up_the_end() {
    let port = Port::open(Channel::Tls, Limits::default()).await;
    let mut phone = port.caller(1);
    phone.join("phone", Some(&port.invite("phone"))).await;
    let claim = tokio::spawn({
        let phone = phone.clone();
        async move { phone.post("/v1/claim", &json!({ "wait_ms": 30_000 })).await }
    });
    while !port.hub().devices().iter().any(|d| d.waiting) {
        tokio::task::yield_now().await;
    }
    port.closing.cancel();
    // Not after the 30 seconds that it asked for: those would end the test's own time.
    assert_eq!(claim.await.expect("task").status, 204);
    port.served.await.expect("stops");
}
