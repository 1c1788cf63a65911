//! The page of `headstart serve`, by requests as browsers and attackers send them.

mod common;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use common::Place;
use common::served::{ROWS, Served};

const SCHEDULE: &str = "schedule yearly { cron: \"0 0 1 1 *\", timezone: \"UTC\" }";

/// A served workspace with a page.
struct Paged {
    place: Place,
    served: Served,
    origin: String,
}

/// An answer.
struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Paged {
    fn start() -> Self {
        let place = Place::new();
        place.write("rows.jsonl", ROWS);
        let text = format!("dataset rows = jsonl(\"rows.jsonl\")\noutput rows = rows\n{SCHEDULE}\n");
        let file = place.write("p.pllm", &text).display().to_string();
        let served = Served::start(&place, &[&file, "--page", "127.0.0.1:0"]);
        let said = served.says("page at http://");
        let (_, rest) = said.split_once("page at ").expect("said");
        let origin = rest.lines().next().expect("a line").to_owned();
        Self { place, served, origin }
    }

    fn token(&self, name: &str, role: &str) -> String {
        let made = self.place.headstart(&["--quiet", "tokens", "create", name, "--role", role]).code(0);
        made.out.trim().to_owned()
    }

    fn host(&self) -> &str {
        self.origin.strip_prefix("http://").expect("plain HTTP on loopback")
    }

    /// Sends bytes as they are, and gives all that comes back.
    fn raw(&self, request: &str) -> Answer {
        let mut stream = TcpStream::connect(self.host()).expect("it listens");
        stream.set_read_timeout(Some(Duration::from_secs(60))).expect("a timeout");
        // It may refuse before all is sent.
        let _ = stream.write_all(request.as_bytes());
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        let text = String::from_utf8_lossy(&answer).into_owned();
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
        let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or(0);
        Answer { status, head: head.to_owned(), body: body.to_owned() }
    }

    fn get(&self, path: &str, headers: &str) -> Answer {
        let host = self.host();
        self.raw(&format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{headers}\r\n"))
    }

    fn post(&self, path: &str, headers: &str, body: &str) -> Answer {
        let host = self.host();
        self.raw(&format!(
            "POST {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nContent-Length: {}\r\n\
             Content-Type: application/x-www-form-urlencoded\r\n{headers}\r\n{body}",
            body.len()
        ))
    }

    fn own(&self) -> String {
        format!("Origin: {}\r\n", self.origin)
    }

    /// Signs in; gives the header of the session.
    fn sign_in(&self, token: &str) -> String {
        let answer = self.post("/sign-in", &self.own(), &format!("token={token}"));
        assert_eq!(answer.status, 303, "{}", answer.head);
        let cookie = answer.header("set-cookie");
        assert!(cookie.contains("; HttpOnly; SameSite=Strict"), "{cookie}");
        format!("Cookie: {}\r\n", cookie.split(';').next().expect("a pair"))
    }
}

impl Answer {
    fn header(&self, name: &str) -> String {
        let line = self.head.lines().find(|l| l.to_ascii_lowercase().starts_with(&format!("{name}:")));
        line.and_then(|l| l.split_once(':')).map_or(String::new(), |(_, v)| v.trim().to_owned())
    }
}

/// An operator's wish for the schedule.
const PAUSE: &str = "file=p.pllm&name=yearly&action=pause";

#[test]
fn only_who_is_signed_in_sees_anything() {
    let page = Paged::start();
    for path in [
        "/runs",
        "/runs/x",
        "/catalog",
        "/schedules",
        "/devices",
        "/cache",
        "/metrics",
        "/compare",
        "/runs/x/news",
    ] {
        let answer = page.get(path, "");
        assert_eq!(answer.status, 401, "{path}");
        assert!(!answer.body.contains("yearly"), "{path}");
        let answer = page.get(path, "Accept: text/html\r\n");
        assert_eq!((answer.status, answer.header("location").as_str()), (303, "/sign-in"), "{path}");
        assert_eq!(page.get(path, "Authorization: Bearer headstart_page_00\r\n").status, 401, "{path}");
        assert_eq!(page.get(path, "Cookie: headstart-0=x\r\n").status, 401, "{path}");
    }
    // Ready is who has looked at its schedules, which comes after the port.
    let begun = std::time::Instant::now();
    while page.get("/readyz", "").status == 503 {
        assert!(begun.elapsed() < common::served::PATIENCE, "it is never ready");
    }
    for (path, status) in
        [("/healthz", 200), ("/readyz", 200), ("/sign-in", 200), ("/assets/page.js", 200), ("/x", 404)]
    {
        let answer = page.get(path, "");
        assert_eq!(answer.status, status, "{path}");
        let policy = answer.header("content-security-policy");
        assert!(policy.starts_with("default-src 'none'") && !policy.contains("unsafe"), "{path}: {policy}");
        assert_eq!(answer.header("x-content-type-options"), "nosniff", "{path}");
    }
    assert_eq!(page.post("/sign-in", &page.own(), "token=headstart_page_00").status, 401);
    let token = page.token("me", "operator");
    let session = page.sign_in(&token);
    assert!(page.get("/schedules", &session).body.contains("yearly"));
    // A program shows its token with each request.
    let bearer = format!("Authorization: Bearer {token}\r\n");
    let metrics = page.get("/metrics", &bearer);
    assert!(
        metrics.body.contains("headstart_schedule_paused{file=\"p.pllm\",schedule=\"yearly\"} 0"),
        "{}",
        metrics.body
    );
    assert!(metrics.body.contains("headstart_schedule_next_start_timestamp_seconds"), "{}", metrics.body);
    // Signed out, and revoked.
    assert_eq!(page.post("/sign-out", &format!("{}{session}", page.own()), "").status, 303);
    assert_eq!(page.get("/runs", &session).status, 401);
    let session = page.sign_in(&token);
    page.place.headstart(&["tokens", "revoke", "me"]).code(0);
    assert_eq!(page.get("/runs", &session).status, 401, "a revoked token's session ends");
    assert_eq!(page.get("/metrics", &bearer).status, 401);
    let kept = std::fs::read_to_string(page.place.path("ws/page-tokens.json")).expect("readable");
    assert!(!kept.contains("headstart_page_"), "tokens are kept hashed");
}

#[test]
fn other_pages_and_names_are_refused() {
    let page = Paged::start();
    let session = page.sign_in(&page.token("me", "operator"));
    let (own, host) = (page.own(), page.host());
    // A name that somebody else has pointed at this machine.
    for wrong in ["evil.example", "evil.example:80", "127.0.0.1", "127.0.0.1:1", ""] {
        let request =
            format!("GET /schedules HTTP/1.1\r\nHost: {wrong}\r\nConnection: close\r\n{session}\r\n");
        let answer = page.raw(&request);
        assert!(matches!(answer.status, 400 | 421), "{wrong}: {}", answer.head);
        assert!(!answer.body.contains("yearly"));
    }
    let twice =
        format!("GET /runs HTTP/1.1\r\nHost: {host}\r\nHost: {host}\r\nConnection: close\r\n{session}\r\n");
    assert!(matches!(page.raw(&twice).status, 400 | 421));
    // A form on somebody else's page, with the session's cookie.
    for headers in [
        session.clone(),
        format!("{session}Origin: null\r\n"),
        format!("{session}Origin: https://evil.example\r\n"),
        format!("{session}Origin: http://127.0.0.1:1\r\n"),
        format!("{session}{own}Sec-Fetch-Site: cross-site\r\n"),
        format!("{session}{own}Sec-Fetch-Site: same-site\r\n"),
        format!("{session}{own}{own}"),
    ] {
        assert_eq!(page.post("/schedules", &headers, PAUSE).status, 403, "{headers}");
    }
    // Without a session, and with one that may only look.
    assert_eq!(page.post("/schedules", &own, PAUSE).status, 401);
    let reader = page.sign_in(&page.token("auditor", "read-only"));
    assert_eq!(page.get("/schedules", &reader).status, 200);
    assert!(!page.get("/schedules", &reader).body.contains("Run now"), "no buttons that do nothing");
    for (path, body) in [("/schedules", PAUSE), ("/devices", "device=x&action=revoke")] {
        assert_eq!(page.post(path, &format!("{own}{reader}"), body).status, 403, "{path}");
    }
    for method in ["PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"] {
        let request = format!(
            "{method} /schedules HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{own}{session}\r\n"
        );
        assert!(matches!(page.raw(&request).status, 400 | 405), "{method}");
    }
    let list = page.place.headstart(&["schedules", "list", "--format", "json"]).code(0).out;
    assert!(list.contains("\"paused\":false") || list.contains("\"state\":\"waiting\""), "{list}");
    // And the page itself may.
    assert_eq!(
        page.post("/schedules", &format!("{own}{session}Sec-Fetch-Site: same-origin\r\n"), PAUSE).status,
        303
    );
    page.served.says("yearly: paused");
}

#[test]
fn bodies_heads_and_paths_are_bounded() {
    let page = Paged::start();
    let session = page.sign_in(&page.token("me", "operator"));
    let long = "x".repeat(100_000);
    assert_eq!(page.post("/sign-in", &page.own(), &format!("token={long}")).status, 413);
    let answer = page.get("/runs", &format!("X: {long}\r\n"));
    assert!(matches!(answer.status, 431 | 400 | 0), "{}", answer.head);
    let many: String = (0..200).map(|i| format!("X-{i}: y\r\n")).collect();
    assert!(matches!(page.get("/runs", &many).status, 431 | 400 | 0));
    for path in [
        "/runs/..%2f..%2fetc",
        "/runs/%2e%2e",
        "/runs/a%00b",
        "/runs/x/stages/99999999999",
        "/compare?run=../x&run=y",
    ] {
        let answer = page.get(path, &session);
        assert!((400..500).contains(&answer.status), "{path}: {}", answer.head);
    }
    for wrong in ["", "action=run", "file=x&name=y&action=run", "file=p.pllm&name=yearly&action=delete"] {
        let answer = page.post("/schedules", &format!("{}{session}", page.own()), wrong);
        assert!((400..500).contains(&answer.status), "{wrong}: {}", answer.head);
    }
    // Half a head, then silence: the connection is closed, and others are served meanwhile.
    let mut slow = TcpStream::connect(page.host()).expect("it listens");
    slow.write_all(b"GET /runs HTTP/1.1\r\nHost: ").expect("sent");
    assert_eq!(page.get("/healthz", "").status, 200);
    slow.set_read_timeout(Some(Duration::from_secs(60))).expect("a timeout");
    let mut rest = Vec::new();
    // Either an answer that says so or nothing, but an end.
    let _ = slow.read_to_end(&mut rest);
    assert!(rest.is_empty() || rest.starts_with(b"HTTP/1.1 408"), "{}", String::from_utf8_lossy(&rest));
}

#[test]
fn names_from_outside_are_text() {
    let page = Paged::start();
    let session = page.sign_in(&page.token("me", "operator"));
    let hostile = "%22%3E%3Cscript%3Ealert(1)%3C%2Fscript%3E%E2%80%AE";
    let answer = page.get(&format!("/runs?q={hostile}&outcome={hostile}"), &session);
    assert_eq!(answer.status, 200);
    assert!(!answer.body.contains("<script>alert") && !answer.body.contains('\u{202e}'), "{}", answer.body);
    // A run whose name and parameters try to be markup.
    let text = "param p: Text = \"x\"\ndataset rows = jsonl(\"rows.jsonl\")\noutput rows = rows\n";
    let file = page.place.write("<img src=x onerror=alert(1)>\u{202e}.pllm", text).display().to_string();
    page.place.headstart(&["run", &file, "--set", "p=\"><script>alert(2)</script>\u{1b}[2J"]).code(0);
    let list = page.get("/runs", &session);
    let at = list.body.find("href=\"/runs/").expect("a run is listed") + "href=\"".len();
    let path: String = list.body[at..].chars().take_while(|c| *c != '"').collect();
    for path in ["/runs".to_owned(), path.clone(), format!("{path}/outputs"), format!("{path}/stages/0")] {
        let answer = page.get(&path, &session);
        assert_eq!(answer.status, 200, "{path}");
        for markup in ["<img", "<script>alert", "\u{202e}", "\u{1b}"] {
            assert!(!answer.body.contains(markup), "{path}: {markup}");
        }
    }
}

#[test]
fn a_page_that_others_can_reach_needs_tls_and_a_name() {
    let place = Place::new();
    place.write("rows.jsonl", ROWS);
    let text = format!("dataset rows = jsonl(\"rows.jsonl\")\noutput rows = rows\n{SCHEDULE}\n");
    let file = place.write("p.pllm", &text).display().to_string();
    let serve = |args: &[&str]| {
        let mut all = vec!["serve", &file, "--listen", "127.0.0.1:0"];
        all.extend(args);
        place.headstart(&all)
    };
    serve(&["--page", "0.0.0.0:0"]).code(2).err_has("would be reached without TLS").err_has("--page-cert");
    let proxied = ["--page", "0.0.0.0:0", "--page-behind-proxy", "--page-url", "not an address"];
    serve(&proxied).code(2).err_has("is not an address of a page");
    serve(&[
        "--page",
        "0.0.0.0:0",
        "--page-cert",
        "none.pem",
        "--page-key",
        "none.pem",
        "--page-url",
        "https://x.example",
    ])
    .code(2)
    .err_has("cannot read none.pem");
}
