//! The proof over real processes: with `--allow-release none`, two runs of the same pipeline on different
//! private data send the same messages of the same sizes; nothing but times, keys and signatures differs.
//!
//! Real stages, the real commands, every byte recorded by a proxy in between. Without TLS, since the proxy is
//! to read; what TLS adds depends on sizes alone, and sizes are compared.

mod common;

use std::collections::BTreeSet;
use std::process::Command;
use std::time::Duration;

use common::phone::{free_port, personalization, phone, written};
use common::proxy::Proxy;
use common::{Place, copy_dir, device_binary};
use headstart_testkit::without_digests;

/// Digits of a session, of a digest, handle, key or nonce, of a challenge, and of a signature.
const DIGESTS: [usize; 4] = [32, 64, 80, 128];

/// What one run put on the wire.
struct Recorded {
    /// Messages whose number says nothing but how long things took: asking for work and keeping leases.
    waiting: BTreeSet<(String, usize)>,
    /// All others, in their order, with their sizes.
    others: Vec<(String, usize)>,
    /// What the owner is told became of the stages.
    ended: String,
}

/// A folder with the pipeline's inputs, and a workspace in which its catalog is made already, so that the phone
/// waits for nothing but its own stages.
fn prepared() -> Place {
    let place = Place::new();
    let text = personalization(&place, 4, 8);
    let file = place.write("p.pllm", &text).display().to_string();
    place.headstart(&["run", &file, "--quiet", "--only", "catalog", "--listen", "127.0.0.1:0"]).code(0);
    place
}

fn recorded(prepared: &Place, mine: &str) -> Recorded {
    let place = Place::new();
    copy_dir(prepared.dir.path(), place.dir.path());
    place.write("phone/me.jsonl", mine);
    let file = place.path("p.pllm").display().to_string();
    let port = free_port();
    let listen = format!("127.0.0.1:{port}");
    let run = ["run", &file, "--quiet", "--insecure-plaintext", "--listen", &listen];
    let proxy = Proxy::to(port);
    let url = format!("http://127.0.0.1:{}", proxy.port);
    let device =
        phone(&place, &url, &place.path("phone"), &["--insecure-plaintext", "--allow-release", "none"]);
    place.headstart(&run).code(0);
    let all = proxy.requests();
    // The run has ended, and the device still works on what it was told.
    let ended = worked_off(&place);
    drop(device);
    let host = format!("127.0.0.1:{}", proxy.port);
    let mut found = Recorded { waiting: BTreeSet::new(), others: Vec::new(), ended };
    let all: Vec<(String, usize)> = all.iter().map(|r| normalised(r, &host)).collect();
    // Requests of several connections are not in the order in which they were sent.
    for message in all {
        let waits = message.0.starts_with("POST /v1/claim") || message.0.starts_with("POST /v1/renew");
        match waits {
            true => found.waiting.extend([message]),
            false => found.others.push(message),
        }
    }
    found.others.sort();
    found
}

/// What the owner is shown once nothing waits on the device.
fn worked_off(place: &Place) -> String {
    loop {
        let shown =
            Command::new(device_binary()).arg("--state").arg(place.path("state")).arg("show").output();
        let shown = String::from_utf8_lossy(&shown.expect("shows").stdout).into_owned();
        if !shown.contains("Waits to be worked on here") {
            return shown;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// A request without keys, handles, signatures, addresses and times, and its size with all of them.
fn normalised(request: &[u8], host: &str) -> (String, usize) {
    let text = String::from_utf8_lossy(request).replace(host, "HOST");
    let (head, body) = text.split_once("\r\n\r\n").expect("a request has a head");
    let (body, times) = with_equal_times(body);
    // What times take up is not a size that data decides; the length of the body follows from them.
    let head: String = head
        .lines()
        .map(|l| if l.to_ascii_lowercase().starts_with("content-length") { "content-length: #" } else { l })
        .map(|l| format!("{l}\n"))
        .collect();
    (without_digests(&format!("{head}\n{body}"), &DIGESTS), body_size(request) - times)
}

/// Bytes of a request's body.
fn body_size(request: &[u8]) -> usize {
    let head = request.windows(4).position(|w| w == b"\r\n\r\n").expect("a request has a head");
    request.len() - head - 4
}

/// The body with all times alike, and how many bytes they took.
fn with_equal_times(body: &str) -> (String, usize) {
    let Ok(mut json) = serde_json::from_str::<serde_json::Value>(body) else { return (body.to_owned(), 0) };
    let mut bytes = 0;
    // The engine counts attempts of all runners together, so a fence tells who claimed first.
    for time in ["/outcome/usage/seconds", "/wait_ms", "/fence", "/held/highest"] {
        if let Some(value) = json.pointer_mut(time) {
            bytes += value.to_string().len();
            *value = 0.into();
        }
    }
    (json.to_string(), bytes)
}

#[test]
fn nothing_but_times_differs_on_the_wire_and_sizes_are_equal() {
    let datasets = [
        // Texts in a style of the catalog.
        written(24),
        // Plain words, five times as many: another choice, another branch, other lengths.
        "{\"prompt\":\"Hello\",\"response\":\"Good day to you, and to everybody else.\"}\n".repeat(120),
        // Nothing can be made of it: every stage fails.
        "no JSON\n".to_owned(),
    ];
    let prepared = prepared();
    let runs: Vec<Recorded> = std::thread::scope(|s| {
        let all: Vec<_> = datasets.iter().map(|mine| s.spawn(|| recorded(&prepared, mine))).collect();
        all.into_iter().map(|run| run.join().expect("recorded")).collect()
    });
    let first = &runs[0];
    let commits = first.others.iter().filter(|(m, _)| m.starts_with("POST /v1/commit")).count();
    assert_eq!(commits, 6, "the dataset and five stages: {:#?}", first.others);
    for other in &runs[1..] {
        assert_ne!(first.ended, other.ended, "the runs came to different things, or this proves nothing");
        for (a, b) in first.others.iter().zip(&other.others) {
            assert_eq!(a, b);
        }
        assert_eq!(first.others.len(), other.others.len());
        assert_eq!(first.waiting, other.waiting);
    }
}
