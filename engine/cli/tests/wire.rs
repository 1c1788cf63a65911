//! The proof over real processes: with `--allow-release none`, two runs of the same pipeline on different
//! private data send the same messages of the same sizes; nothing but times, keys and signatures differs.
//!
//! Real stages, the real commands, every byte recorded by a proxy in between. Without TLS, since the proxy is
//! to read; what TLS adds depends on sizes alone, and sizes are compared.

mod common;

use std::collections::BTreeSet;
use std::process::{Child, Command, Stdio};

use common::proxy::Proxy;
use common::{Place, copy_dir, device_binary, root};

const PIPELINE: &str = r#"
model base = local("BASE")
space style = pooled(base)
dataset questions = jsonl("probes.jsonl")
private dataset mine = jsonl("me.jsonl") on device("phone")

stage pllm: Pllm = ingest(base: base, source: a) for a in glob("CATALOG/*-concise-*")
stage plain: Responses = probe(base, prompts: questions)
stage said: Responses = probe(p, prompts: questions) for p in pllm
stage drift: Divergence = embed(r, against: plain, space: style) for r in said
stage catalog: Catalog = decompose(drift)

stage me: Divergence = embed(mine, against: base, space: style) { on: device("phone") }
stage pick: Selection = select(catalog, user: me, verify: mine) { on: device("phone") }
stage start: Pllm = merge(pick.mix) when pick.is_mix { on: device("phone") }
stage tuned: Pllm = finetune(start or pick.pllm, data: mine, max_steps: 4, eval_every: 2) { on: device("phone") }
stage after: Metrics = evaluate(tuned, data: mine, answers: 2) { on: device("phone") }

output catalog = catalog
"#;

/// A device that is ended with the test.
struct Device(Child);

impl Drop for Device {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("bound").port()
}

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
    let examples = root().join("examples");
    let path = |name: &str| examples.join(name).display().to_string();
    let probes = std::fs::read_to_string(examples.join("first-light/probes.jsonl")).expect("readable");
    let probes: String = probes.lines().take(8).map(|l| format!("{l}\n")).collect();
    place.write("probes.jsonl", &probes);
    let text = PIPELINE.replace("BASE", &path("models/tiny")).replace("CATALOG", &path("catalog"));
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
    let device = Command::new(device_binary())
        .arg("--state")
        .arg(place.path("state"))
        .args(place.join("phone", &format!("http://127.0.0.1:{}", proxy.port)))
        .args(["--insecure-plaintext", "--allow-release", "none", "--data"])
        .arg(place.path("phone"))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    let device = Device(device.expect("the device starts"));
    place.headstart(&run).code(0);
    drop(device);
    let shown = Command::new(device_binary()).arg("--state").arg(place.path("state")).arg("show").output();
    let ended = String::from_utf8_lossy(&shown.expect("shows").stdout).into_owned();
    let host = format!("127.0.0.1:{}", proxy.port);
    let mut found = Recorded { waiting: BTreeSet::new(), others: Vec::new(), ended };
    let all: Vec<(String, usize)> = proxy.requests().iter().map(|r| normalised(r, &host)).collect();
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
    (without_digests(&format!("{head}\n{body}")), body_size(request) - times)
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
    for time in ["/outcome/usage/seconds", "/wait_ms", "/fence"] {
        if let Some(value) = json.pointer_mut(time) {
            bytes += value.to_string().len();
            *value = 0.into();
        }
    }
    (json.to_string(), bytes)
}

/// Every session, of 32 hexadecimal digits, digest, handle, key and nonce, of 64, challenge, of 80, and signature, of
/// 128, as as many `#`.
fn without_digests(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let digits = rest.bytes().take_while(u8::is_ascii_hexdigit).count();
        if matches!(digits, 32 | 64 | 80 | 128) {
            out.push_str(&"#".repeat(digits));
            rest = &rest[digits..];
        } else {
            let step = digits.max(c.len_utf8());
            out.push_str(&rest[..step]);
            rest = &rest[step..];
        }
    }
    out
}

#[test]
fn nothing_but_times_differs_on_the_wire_and_sizes_are_equal() {
    let examples = root().join("examples/first-light/phone/me.jsonl");
    let mine = std::fs::read_to_string(examples).expect("readable");
    let datasets = [
        // Texts in a style of the catalog.
        mine.lines().take(24).map(|l| format!("{l}\n")).collect::<String>(),
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
