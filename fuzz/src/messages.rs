//! Messages between engine and device, invitations, and expressions of schedules.

use headstart_protocol::declared::Declaration;
use headstart_protocol::task::{Outcome, Task};
use headstart_protocol::wire::{
    Claim, Commit, CommitAnswer, Facts, Grant, Hello, Join, Joined, Renew, Renewal, Signed, Welcome,
    WireError,
};
use headstart_protocol::{Failure, Manifest, Progress};
use headstart_transport::signed::{Kind, Stamp, open, sign};
use headstart_transport::{Identity, Invitation};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// What is read is written and read as the same.
fn same<T: Serialize + DeserializeOwned>(data: &[u8]) {
    let Ok(message) = serde_json::from_slice::<T>(data) else { return };
    let text = serde_json::to_string(&message).expect("what was read can be written");
    let again: T = serde_json::from_str(&text).expect("what was written can be read");
    assert_eq!(serde_json::to_string(&again).expect("again"), text);
}

/// Any message of the protocol, chosen by the first byte; a manifest keeps its identity.
pub fn messages(data: &[u8]) {
    let Some((kind, data)) = data.split_first() else { return };
    match kind % 16 {
        0 => {
            same::<Manifest>(data);
            if let Ok(manifest) = serde_json::from_slice::<Manifest>(data) {
                let text = serde_json::to_string(&manifest).expect("JSON");
                let again: Manifest = serde_json::from_str(&text).expect("a manifest");
                assert_eq!(again.id(), manifest.id());
                let _ = manifest.size();
            }
        }
        1 => same::<Join>(data),
        2 => same::<Joined>(data),
        3 => same::<Grant>(data),
        4 => same::<Commit>(data),
        5 => same::<CommitAnswer>(data),
        6 => same::<Renew>(data),
        7 => same::<Renewal>(data),
        8 => same::<Welcome>(data),
        9 => same::<WireError>(data),
        10 => same::<Claim>(data),
        11 => same::<Task>(data),
        12 => same::<Outcome>(data),
        13 => same::<Failure>(data),
        14 => same::<Progress>(data),
        _ => {
            same::<Hello>(data);
            same::<Facts>(data);
            same::<Signed>(data);
            if let Ok(declaration) = serde_json::from_slice::<Declaration>(data) {
                let _ = declaration.check();
            }
        }
    }
}

/// A signed envelope and an invitation: nothing that was not signed is opened, and an invitation that is
/// read is written as it was.
pub fn signed(data: &[u8]) {
    let (engine, device) = (Identity::from_secret(&[1; 32]), Identity::from_secret(&[2; 32]).public());
    if let Ok(message) = serde_json::from_slice::<Signed>(data) {
        for kind in [Kind::Welcome, Kind::Joined, Kind::Grant, Kind::Renewal, Kind::Commit] {
            let opened = open::<serde_json::Value>(&message, kind, &engine.public(), &device);
            let stamp =
                Stamp { fence: message.fence, issued_ms: message.issued_ms, expires_ms: message.expires_ms };
            if let Ok((body, found)) = opened {
                assert_eq!(found, stamp);
                let own = sign(&engine, &device, kind, stamp, &body).expect("JSON");
                // Hexadecimal digits may be of either case.
                let signature = message.signature.to_lowercase();
                assert_eq!(own.signature, signature, "opened without the engine's signature");
            }
        }
    }
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(invitation) = text.parse::<Invitation>() {
        assert_eq!(invitation.to_string().parse::<Invitation>().as_ref(), Ok(&invitation));
    }
}

/// A cron expression and a time zone, on two lines: fires move forward in time.
pub fn cron(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let (expression, zone) = text.split_once('\n').unwrap_or((text, "Europe/London"));
    let dst = match zone.len() % 3 {
        0 => headstart_cron::Dst::Vixie,
        1 => headstart_cron::Dst::Skip,
        _ => headstart_cron::Dst::Both,
    };
    let Ok(spec) = headstart_cron::Spec::parse(expression, zone, dst) else { return };
    let start: jiff::Timestamp = "2026-03-28T23:10:00Z".parse().expect("a time");
    let fires: Vec<_> = spec.fires(start).take(8).collect();
    assert!(fires.windows(2).all(|f| f[0].instant <= f[1].instant), "{fires:?}");
}
