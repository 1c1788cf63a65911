//! A scripted editor, and a project of a few files.

#![allow(dead_code, reason = "each test file uses a part of it")]

use std::thread::{self, JoinHandle};
use std::time::Duration;

use headstart_dsl::MemoryLoader;
use headstart_lsp::LspError;
use lsp_server::{Connection, Message, Notification, Request};
use serde_json::{Value, json};

pub const ITEMS: &str = r#"model base = local("models/tiny")
space style = pooled(base)
dataset questions = jsonl("q.jsonl")
/// What the owner wrote.
private dataset mine = jsonl("me.jsonl") on device("phone")
import "./lib/x.pllm" as lib
stage pllm: Pllm = ingest(base: base, source: a) for a in glob("catalog/*")
stage me: Divergence = embed(mine, against: base, space: style) { on: device("phone") }
"#;

pub struct Editor {
    connection: Option<Connection>,
    server: Option<JoinHandle<Result<(), LspError>>>,
    next: i32,
    /// Diagnostics as they came: address and findings.
    findings: Vec<(String, Value)>,
}

pub const MAIN: &str = "file:///project/main.pllm";

impl Editor {
    pub fn new(files: MemoryLoader) -> Self {
        let (client, server) = Connection::memory();
        let server = thread::spawn(move || headstart_lsp::run(&server, &files));
        let mut e = Self { connection: Some(client), server: Some(server), next: 0, findings: Vec::new() };
        let snippets =
            json!({ "textDocument": { "completion": { "completionItem": { "snippetSupport": true } } } });
        let told = e.ask("initialize", json!({ "capabilities": snippets })).expect("it starts");
        assert_eq!(told["serverInfo"]["name"], "headstart");
        e.tell("initialized", json!({}));
        e
    }

    /// An editor with one file open, its text with `|` where the cursor is.
    pub fn with(text: &str) -> (Self, Value) {
        let mut e = Self::new(files());
        let place = e.open(text);
        (e, place)
    }

    pub fn open(&mut self, text: &str) -> Value {
        let (text, place) = cursor(text);
        let d = json!({ "uri": MAIN, "languageId": "pllm", "version": 1, "text": text });
        self.tell("textDocument/didOpen", json!({ "textDocument": d }));
        place
    }

    pub fn send(&self, m: impl Into<Message>) {
        self.connection.as_ref().expect("connected").sender.send(m.into()).expect("the server listens");
    }

    pub fn tell(&self, method: &str, params: Value) {
        self.send(Notification { method: method.to_owned(), params });
    }

    pub fn ask(&mut self, method: &str, params: Value) -> Result<Value, String> {
        self.next += 1;
        self.send(Request { id: self.next.into(), method: method.to_owned(), params });
        loop {
            match self.receive() {
                Message::Response(r) if r.id == self.next.into() => {
                    return r.response_result.map_err(|e| e.message);
                }
                other => self.note(other),
            }
        }
    }

    pub fn receive(&self) -> Message {
        let receiver = &self.connection.as_ref().expect("connected").receiver;
        receiver.recv_timeout(Duration::from_secs(20)).expect("the server speaks")
    }

    pub fn note(&mut self, m: Message) {
        if let Message::Notification(n) = m {
            assert_eq!(n.method, "textDocument/publishDiagnostics");
            let uri = n.params["uri"].as_str().expect("an address").to_owned();
            self.findings.push((uri, n.params["diagnostics"].clone()));
        }
    }

    /// The next findings of the file.
    pub fn found(&mut self) -> Value {
        while self.findings.is_empty() {
            let m = self.receive();
            self.note(m);
        }
        self.findings.remove(0).1
    }

    pub fn change(&self, version: i32, changes: Value) {
        let d = json!({ "uri": MAIN, "version": version });
        self.tell("textDocument/didChange", json!({ "textDocument": d, "contentChanges": changes }));
    }
}

impl Drop for Editor {
    fn drop(&mut self) {
        if thread::panicking() {
            return;
        }
        assert_eq!(self.ask("shutdown", Value::Null), Ok(Value::Null));
        self.tell("exit", Value::Null);
        let server = self.server.take().expect("one end");
        server.join().expect("no panic").expect("it ends well");
    }
}

pub fn files() -> MemoryLoader {
    MemoryLoader::new()
        .with("/project/catalog/formal/a", "")
        .with("/project/catalog/concise/a", "")
        .with("/project/lib/x.pllm", "/// The rows.\nparam file: Path = \"x\"\n\n/// All rows.\ndataset rows = jsonl(file)\noutput all = rows\n")
}

/// The text without its `|`, and the request's place of it.
pub fn cursor(text: &str) -> (String, Value) {
    let at = text.find('|').unwrap_or(0);
    let before = &text[..at];
    let line = before.matches('\n').count();
    let column = before.rsplit('\n').next().unwrap_or_default().encode_utf16().count();
    let place = json!({ "textDocument": { "uri": MAIN }, "position": { "line": line, "character": column } });
    (text.replacen('|', "", 1), place)
}

pub fn labels(items: &Value) -> Vec<String> {
    let mut all: Vec<&Value> = items.as_array().expect("a list").iter().collect();
    let key = |i: &Value| i["sortText"].as_str().or(i["label"].as_str()).unwrap_or_default().to_owned();
    all.sort_by_key(|i| key(i));
    all.iter().map(|i| i["label"].as_str().expect("a label").to_owned()).collect()
}
