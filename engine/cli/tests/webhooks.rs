//! Signed calls that start schedules, and notifications: over real processes and sockets.

mod common;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use common::Place;
use common::served::{ROWS, Served};
use headstart_notify::Secret;
use headstart_store::Workspace;
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(120);

fn secret(place: &Place, name: &str) -> Secret {
    let ws = Workspace::open(&place.path("ws")).expect("a workspace");
    Secret::of(&ws, name).expect("a secret")
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs()
}

/// Calls a webhook, and gives the status of the answer.
fn call(host: &str, name: &str, [id, timestamp, signature]: [&str; 3], body: &str) -> u16 {
    let mut stream = TcpStream::connect(host).expect("it listens");
    let request = format!(
        "POST /hooks/{name} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nContent-Length: {}\r\nwebhook-id: {id}\r\n\
         webhook-timestamp: {timestamp}\r\nwebhook-signature: {signature}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("answered");
    answer.split(' ').nth(1).and_then(|s| s.parse().ok()).expect("a status")
}

#[test]
fn a_signed_call_starts_a_schedule_once() {
    let place = Place::new();
    place.write("rows.jsonl", ROWS);
    let text = "dataset rows = jsonl(\"rows.jsonl\")\noutput rows = rows\nschedule fresh { webhook: \"new-data\" }\n";
    let file = place.write("p.pllm", text).display().to_string();
    let served = Served::start(&place, &[&file, "--page", "127.0.0.1:0"]);
    served.says("fresh: on call of webhook `new-data`");
    let said = served.says("page at http://");
    let (_, rest) = said.split_once("page at http://").expect("said");
    let host = rest.lines().next().expect("a line").to_owned();
    let printed = place.headstart(&["webhook", "new-data"]).code(0);
    let secret = secret(&place, "webhook-new-data");
    assert_eq!(printed.out.trim(), secret.text());
    place.headstart(&["webhook", "new-dat"]).code(2).err_has("did you mean `new-data`?");

    let sign = |id: &str, at: u64, body: &str| secret.sign(id, &at.to_string(), body.as_bytes());
    let at = now();
    let (time, signature) = (at.to_string(), sign("call-1", at, "{}"));
    // Nothing that is not signed, for this webhook, now.
    for (name, id, time, signature, body) in [
        ("new-data", "call-1", time.as_str(), "", "{}"),
        ("new-data", "call-1", &time, "v1,AAAA", "{}"),
        ("new-data", "call-2", &time, &signature, "{}"),
        ("new-data", "call-1", &time, &signature, "{ }"),
        ("other", "call-1", &time, &signature, "{}"),
        ("new-data", "", &time, &sign("", at, "{}"), "{}"),
        ("new-data", "call-1", &(at - 400).to_string(), &sign("call-1", at - 400, "{}"), "{}"),
        ("new-data", "call-1", &(at + 400).to_string(), &sign("call-1", at + 400, "{}"), "{}"),
    ] {
        assert_eq!(
            call(&host, name, [id, time, signature], body),
            401,
            "{name} {id} {time} {signature} {body}"
        );
    }
    assert_eq!(call(&host, "new-data", ["call-1", &time, &signature], "{}"), 202);
    served.says_times(" succeeded", 1);
    // A sender that heard no answer repeats the call; another call is another run.
    assert_eq!(call(&host, "new-data", ["call-1", &time, &signature], "{}"), 202);
    assert_eq!(call(&host, "new-data", ["call-2", &time, &sign("call-2", at, "")], ""), 202);
    served.says_times(" succeeded", 2);
    let explained = place.headstart(&["schedules", "explain", "fresh"]).code(0);
    assert_eq!(explained.out.matches("webhook `new-data` was called").count(), 2, "{}", explained.out);
}

/// A receiver that fails at first. Gives each request that came: head and body.
fn receiver(fails: usize) -> (String, Receiver<(String, String)>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}/hook", listener.local_addr().expect("an address"));
    let (send, requests) = channel();
    std::thread::spawn(move || {
        for (n, stream) in listener.incoming().map_while(Result::ok).enumerate() {
            let mut stream = stream;
            let mut bytes = Vec::new();
            let mut chunk = [0; 4096];
            let whole = |bytes: &[u8]| {
                let text = String::from_utf8_lossy(bytes).into_owned();
                let (head, body) = text.split_once("\r\n\r\n")?;
                let length = head.lines().find_map(|l| l.strip_prefix("content-length: "))?;
                (body.len() >= length.parse().ok()?).then(|| (head.to_owned(), body.to_owned()))
            };
            let request = loop {
                match stream.read(&mut chunk) {
                    Ok(0) | Err(_) => break None,
                    Ok(n) => bytes.extend_from_slice(&chunk[..n]),
                }
                if let Some(request) = whole(&bytes) {
                    break Some(request);
                }
            };
            let status = if n < fails { "503 Service Unavailable" } else { "204 No Content" };
            let _ = stream.write_all(format!("HTTP/1.1 {status}\r\nConnection: close\r\n\r\n").as_bytes());
            if let Some(request) = request
                && send.send(request).is_err()
            {
                return;
            }
        }
    });
    (url, requests)
}

fn header<'a>(head: &'a str, name: &str) -> &'a str {
    let line = head.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(": "));
    line.unwrap_or_default()
}

#[test]
fn failures_and_recoveries_are_told_until_they_are_heard() {
    let place = Place::new();
    let text = "dataset rows = jsonl(\"rows.jsonl\")\noutput rows = rows\nschedule yearly { cron: \"0 0 1 1 *\", timezone: \"UTC\" }\n";
    let file = place.write("p.pllm", text).display().to_string();
    let told = place.path("told").display().to_string();
    let program = place
        .write("tell.sh", &format!("#!/bin/sh\necho \"$HEADSTART_EVENT\" >> '{told}'\ncat >> '{told}'\n"));
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).expect("writable");
    }
    let (url, requests) = receiver(1);
    let program = program.display().to_string();
    let served = Served::start(&place, &[&file, "--now", "--notify-url", &url, "--notify-command", &program]);
    // The file is not there: the run fails, and the first attempt to say so does as well.
    let next = || requests.recv_timeout(PATIENCE).expect("a notification");
    let ((first, body), (second, again)) = (next(), next());
    served.says("notification failed of run ");
    let id = header(&first, "webhook-id");
    assert!(id.starts_with("notice_"), "{first}");
    assert_eq!((id, &body), (header(&second, "webhook-id"), &again), "the same, repeated");
    let secret = secret(&place, "notifications");
    let printed = place.headstart(&["webhook", "--notifications"]).code(0);
    assert_eq!(printed.out.trim(), secret.text());
    let (time, signature) = (header(&second, "webhook-timestamp"), header(&second, "webhook-signature"));
    assert!(secret.verifies(id, time, again.as_bytes(), signature), "{second}");
    let notice: Value = serde_json::from_str(&body).expect("JSON");
    assert_eq!((&notice["event"], &notice["schedule"]), (&"failed".into(), &"yearly".into()));
    assert!(notice["problem"].as_str().is_some_and(|p| p.contains("rows")), "{notice}");

    // Then it is, and the next run recovers; the one after that has nothing to tell.
    place.write("rows.jsonl", ROWS);
    for times in 1..=2 {
        place.headstart(&["schedules", "run", "yearly"]).code(0);
        served.says_times(" succeeded", times);
    }
    let (_, body) = next();
    assert!(body.contains("\"event\":\"recovered\""), "{body}");
    let begun = std::time::Instant::now();
    while !std::fs::read_to_string(&told).is_ok_and(|t| t.contains("recovered\n{\"event\":\"recovered\"")) {
        assert!(begun.elapsed() < PATIENCE, "the program is not told");
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(std::fs::read_to_string(&told).expect("told").starts_with("failed\n{\"event\":\"failed\""));
    assert!(requests.try_recv().is_err(), "nothing else");
    place
        .headstart(&["serve", &file, "--notify-url", "example.com"])
        .code(2)
        .err_has("is not an address for notifications");
}
