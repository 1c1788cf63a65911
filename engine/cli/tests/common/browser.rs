//! A headless Chromium, driven over two pipes by its DevTools protocol.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// A browser that hangs ends its test after this long.
const PATIENCE: Duration = Duration::from_secs(60);

/// A browser with one tab, ended when it is dropped.
pub struct Browser {
    child: Child,
    write: File,
    messages: Receiver<Value>,
    session: String,
    next: u64,
    /// Addresses that were asked for, and what went wrong on the page.
    pub asked: Vec<String>,
    pub wrong: Vec<String>,
    later: VecDeque<Value>,
    _dir: tempfile::TempDir,
}

fn chromium() -> PathBuf {
    if let Some(named) = std::env::var_os("HEADSTART_CHROMIUM") {
        return named.into();
    }
    let folders = std::env::var_os("PATH").unwrap_or_default();
    let names = ["chromium", "chromium-browser", "google-chrome"];
    let found = std::env::split_paths(&folders).flat_map(|f| names.map(|n| f.join(n))).find(|p| p.is_file());
    found.expect(
        "these tests need Chromium: `apt-get install chromium`, or set HEADSTART_CHROMIUM to its path",
    )
}

impl Browser {
    pub fn start() -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let (read, write) = (dir.path().join("out"), dir.path().join("in"));
        let made = Command::new("mkfifo").args([&read, &write]).status().expect("mkfifo starts");
        assert!(made.success(), "pipes are made");
        // The shell opens the two file descriptors that the browser expects.
        let child = Command::new("sh")
            .args(["-c", "exec \"$0\" \"$@\" 3<\"$IN\" 4>\"$OUT\""])
            .arg(chromium())
            .args([
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-dev-shm-usage",
                "--no-first-run",
            ])
            .args([
                "--remote-debugging-pipe",
                "--disable-background-networking",
                "--disable-component-update",
            ])
            .arg(format!("--user-data-dir={}", dir.path().join("profile").display()))
            .env("IN", &write)
            .env("OUT", &read)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the browser starts");
        let write = File::options().write(true).open(&write).expect("the browser reads");
        let lines = BufReader::new(File::open(&read).expect("the browser writes"));
        let (send, messages) = channel();
        std::thread::spawn(move || {
            for message in lines.split(0).map_while(Result::ok) {
                let Ok(message) = serde_json::from_slice(&message) else { break };
                if send.send(message).is_err() {
                    break;
                }
            }
        });
        let mut browser = Self {
            child,
            write,
            messages,
            session: String::new(),
            next: 0,
            asked: Vec::new(),
            wrong: Vec::new(),
            later: VecDeque::new(),
            _dir: dir,
        };
        let tab = browser.call("Target.createTarget", json!({ "url": "about:blank" }));
        let attach = json!({ "targetId": tab["targetId"], "flatten": true });
        let session = browser.call("Target.attachToTarget", attach);
        browser.session = session["sessionId"].as_str().expect("a session").to_owned();
        for domain in ["Page", "Runtime", "Network", "Log"] {
            browser.call(&format!("{domain}.enable"), json!({}));
        }
        browser
    }

    /// Asks the browser for something, and gives its answer.
    #[track_caller]
    pub fn call(&mut self, method: &str, params: Value) -> Value {
        self.next += 1;
        let mut message = json!({ "id": self.next, "method": method, "params": params });
        if !self.session.is_empty() {
            message["sessionId"] = json!(self.session);
        }
        let text = format!("{message}\0");
        self.write.write_all(text.as_bytes()).expect("the browser reads");
        loop {
            let answer = self.messages.recv_timeout(PATIENCE).expect("the browser answers");
            if answer["id"] == self.next {
                assert!(answer["error"].is_null(), "{method}: {}", answer["error"]);
                return answer["result"].clone();
            }
            self.note(answer);
        }
    }

    fn note(&mut self, event: Value) {
        let params = &event["params"];
        match event["method"].as_str().unwrap_or_default() {
            "Network.requestWillBeSent" => {
                self.asked.push(params["request"]["url"].as_str().unwrap_or_default().to_owned());
            }
            "Log.entryAdded" if params["entry"]["level"] == "error" => {
                self.wrong.push(params["entry"]["text"].as_str().unwrap_or_default().to_owned());
            }
            "Runtime.exceptionThrown" => self.wrong.push(params["exceptionDetails"].to_string()),
            _ => {}
        }
        self.later.push_back(event);
    }

    /// The value of an expression on the page.
    #[track_caller]
    pub fn value(&mut self, expression: &str) -> Value {
        let params = json!({ "expression": expression, "awaitPromise": true, "returnByValue": true });
        let result = self.call("Runtime.evaluate", params);
        assert!(result["exceptionDetails"].is_null(), "{expression}: {}", result["exceptionDetails"]);
        result["result"]["value"].clone()
    }

    /// Waits until an expression is true.
    #[track_caller]
    pub fn until(&mut self, expression: &str) {
        let begun = Instant::now();
        // A page that is being replaced has no context for a moment.
        let params = json!({ "expression": expression, "returnByValue": true });
        while self.call("Runtime.evaluate", params.clone())["result"]["value"] != true {
            if begun.elapsed() > PATIENCE {
                let page = self.value("document.body.innerText");
                panic!("{expression} does not become true:\n{}", page.as_str().unwrap_or_default());
            }
            std::thread::sleep(Duration::from_millis(30));
        }
    }

    /// Opens an address and waits for the page.
    #[track_caller]
    pub fn open(&mut self, url: &str) {
        self.value("window.left = true");
        let opened = self.call("Page.navigate", json!({ "url": url }));
        assert!(opened["errorText"].is_null(), "{url}: {opened}");
        self.until("window.left !== true && document.readyState === 'complete'");
    }

    /// Does something that leads to another page, and waits for that.
    #[track_caller]
    pub fn leads(&mut self, expression: &str) {
        self.value(&format!("window.left = true; {expression}; true"));
        self.until("window.left !== true && document.readyState === 'complete'");
    }

    /// Sets the size of the window, in CSS pixels, and whether the reader wants dark pages.
    pub fn window(&mut self, width: u32, height: u32, dark: bool) {
        let size = json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600 });
        self.call("Emulation.setDeviceMetricsOverride", size);
        let scheme = if dark { "dark" } else { "light" };
        let media = json!({ "features": [{ "name": "prefers-color-scheme", "value": scheme }] });
        self.call("Emulation.setEmulatedMedia", media);
    }

    /// Presses a key.
    pub fn press(&mut self, key: &str, code: u32) {
        for kind in ["keyDown", "keyUp"] {
            let text = if key == "Enter" { "\r" } else { "" };
            let event =
                json!({ "type": kind, "key": key, "code": key, "windowsVirtualKeyCode": code, "text": text });
            self.call("Input.dispatchKeyEvent", event);
        }
    }

    /// What axe-core finds wrong on the page: rule, and where.
    #[track_caller]
    pub fn barriers(&mut self, axe: &Path) -> Vec<String> {
        let script = std::fs::read_to_string(axe).expect("axe-core is there");
        self.value(&format!("{script}; true"));
        let found = self.value(
            "axe.run(document, { resultTypes: ['violations'] }).then(r => r.violations.map(v => v.id + ': ' + \
             v.nodes.slice(0, 3).map(n => n.target.join(' ') + ' ' + (n.any[0]?.message ?? '')).join(' | ')))",
        );
        found.as_array().expect("a list").iter().map(|v| v.as_str().unwrap_or_default().to_owned()).collect()
    }

    /// Writes a picture of the page: of the window, or of all of it.
    pub fn picture(&mut self, path: &Path, whole: bool) {
        let params = json!({ "format": "png", "captureBeyondViewport": whole });
        let data = self.call("Page.captureScreenshot", params);
        let data =
            data_encoding::BASE64.decode(data["data"].as_str().expect("text").as_bytes()).expect("base64");
        std::fs::write(path, data).expect("writable");
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
