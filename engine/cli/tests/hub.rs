//! `hf(…)` against a hub on this machine: downloads before the run, a commit in the key, and nothing offline.

mod common;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use common::served::Served;
use common::{Place, Said, root};
use serde_json::{Value as Json, json};
use sha1::{Digest as _, Sha1};
use sha2::Sha256;

/// A hub that holds the model of the examples as `o/m`, at a commit that a test can move.
#[derive(Clone)]
struct ModelHub {
    url: String,
    commit: Arc<Mutex<String>>,
    asked: Arc<Mutex<Vec<String>>>,
}

impl ModelHub {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("binds");
        let url = format!("http://{}", listener.local_addr().expect("bound"));
        let hub = Self { url, commit: Arc::new(Mutex::new("a".repeat(40))), asked: Arc::default() };
        let serves = hub.clone();
        let folder = root().join("examples/models/tiny");
        let files: BTreeMap<String, Vec<u8>> = std::fs::read_dir(folder)
            .expect("the example's model")
            .flatten()
            .map(|e| (e.file_name().to_string_lossy().into_owned(), std::fs::read(e.path()).expect("reads")))
            .collect();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (hub, files) = (serves.clone(), files.clone());
                std::thread::spawn(move || hub.answer(stream, &files));
            }
        });
        hub
    }

    fn listing(&self, files: &BTreeMap<String, Vec<u8>>) -> Json {
        let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
        let sibling = |(name, content): (&String, &Vec<u8>)| {
            let git = Sha1::new().chain_update(format!("blob {}\0", content.len())).chain_update(content);
            let mut file =
                json!({ "rfilename": name, "size": content.len(), "blobId": hex(&git.finalize()) });
            if name.ends_with("safetensors") {
                file["lfs"] = json!({ "sha256": hex(&Sha256::digest(content)), "size": content.len() });
            }
            file
        };
        let siblings: Vec<Json> = files.iter().map(sibling).collect();
        json!({ "id": "o/m", "sha": *self.commit.lock().expect("ok"), "siblings": siblings })
    }

    fn answer(&self, stream: TcpStream, files: &BTreeMap<String, Vec<u8>>) {
        let mut lines = BufReader::new(stream.try_clone().expect("a socket")).lines().map_while(Result::ok);
        let Some(first) = lines.next() else { return };
        // The rest of the head.
        lines.by_ref().take_while(|line| !line.is_empty()).for_each(drop);
        let path = first.split(' ').nth(1).unwrap_or_default().to_owned();
        self.asked.lock().expect("ok").push(path.clone());
        let body = match path.rsplit_once("/resolve/").and_then(|(_, rest)| rest.split_once('/')) {
            Some((_, name)) => files[name].clone(),
            None => serde_json::to_vec(&self.listing(files)).expect("JSON"),
        };
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
        // A caller that has gone needs no answer.
        let _ = (&stream).write_all(head.as_bytes()).and_then(|()| (&stream).write_all(&body));
    }

    fn downloads(&self) -> usize {
        self.asked.lock().expect("ok").iter().filter(|path| path.contains("/resolve/")).count()
    }
}

fn command(place: &Place, hub: &str, offline: bool, args: &[&str]) -> Said {
    let mut command = place.command(args);
    command.env("HF_ENDPOINT", hub).env("HF_HOME", place.path("hf")).env_remove("HF_HUB_CACHE");
    command.env_remove("HF_TOKEN").env("HF_HUB_OFFLINE", if offline { "1" } else { "0" });
    common::said(command.output().expect("starts"))
}

#[test]
fn a_model_of_the_hub_is_downloaded_before_the_run_and_is_known_by_its_commit() {
    let (place, hub) = (Place::new(), ModelHub::start());
    let file = place.write("p.pllm", "model base = hf(\"o/m\")\noutput base = base\n");
    let file = file.to_string_lossy().into_owned();
    let run = |offline| command(&place, &hub.url, offline, &["run", &file]);
    command(&place, &hub.url, false, &["plan", &file]).code(0).out_has("1 will run");
    assert_eq!(hub.downloads(), 0, "a plan downloads nothing");

    run(false).code(0).err_has("base: downloading o/m").err_has("1 succeeded, 0 cached");
    let downloads = hub.downloads();
    assert!(downloads >= 3, "{downloads}");
    run(false).code(0).err_has("0 succeeded, 1 cached");
    // Offline the branch is what it was.
    run(true).code(0).err_has("0 succeeded, 1 cached");
    assert_eq!(hub.downloads(), downloads);

    // The branch moves on: another commit is another model, whose files the cache has.
    *hub.commit.lock().expect("ok") = "b".repeat(40);
    run(false).code(0).err_has("1 succeeded, 0 cached");
    assert_eq!(hub.downloads(), downloads, "the same contents are not downloaded again");
}

#[test]
fn without_the_hub_it_is_said_what_to_do() {
    let place = Place::new();
    let write = |text: &str| place.write("p.pllm", text).to_string_lossy().into_owned();
    let file = write("model base = hf(\"o/m\")\noutput base = base\n");
    let nobody = "http://127.0.0.1:1";
    command(&place, nobody, false, &["run", &file])
        .code(1)
        .err_has("the hub (http://127.0.0.1:1)")
        .err_has("refused");
    let offline = command(&place, nobody, true, &["run", &file]).code(2);
    offline.err_has("nothing is downloaded offline").err_has("hf download o/m --revision main");
    command(&place, "http://mirror.example", false, &["run", &file])
        .code(2)
        .err_has("HF_ENDPOINT")
        .err_has("not https");
    let file = write("model base = hf(\"../etc\")\noutput base = base\n");
    command(&place, nobody, false, &["run", &file])
        .code(2)
        .err_has("no model of the hub: expected owner/name");
    assert!(!place.path("hf/hub").exists(), "nothing was written");
}

/// Each fire asks the hub again, while other schedules go on.
#[test]
fn a_server_takes_what_the_branch_is_at_each_fire() {
    let (place, hub) = (Place::new(), ModelHub::start());
    let text = "model base = hf(\"o/m\")\noutput base = base\nschedule s { cron: \"0 0 1 1 *\", timezone: \"UTC\" }\n";
    let file = place.write("p.pllm", text).to_string_lossy().into_owned();
    let home = place.path("hf").to_string_lossy().into_owned();
    let variables = [("HF_ENDPOINT", hub.url.as_str()), ("HF_HOME", home.as_str()), ("HF_HUB_OFFLINE", "0")];
    let served = Served::start_with(&place, &[&file], &variables);
    served.says("s: next at");
    for (round, commit) in ["a", "b"].iter().enumerate() {
        *hub.commit.lock().expect("ok") = commit.repeat(40);
        place.headstart(&["schedules", "run", "s"]).code(0);
        let said = served.says_times(" succeeded", round + 1);
        assert!(!said.contains("cached"), "another commit is another model: {said}");
    }
}
