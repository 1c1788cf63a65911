//! Devices that upload more than there is room for, over the real port: the same file on many connections at once,
//! several devices together, an upload that never ends.

#[path = "../../../device-runner/tests/common/stages.rs"]
mod stages;

#[allow(dead_code, reason = "every test uses its part")]
mod caller;

use std::path::PathBuf;
use std::time::Duration;

use caller::{Caller, Port, answer, tls};
use headstart_disk::Disk;
use headstart_disk::simulated::SimulatedDisk;
use headstart_driver::hub::codes;
use headstart_driver::{RunHandle, RunOptions};
use headstart_dsl::{MemoryLoader, check};
use headstart_protocol::task::Outcome;
use headstart_protocol::wire::{Commit, Grant};
use headstart_protocol::{ArtifactRef, Digest, FileRef, Manifest, Type};
use headstart_server::{Channel, Limits};
use headstart_transport::signed::Kind;
use reqwest::Method;
use serde_json::{Value as Json, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const MIB: u64 = 1 << 20;
/// What uploads leave free.
const RESERVE: u64 = 1 << 30;

const PIPELINE: &str = "model base = local(\"model\")\n\
    dataset questions = jsonl(\"probes.jsonl\")\n\
    stage one: Responses = probe(base, prompts: questions) { on: device(\"phone\") }\n\
    stage two: Responses = probe(base, prompts: questions, max_tokens: 7) { on: device(\"tablet\") }\n\
    output one = one\noutput two = two\n";

/// An engine whose disk says what a test wants, and two devices that were granted a public task each.
struct World {
    port: Port,
    disk: SimulatedDisk,
    phone: (Caller, u64),
    tablet: (Caller, u64),
    _run: RunHandle,
}

impl World {
    async fn new() -> Self {
        let disk = SimulatedDisk::new();
        let port = Port::with(Channel::Tls, Limits::default(), disk.shared(), stages::all()).await;
        let pipeline = port.dir.path().join("pipeline");
        std::fs::create_dir_all(pipeline.join("model")).expect("folders");
        std::fs::write(pipeline.join("model/model.safetensors"), "weights").expect("writes");
        std::fs::write(pipeline.join("probes.jsonl"), "{\"prompt\":\"What is a tide?\"}\n").expect("writes");
        let checked = check("p.pllm", &MemoryLoader::new().with("p.pllm", PIPELINE), &Default::default());
        let run =
            port.engine.run(checked.plan.expect("sound"), RunOptions::new("test", pipeline)).expect("runs");
        let mut joined = Vec::new();
        for (secret, name) in [(1, "phone"), (2, "tablet")] {
            let mut device = port.caller(secret);
            assert_eq!(device.join(name, Some(&port.invite(name))).await.status, 200);
            let granted = device.post("/v1/claim", &json!({ "wait_ms": 20_000 })).await;
            let grant: Grant = device.read(&granted, Kind::Grant);
            joined.push((device, grant.task.fence));
        }
        let tablet = joined.pop().expect("two");
        let phone = joined.pop().expect("two");
        Self { port, disk, phone, tablet, _run: run }
    }

    /// Files of uploads that lie in the workspace.
    fn uploads(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let mut folders = vec![self.port.workspace().join("scratch")];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
                match entry.path() {
                    at if at.is_dir() => folders.push(at),
                    at if at.ends_with("lock") => {}
                    at => found.push(at),
                }
            }
        }
        found
    }

    async fn until(&self, holds: impl Fn(&Self) -> bool) {
        let wait = async {
            while !holds(self) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), wait).await.expect("in time");
    }
}

/// A file of so many bytes, and a commit that brings it.
fn bringing(fence: u64, byte: u8, size: u64) -> (Vec<u8>, Digest, Json) {
    let content = vec![byte; usize::try_from(size).expect("small")];
    let digest = Digest::of(&content);
    let manifest = Manifest {
        ty: Type::Responses,
        files: [("rows.jsonl".to_owned(), FileRef { digest, size })].into(),
        value: json!({ "rows": 2 }),
        uses: Default::default(),
    };
    let output = ArtifactRef::public(&manifest);
    let manifests = [(output.id.to_string(), manifest)].into();
    let outcome = Outcome::Succeeded { output, released: Default::default(), usage: Default::default() };
    (content, digest, serde_json::to_value(Commit { fence, outcome, manifests }).expect("JSON"))
}

async fn put(device: &Caller, digest: &Digest, content: &[u8]) -> caller::Answer {
    answer(device.request(Method::PUT, &format!("/v1/blobs/{digest}"), content).body(content.to_vec())).await
}

/// Begins an upload by hand, of which a part is sent.
async fn begun(
    world: &World,
    secret: u8,
    device: &Caller,
    digest: &Digest,
    (content, part): (&[u8], usize),
) -> tokio_rustls::client::TlsStream<tokio::net::TcpStream> {
    let mut stream = tls(&world.port, secret).await;
    let head = format!(
        "PUT /v1/blobs/{digest} HTTP/1.1\r\nhost: {}\r\nheadstart-session: {}\r\ncontent-length: {}\r\n\r\n",
        world.port.address,
        device.session,
        content.len()
    );
    stream.write_all(head.as_bytes()).await.expect("sends");
    stream.write_all(&content[..part]).await.expect("sends");
    stream.flush().await.expect("sends");
    stream
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_is_uploaded_on_one_connection_at_a_time() {
    let world = World::new().await;
    let (phone, fence) = &world.phone;
    // What is refused is not read, and small enough for the answer to come through.
    let (content, digest, commit) = bringing(*fence, 1, 4 << 10);
    assert_eq!(phone.post("/v1/commit", &commit).await.code(), (409, codes::MISSING_BLOB));
    let first = begun(&world, 1, phone, &digest, (&content, 1 << 10)).await;
    world.until(|w| w.uploads().len() == 1).await;
    for _ in 0..8 {
        assert_eq!(put(phone, &digest, &content).await.code(), (429, codes::BUSY));
    }
    // Also not under another session of the device.
    let mut again = phone.clone();
    assert_eq!(again.join("phone", None).await.status, 200);
    assert_eq!(put(&again, &digest, &content).await.code(), (429, codes::BUSY));
    assert_eq!(world.uploads().len(), 1);
    // One that breaks off leaves nothing, and the next begins.
    drop(first);
    world.until(|w| w.uploads().is_empty()).await;
    assert_eq!(put(phone, &digest, &vec![9; content.len()]).await.code(), (422, codes::INVALID));
    assert_eq!(world.uploads(), Vec::<PathBuf>::new(), "what is not the file is removed");
    assert_eq!(put(phone, &digest, &content).await.status, 204);
    assert_eq!(put(phone, &digest, &content).await.code(), (422, codes::RESIDENCY), "it is here");
    assert_eq!(phone.post("/v1/commit", &commit).await.status, 200);
    assert_eq!(world.uploads(), Vec::<PathBuf>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn many_at_once_write_one_file() {
    let world = World::new().await;
    let (phone, fence) = &world.phone;
    let (content, digest, commit) = bringing(*fence, 1, 8 * MIB);
    // Room for one, and for no two.
    world.disk.set_free(RESERVE + 12 * MIB);
    assert_eq!(phone.post("/v1/commit", &commit).await.code(), (409, codes::MISSING_BLOB));
    let one = |device: Caller, content: Vec<u8>| async move {
        let path = format!("/v1/blobs/{digest}");
        // One that is refused is not read to its end.
        match device.request(Method::PUT, &path, &content).body(content).send().await {
            Ok(answer) => answer.status().as_u16(),
            Err(_) => 0,
        }
    };
    let all: Vec<_> = (0..12).map(|_| tokio::spawn(one(phone.clone(), content.clone()))).collect();
    let mut taken = 0;
    for upload in all {
        let status = upload.await.expect("ends");
        assert!([0, 204, 422, 429, 507].contains(&status), "{status}");
        taken += usize::from(status == 204);
    }
    assert_eq!(taken, 1);
    assert!(world.disk.free_space(world.port.workspace()).expect("says") >= RESERVE);
    assert!(world.disk.hit().is_empty(), "the disk was never full");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_device_was_promised_no_other_gets() {
    let world = World::new().await;
    let ((phone, one), (tablet, two)) = (&world.phone, &world.tablet);
    let (content, digest, commit) = bringing(*one, 1, 8 * MIB);
    let (other_content, other_digest, other_commit) = bringing(*two, 2, 8 * MIB);
    world.disk.set_free(RESERVE + 15 * MIB);
    assert_eq!(phone.post("/v1/commit", &commit).await.code(), (409, codes::MISSING_BLOB));
    assert_eq!(tablet.post("/v1/commit", &other_commit).await.code(), (507, codes::NO_ROOM));
    assert_eq!(put(tablet, &other_digest, b"").await.code(), (422, codes::RESIDENCY));
    let held = begun(&world, 1, phone, &digest, (&content, 4 << 20)).await;
    world.until(|w| w.uploads().len() == 1).await;
    assert_eq!(tablet.post("/v1/commit", &other_commit).await.code(), (507, codes::NO_ROOM));
    drop(held);
    world.until(|w| w.uploads().is_empty()).await;
    world.disk.set_free(RESERVE + 17 * MIB);
    assert_eq!(tablet.post("/v1/commit", &other_commit).await.code(), (409, codes::MISSING_BLOB));
    assert_eq!(put(phone, &digest, &content).await.status, 204);
    assert_eq!(put(tablet, &other_digest, &other_content).await.status, 204);
    assert_eq!(phone.post("/v1/commit", &commit).await.status, 200);
    assert_eq!(tablet.post("/v1/commit", &other_commit).await.status, 200);
}

/// Others fill the disk while an upload is written: it ends before the last gigabyte.
#[tokio::test(flavor = "multi_thread")]
async fn an_upload_stops_where_the_disk_is_filled_meanwhile() {
    let world = World::new().await;
    let (phone, fence) = &world.phone;
    let (content, digest, commit) = bringing(*fence, 1, 40 * MIB);
    world.disk.set_free(RESERVE + 64 * MIB);
    assert_eq!(phone.post("/v1/commit", &commit).await.code(), (409, codes::MISSING_BLOB));
    let mut stream = begun(&world, 1, phone, &digest, (&content, 1 << 20)).await;
    world.until(|w| w.uploads().len() == 1).await;
    world.disk.set_free(RESERVE - 1);
    // It may not take the rest.
    let _ = stream.write_all(&content[1 << 20..]).await;
    let mut told = vec![0; 200];
    let n = stream.read(&mut told).await.unwrap_or(0);
    let told = String::from_utf8_lossy(&told[..n]).into_owned();
    assert!(told.is_empty() || told.starts_with("HTTP/1.1 507"), "{told}");
    world.until(|w| w.uploads().is_empty()).await;
    assert_eq!(phone.post("/v1/commit", &commit).await.code(), (507, codes::NO_ROOM));
    world.disk.repair();
    assert_eq!(phone.post("/v1/commit", &commit).await.code(), (409, codes::MISSING_BLOB));
    assert_eq!(put(phone, &digest, &content).await.status, 204);
    assert_eq!(phone.post("/v1/commit", &commit).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_engine_left_is_removed_and_what_another_writes_is_not() {
    let world = World::new().await;
    let (phone, fence) = &world.phone;
    let scratch = world.port.workspace().join("scratch");
    for left in ["uploads-killed", "uploads-live"] {
        std::fs::create_dir_all(scratch.join(left).join("of-phone")).expect("folders");
        std::fs::write(scratch.join(left).join("lock"), "").expect("writes");
        std::fs::write(scratch.join(left).join("upload-x"), "half").expect("writes");
    }
    let live = std::fs::File::open(scratch.join("uploads-live/lock")).expect("opens");
    live.lock().expect("nobody holds it");
    let (content, digest, commit) = bringing(*fence, 1, MIB);
    assert_eq!(phone.post("/v1/commit", &commit).await.code(), (409, codes::MISSING_BLOB));
    assert_eq!(put(phone, &digest, &content).await.status, 204);
    assert!(!scratch.join("uploads-killed").exists());
    assert!(scratch.join("uploads-live/upload-x").exists());
}
