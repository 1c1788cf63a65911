//! `headstart devices`, and a device that is paired with it: real processes, real keys.

mod common;

use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

use common::phone::{Running, free_port};
use common::{Place, Said, device_binary, root, said};

const PIPELINE: &str = r#"
model base = local("BASE")
private dataset mine = jsonl("me.jsonl") on device("phone")
stage before: Metrics = evaluate(base, data: mine, answers: 0) { on: device("phone") }
output before = release(before)
// Nobody answers to this name, so the engine stays.
private dataset theirs = jsonl("me.jsonl") on device("nobody")
stage never: Metrics = evaluate(base, data: theirs, answers: 0) { on: device("nobody") }
output never = release(never)
"#;

fn device(place: &Place, state: &str, args: &[&str]) -> Said {
    let mut command = Command::new(device_binary());
    command.arg("--state").arg(place.path(state)).args(args).env("NO_COLOR", "1");
    said(command.output().expect("headstart-device starts"))
}

/// A workspace, and an engine that waits for a phone in it.
fn waiting(place: &Place, port: u16) -> Running {
    // Built before the engine begins to wait.
    device_binary();
    let base = root().join("examples/models/tiny").display().to_string();
    place.write("p.pllm", &PIPELINE.replace("BASE", &base));
    std::fs::create_dir_all(place.path("data")).expect("writable");
    let file = place.path("p.pllm").display().to_string();
    let run = ["run", &file, "--listen", &format!("127.0.0.1:{port}"), "--device-wait", "60"];
    let run = place.command(&run).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    let mut run = Running(run.expect("headstart starts"));
    while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
        assert!(run.0.try_wait().expect("waits").is_none(), "the engine ended before it listened");
        std::thread::yield_now();
    }
    run
}

fn invitation(place: &Place, args: &[&str]) -> String {
    let said = place.headstart(&[&["devices", "invite"], args].concat()).code(0);
    said.out.trim().to_owned()
}

#[test]
fn an_invitation_is_one_line_and_a_picture() {
    let place = Place::new();
    let svg = place.path("invite.svg").display().to_string();
    let said = place.headstart(&["devices", "invite", "phone", "--expires", "10m", "--qr", &svg]).code(0);
    assert!(said.out.starts_with("headstart-invite:") && said.out.lines().count() == 1, "{}", said.out);
    assert!(said.err.contains("headstart-device join INVITATION"), "{}", said.err);
    assert!(std::fs::read_to_string(svg).expect("written").contains("<svg"));
    place.headstart(&["devices", "list"]).code(0).out_has("phone  invited").out_has("invitation expires");
    let json = place.headstart(&["devices", "list", "--format", "json"]).code(0);
    let json: serde_json::Value = serde_json::from_str(&json.out).expect("JSON");
    assert_eq!((&json[0]["name"], &json[0]["state"]), (&"phone".into(), &"invited".into()));
    let key = place.headstart(&["devices", "key"]).code(0);
    assert_eq!(key.out.trim().len(), 64);
    for (args, why) in [
        (vec!["invite", "../x"], "is not a device's name"),
        (vec!["invite", "x", "--url", "10.0.0.5"], "is not an address"),
        (vec!["invite", "x", "--expires", "soon"], "is not a time"),
        (vec!["approve", "nobody"], "no device `nobody` waits"),
        (vec!["revoke", "nobody"], "cannot find a device"),
        (vec!["rename", "nobody", "x"], "cannot find a device"),
        (vec!["label", "nobody", "x"], "cannot find a device"),
    ] {
        place.headstart(&[&["devices"], &args[..]].concat()).code(2).err_has(why);
    }
    place.headstart(&["devices", "revoke", "phone"]).code(0);
    assert_eq!(place.headstart(&["devices", "list", "--format", "json"]).code(0).out.trim(), "[]");
}

/// Everything that a workspace keeps is its owner's alone; one that was open is closed, and says so.
#[test]
fn a_workspace_is_its_owners() {
    let place = Place::new();
    invitation(&place, &["phone"]);
    let mode = |name: &str| {
        let meta = std::fs::metadata(place.path("ws").join(name)).unwrap_or_else(|e| panic!("{name}: {e}"));
        meta.permissions().mode() & 0o777
    };
    assert_eq!(
        (mode(""), mode("keys"), mode("keys/engine-signing"), mode("devices.json")),
        (0o700, 0o700, 0o600, 0o600)
    );
    let quiet = place.headstart(&["devices", "list"]).code(0);
    assert!(quiet.err.is_empty(), "{}", quiet.err);
    let open = |name: &str, bits| {
        let bits = std::fs::Permissions::from_mode(bits);
        std::fs::set_permissions(place.path("ws").join(name), bits).expect("ours");
    };
    open("", 0o755);
    open("keys/engine-signing", 0o644);
    place.headstart(&["devices", "list"]).code(0).err_has("other users could read it");
    assert_eq!((mode(""), mode("keys/engine-signing")), (0o700, 0o600));
}

#[test]
fn a_device_is_approved_while_an_engine_waits_for_it() {
    let (place, port) = (Place::new(), free_port());
    let _engine = waiting(&place, port);
    let url = format!("https://127.0.0.1:{port}");
    let key = loop {
        let said = place.headstart(&["--quiet", "devices", "key"]);
        if said.code == 0 {
            break said.out.trim().to_owned();
        }
    };
    let data = place.path("data").display().to_string();
    // Nobody has approved it: it says what to run, and with which key it asks.
    let ask =
        ["join", &url, "--name", "phone", "--engine-key", &key, "--data", &data, "--exit-when-idle", "2"];
    let asked = device(&place, "phone", &ask).code(1).err_has("headstart devices approve ");
    let listed = place.headstart(&["devices", "list", "--format", "json"]).code(0);
    let listed: serde_json::Value = serde_json::from_str(&listed.out).expect("JSON");
    assert_eq!((&listed[0]["state"], &listed[0]["name"]), (&"pending".into(), &"phone".into()));
    let fingerprint = listed[0]["fingerprint"].as_str().expect("a fingerprint");
    assert!(asked.err.contains(fingerprint), "{}", asked.err);

    place.headstart(&["devices", "approve", fingerprint]).code(0).err_has("approved phone");
    // From now on it is paired, and joins without being told where.
    let idle = ["join", "--data", &data, "--exit-when-idle", "1"];
    device(&place, "phone", &idle).err_has("joined https://127.0.0.1");
    // Another device, which wants the same name, is not it.
    let thief = [&ask[..9], &["2"]].concat();
    device(&place, "thief", &thief).code(1).err_has("waits for its owner to approve it");
    place.headstart(&["devices", "list"]).code(0).out_has("phone  pending").out_has("phone  approved");
    place.headstart(&["devices", "approve", "phone"]).code(2).err_has("`phone` is the device with the key");
    place.headstart(&["devices", "label", "phone", "Ann's"]).code(0);
    place.headstart(&["devices", "list"]).code(0).out_has("Ann's");

    place.headstart(&["devices", "rename", "phone", "tablet"]).code(0);
    device(&place, "phone", &idle).code(2).err_has("the engine knows this device as `tablet`");
    device(&place, "phone", &idle).err_has("as \"tablet\"");
    place.headstart(&["devices", "revoke", "tablet"]).code(0);
    device(&place, "phone", &idle).code(2).err_has("has revoked device `tablet`");
}

#[test]
fn an_invitation_is_used_once_while_an_engine_is_live() {
    let (place, port) = (Place::new(), free_port());
    let _engine = waiting(&place, port);
    let data = place.path("data").display().to_string();
    let url = format!("https://127.0.0.1:{port}");
    let invitation = invitation(&place, &["phone", "--url", &url]);
    let join = ["join", &invitation, "--data", &data, "--exit-when-idle", "1"];
    device(&place, "phone", &join).err_has("joined https://127.0.0.1");
    device(&place, "other", &join).code(2).err_has("the invitation was used before");
    let cut = ["join", &invitation[..invitation.len() - 3], "--data", &data];
    device(&place, "other", &cut).code(2).err_has("incomplete or mistyped");
    // Nothing but TLS is spoken, on this machine too.
    let plain = url.replace("https", "http");
    let key = place.headstart(&["--quiet", "devices", "key"]).code(0).out.trim().to_owned();
    let plain =
        ["join", &plain, "--name", "x", "--engine-key", &key, "--data", &data, "--exit-when-idle", "1"];
    device(&place, "other", &plain).code(2).err_has("is not protected by TLS");
    let insisting = [&plain[..], &["--insecure-plaintext"]].concat();
    device(&place, "other", &insisting).code(2).err_has("this engine speaks TLS only");
}

/// The whole way: the device refuses, its owner reads what waits and approves it by digest, and the run goes on.
#[test]
fn the_owner_approves_what_the_engine_wants_to_run() {
    let (place, port) = (Place::new(), free_port());
    let _engine = waiting(&place, port);
    std::fs::write(place.path("data/me.jsonl"), "{\"prompt\":\"a\",\"response\":\"b\"}\n").expect("writable");
    let data = place.path("data").display().to_string();
    let invitation = invitation(&place, &["phone", "--url", &format!("https://127.0.0.1:{port}")]);
    let join = ["join", &invitation, "--data", &data, "--exit-when-idle", "2"];
    device(&place, "phone", &join).code(1).err_has("has not approved what the task needs");

    let shown = device(&place, "phone", &["contract"]).code(0);
    let shown =
        shown.out_has("Nothing is approved").out_has("stages: evaluate").out_has("treats all content alike");
    let json = device(&place, "phone", &["contract", "--json"]).code(0);
    let json: serde_json::Value = serde_json::from_str(&json.out).expect("JSON");
    let waiting = json["pending"].as_array().expect("a list");
    assert_eq!(waiting.len(), 1, "one approval covers the run: {json:#}");
    let digest = waiting[0]["digest"].as_str().expect("a digest");
    assert!(shown.out.contains(&format!("to approve: headstart-device approve {digest}")), "{}", shown.out);

    let asked = device(&place, "phone", &["approve"]).code(2).err_has("nothing was approved");
    assert!(asked.out.contains(digest), "{}", asked.out);
    device(&place, "phone", &["approve", &"0".repeat(64)]).code(2).err_has("no proposal");
    device(&place, "phone", &["approve", digest, "--conditional", &"0".repeat(64)]).code(2);
    device(&place, "phone", &["approve", digest]).code(0).err_has("approved");
    device(&place, "phone", &["approve"]).code(0).err_has("nothing waits");
    let again = ["join", "--data", &data, "--exit-when-idle", "2"];
    device(&place, "phone", &again).code(0).err_has("before: delivered");
    device(&place, "phone", &["contract"]).code(0).out_has("Approved");
    device(&place, "phone", &["contract", "--reset"]).code(0);
    device(&place, "phone", &["contract"]).code(0).out_has("Nothing is approved");
}
