//! Which devices may join: invitations, approval, revocation, names.

mod common;

use std::time::Duration;

use common::phone::{Phone, begin, challenge, invite, join, phone, plain_join, proven, single};
use common::{Bench, options, until};
use headstart_driver::Hub;
use headstart_driver::devices::{DeviceState, DevicesError, engine_identity};
use headstart_driver::hub::codes;
use headstart_driver::{Devices, WaitReason};
use headstart_env::Env;
use headstart_protocol::wire::{Hello, Invited, Join};
use headstart_protocol::{Digest, PROTOCOL_VERSION};
use headstart_transport::signed::{self, Kind, Stamp};
use headstart_transport::{Identity, Invitation};

const HOUR: Duration = Duration::from_secs(3600);

fn stranger(n: u8) -> Identity {
    Identity::from_secret(&[n; 32])
}

/// Joins with an invitation; the code of the refusal, or nothing.
fn joined(hub: &Hub, who: &Identity, what: Join, invitation: Option<&Invitation>) -> String {
    join(hub, who, &proven(hub, who, what, invitation)).map_or_else(|e| e.code, |_| String::new())
}

/// The list as another process sees it.
fn listed(bench: &Bench) -> Vec<(String, DeviceState)> {
    let devices = Devices::open(bench.engine.workspace(), bench.engine.env().clone()).expect("opens");
    devices.list().expect("readable").into_iter().map(|d| (d.name, d.state)).collect()
}

fn registry_files(bench: &Bench) -> Vec<(String, Option<Vec<u8>>)> {
    ["devices.json", "devices.pending.json"]
        .map(|name| (name.to_owned(), std::fs::read(bench.engine.workspace().dir().join(name)).ok()))
        .into()
}

#[tokio::test]
async fn an_invitation_pairs_one_device_once() {
    let (bench, _) = Bench::simulated(options());
    let hub = bench.engine.hub();
    let invitation = invite(hub, "phone");
    assert_eq!(listed(&bench), [("phone".to_owned(), DeviceState::Invited)]);
    let text = std::fs::read(bench.engine.workspace().dir().join("devices.json")).expect("written");
    let token = Digest::of(&invitation.token).to_string();
    let hex: String = invitation.token.iter().map(|b| format!("{b:02x}")).collect();
    let text = String::from_utf8_lossy(&text);
    assert!(!text.contains(&hex) && !text.contains(&token), "the token is not kept");

    assert_eq!(joined(hub, &phone(), plain_join(), Some(&invitation)), "");
    assert_eq!(listed(&bench), [("phone".to_owned(), DeviceState::Approved)]);
    // The paired device does not need it again, and nobody else can use it.
    assert_eq!(joined(hub, &phone(), plain_join(), Some(&invitation)), "");
    assert_eq!(joined(hub, &stranger(9), plain_join(), Some(&invitation)), codes::INVITATION);
    assert_eq!(listed(&bench), [("phone".to_owned(), DeviceState::Approved)]);
}

#[tokio::test]
async fn an_invitation_used_by_two_at_once_pairs_one() {
    let bench = Bench::new();
    let hub = bench.engine.hub();
    let invitation = invite(hub, "phone");
    let race: Vec<String> = std::thread::scope(|scope| {
        let run = |n| {
            let invitation = invitation.clone();
            scope.spawn(move || joined(hub, &stranger(n), plain_join(), Some(&invitation)))
        };
        let runs: Vec<_> = (1..=8).map(run).collect();
        runs.into_iter().map(|t| t.join().expect("no panic")).collect()
    });
    assert_eq!(race.iter().filter(|code| code.is_empty()).count(), 1, "{race:?}");
    assert!(race.iter().all(|code| code.is_empty() || code == codes::INVITATION), "{race:?}");
}

#[tokio::test]
async fn expired_forged_and_borrowed_invitations_pair_nobody() {
    let (bench, clock) = Bench::simulated(options());
    let hub = bench.engine.hub();
    let invitation = invite(hub, "phone");
    let other = Join { device: "tablet".into(), ..plain_join() };
    assert_eq!(joined(hub, &phone(), other, Some(&invitation)), codes::INVITATION, "of another name");
    let forged = Invitation { token: [1; 16], ..invitation.clone() };
    assert_eq!(joined(hub, &phone(), plain_join(), Some(&forged)), codes::INVITATION);

    // What a rogue engine was shown is of no use at the real one: it names other keys.
    let rogue = Identity::from_secret(&[66; 32]).public();
    let (key, challenge) = (phone().public(), challenge(hub, &phone()));
    let claim = headstart_transport::proof::JoinClaim {
        engine: &rogue,
        device: &key,
        challenge: &challenge,
        nonce: "n",
        name: "phone",
    };
    let token = invitation.token_key();
    let shown = Invited { key: token.public().to_string(), proof: claim.sign_invited(&token) };
    let mut relayed = proven(hub, &stranger(5), plain_join(), None);
    relayed.invitation = Some(shown);
    assert_eq!(join(hub, &stranger(5), &relayed).expect_err("refused").code, codes::INVITATION);

    clock.advance(HOUR);
    assert_eq!(joined(hub, &phone(), plain_join(), Some(&invitation)), codes::INVITATION, "expired");
    assert!(listed(&bench).is_empty());
    // The name is free for another one.
    assert_eq!(joined(hub, &phone(), plain_join(), Some(&invite(hub, "phone"))), "");
}

#[tokio::test]
async fn a_stranger_under_a_known_name_waits_and_gets_nothing_of_it() {
    let bench = Bench::new();
    let run = begin(&bench, single(&[]));
    let hub = bench.engine.hub();
    until(|| hub.device_waits(run.id()).iter().any(|w| w.why == WaitReason::Pairing)).await;
    let mut real = Phone::join(hub);
    assert_eq!(joined(hub, &stranger(9), plain_join(), None), codes::PENDING);
    let expected = [("phone".to_owned(), DeviceState::Pending), ("phone".to_owned(), DeviceState::Approved)];
    assert_eq!(listed(&bench), expected, "shown beside the one whose name it wants");
    // Nor can it use a session that it has seen.
    let stolen = hub.authenticate(&stranger(9).public(), &real.token).expect_err("refused");
    assert_eq!(stolen.code, codes::UNKNOWN_SESSION);
    let taken = hub.registry().approve(&stranger(9).public().fingerprint(), None).expect_err("taken");
    assert!(matches!(taken, DevicesError::Taken { .. }), "{taken}");
    let task = real.claim().await;
    assert_eq!(task.name, "tuned");

    hub.registry().approve(&stranger(9).public().fingerprint(), Some("other")).expect("under another name");
    assert_eq!(joined(hub, &stranger(9), plain_join(), None), "");
    assert_eq!(hub.devices().iter().map(|d| d.name.as_str()).collect::<Vec<_>>(), ["other", "phone"]);
    run.cancel();
}

#[tokio::test]
async fn a_key_that_is_stated_but_not_held_joins_nothing() {
    let bench = Bench::new();
    let hub = bench.engine.hub();
    let real = Phone::join(hub);
    let key = real.identity.public();
    // A thief states the phone's key and signs with its own.
    let mut forged = proven(hub, &stranger(9), plain_join(), None);
    forged.challenge = challenge(hub, &real.identity);
    assert_eq!(hub.join(&key, &forged).expect_err("refused").code, codes::UNPROVEN);
    // A join that was recorded is not an answer to another challenge.
    let mut replayed = proven(hub, &real.identity, plain_join(), None);
    replayed.challenge = challenge(hub, &real.identity).replace(['0', '1'], "2");
    assert_eq!(hub.join(&key, &replayed).expect_err("refused").code, codes::UNPROVEN);
    let nobodys = Join { challenge: String::new(), ..proven(hub, &real.identity, plain_join(), None) };
    assert_eq!(hub.join(&key, &nobodys).expect_err("refused").code, codes::UNPROVEN);
}

#[tokio::test]
async fn a_challenge_is_answered_at_once_or_not_at_all() {
    let (bench, clock) = Bench::simulated(options());
    let hub = bench.engine.hub();
    let real = Phone::join(hub);
    let slow = proven(hub, &real.identity, plain_join(), None);
    clock.advance(Duration::from_secs(61));
    assert_eq!(join(hub, &real.identity, &slow).expect_err("refused").code, codes::UNPROVEN);
    let long = Hello { protocol: PROTOCOL_VERSION, nonce: "n".repeat(1000) };
    assert_eq!(hub.hello(&real.identity.public(), &long).expect_err("refused").code, codes::INVALID);
}

#[tokio::test]
async fn sessions_are_few_and_end() {
    let (bench, clock) = Bench::simulated(options());
    let hub = bench.engine.hub();
    let first = Phone::join(hub);
    let key = first.identity.public();
    for _ in 0..8 {
        Phone::join(hub);
    }
    let oldest = hub.authenticate(&key, &first.token).expect_err("made room");
    assert_eq!(oldest.code, codes::UNKNOWN_SESSION);
    let last = Phone::join(hub);
    clock.advance(HOUR * 23);
    hub.authenticate(&key, &last.token).expect("used within a day");
    clock.advance(HOUR * 23);
    hub.authenticate(&key, &last.token).expect("used within a day again");
    clock.advance(HOUR * 25);
    assert_eq!(hub.authenticate(&key, &last.token).expect_err("ended").code, codes::UNKNOWN_SESSION);
}

#[tokio::test]
async fn joins_write_nothing_unless_something_changed() {
    let (bench, clock) = Bench::simulated(options());
    let hub = bench.engine.hub();
    let real = Phone::join(hub);
    assert_eq!(joined(hub, &stranger(9), plain_join(), None), codes::PENDING);
    clock.advance(Duration::from_secs(5));
    let before = registry_files(&bench);
    let inodes = || {
        use std::os::unix::fs::MetadataExt;
        let dir = bench.engine.workspace().dir();
        ["devices.json", "devices.pending.json"].map(|n| std::fs::metadata(dir.join(n)).expect("there").ino())
    };
    let files = || std::fs::read_dir(bench.engine.workspace().dir().join("fences")).expect("there").count();
    let (inodes_before, fences) = (inodes(), files());
    for _ in 0..60 {
        assert_eq!(joined(hub, &real.identity, plain_join(), None), "");
        assert_eq!(joined(hub, &stranger(9), plain_join(), None), codes::PENDING);
    }
    assert_eq!((registry_files(&bench), inodes(), files()), (before, inodes_before, fences));
    // A new version is a change.
    let newer = Join { version: "9.9.9".into(), ..plain_join() };
    assert_eq!(joined(hub, &real.identity, newer, None), "");
    assert_ne!(inodes()[0], inodes_before[0]);
}

#[tokio::test]
async fn strangers_are_few_small_and_forgotten() {
    let (bench, clock) = Bench::simulated(options());
    let hub = bench.engine.hub();
    let ask = |n: u8| joined(hub, &stranger(n), plain_join(), None);
    let written = || registry_files(&bench)[1].1.clone().map_or(0, |b| b.len());
    assert_eq!(ask(1), codes::PENDING);
    let one = written();
    for n in 2..=200 {
        assert_eq!(ask(n), codes::PENDING);
    }
    assert_eq!(written(), one, "at most one write in a second, however many ask");
    clock.advance(Duration::from_secs(1));
    assert_eq!(ask(2), codes::PENDING);
    assert_eq!(listed(&bench).len(), 64);
    assert!(written() < 64 * 400, "{} bytes", written());
    clock.advance(HOUR);
    assert!(listed(&bench).is_empty(), "they expire");
    assert_eq!(ask(201), codes::PENDING, "and make room");

    let long = "x".repeat(200);
    let kinds = vec!["k".to_owned(); 1000];
    for wordy in [
        Join { version: long.clone(), ..plain_join() },
        Join { version: "\u{1b}[2J".into(), ..plain_join() },
        Join { kinds, ..plain_join() },
        Join { device: long, ..plain_join() },
    ] {
        assert_eq!(joined(hub, &stranger(9), wordy, None), codes::INVALID);
    }
}

#[tokio::test]
async fn a_revoked_device_is_out_at_once_also_from_another_process() {
    let bench = Bench::new();
    let run = begin(&bench, single(&[]));
    let hub = bench.engine.hub();
    let phone = Phone::join(hub);
    let key = phone.identity.public();
    let elsewhere = Devices::open(bench.engine.workspace(), Env::system()).expect("opens");
    elsewhere.revoke("phone").expect("known");
    assert_eq!(hub.authenticate(&key, &phone.token).expect_err("refused").code, codes::REVOKED);
    assert_eq!(joined(hub, &phone.identity, plain_join(), None), codes::REVOKED);
    // Also a call that was let in before.
    let claim = headstart_protocol::wire::Claim { facts: Default::default(), wait_ms: 5000, held: None };
    let e = hub.claim(&phone.session, claim).await.expect_err("refused");
    assert_eq!(e.code, codes::REVOKED);
    until(|| hub.device_waits(run.id()).iter().any(|w| w.why == WaitReason::Revoked)).await;

    elsewhere.approve("phone", None).expect("let in again");
    let mut phone = Phone::join(hub);
    phone.claim().await;
    run.cancel();
}

#[tokio::test]
async fn a_name_approves_no_other_device_than_the_one_that_is_meant() {
    let (bench, _) = Bench::simulated(options());
    let hub = bench.engine.hub();
    let devices = hub.registry();
    assert_eq!(joined(hub, &phone(), plain_join(), Some(&invite(hub, "phone"))), "");
    devices.revoke("phone").expect("stolen");
    // Its owner's new one asks under the same name. The name alone lets neither in.
    assert_eq!(joined(hub, &stranger(9), plain_join(), None), codes::PENDING);
    let ambiguous = devices.approve("phone", None).expect_err("two are meant");
    let stolen = phone().public().fingerprint();
    assert!(ambiguous.to_string().contains(&format!("{stolen} (revoked)")), "{ambiguous}");
    assert_eq!(joined(hub, &phone(), plain_join(), None), codes::REVOKED);
    devices.approve(&stranger(9).public().fingerprint(), None).expect("the new one");
    assert_eq!(joined(hub, &stranger(9), plain_join(), None), "");
    assert_ne!(joined(hub, &phone(), plain_join(), None), "", "the stolen one stays out");

    // Nobody is approved for being called as another device's key.
    let key = stranger(17).public();
    for name in [key.fingerprint(), key.to_string(), key.to_string()[..12].to_uppercase()] {
        let disguised = Join { device: name.clone(), ..plain_join() };
        assert_eq!(joined(hub, &stranger(18), disguised, None), codes::INVALID, "{name}");
        let approved = devices.approve(&name, Some("tablet"));
        assert!(matches!(approved, Err(DevicesError::NotPending(_))), "{name}: {approved:?}");
        assert!(matches!(devices.rename("phone", &name), Err(DevicesError::Name(_))), "{name}");
    }
}

#[tokio::test]
async fn a_renamed_device_is_told_its_name_and_keeps_its_key() {
    let bench = Bench::new();
    let hub = bench.engine.hub();
    let phone = Phone::join(hub);
    let devices = hub.registry();
    devices.rename("phone", "tablet").expect("free");
    let e = hub.authenticate(&phone.identity.public(), &phone.token).expect_err("joins again");
    assert_eq!(e.code, codes::UNKNOWN_SESSION);
    let again = proven(hub, &phone.identity, plain_join(), None);
    let (session, _) = join(hub, &phone.identity, &again).expect("still approved");
    assert_eq!(session.device(), "tablet");
    for wrong in ["", ".x", "-x", "a/b", "a b", &"x".repeat(65)] {
        assert!(matches!(devices.rename("tablet", wrong), Err(DevicesError::Name(_))), "{wrong}");
    }
    assert!(matches!(devices.rename("nobody", "x"), Err(DevicesError::Unknown(_))));
    devices.label("tablet", "Ann's tablet, upstairs").expect("known");
    assert!(matches!(devices.label("tablet", "\u{1b}[2J"), Err(DevicesError::Label)));
    assert_eq!(devices.list().expect("readable")[0].label, "Ann's tablet, upstairs");
    let taken = devices.invite(hub.identity().public(), "tablet", "https://10.0.0.5:7878", HOUR);
    assert!(matches!(taken, Err(DevicesError::Taken { .. })));
    for wrong in ["10.0.0.5:7878", "ftp://x", "https://", "https://a/b", "https://u@h:1", "https://h:x"] {
        let refused = devices.invite(hub.identity().public(), "new", wrong, HOUR);
        assert!(matches!(refused, Err(DevicesError::Address(_))), "{wrong}");
    }
}

#[tokio::test]
async fn devices_of_an_earlier_version_must_pair_again_and_are_named() {
    let bench = Bench::new();
    let at = bench.engine.workspace().dir().join("devices.json");
    let earlier =
        format!("{{\"phone\":{{\"secret\":\"{}\",\"version\":\"0.1.0\",\"kinds\":[]}}}}", "ab".repeat(32));
    std::fs::write(&at, earlier).expect("writes");
    let hub = bench.engine.hub();
    assert!(hub.registry().list().expect("readable")[0].must_pair_again);
    let run = begin(&bench, single(&[]));
    until(|| hub.device_waits(run.id()).iter().any(|w| w.why == WaitReason::PairAgain)).await;
    Phone::join(hub);
    let list = hub.registry().list().expect("readable");
    assert_eq!((list.len(), list[0].must_pair_again), (1, false));
    run.cancel();

    std::fs::write(&at, "{\"format\": 9}").expect("writes");
    let e = Devices::open(bench.engine.workspace(), Env::system()).err().expect("refused");
    assert!(e.to_string().contains("later version"), "{e}");
}

/// What a device was granted before its workspace was restored from a copy is believed if the engine signed it, and
/// only then.
#[tokio::test]
async fn a_device_that_was_granted_more_elsewhere_gets_higher_fences_if_it_proves_that() {
    let bench = Bench::new();
    let run = begin(&bench, single(&[]));
    let hub = bench.engine.hub();
    let phone = Phone::join(hub);
    let highest = 1 << 40;
    let engine = engine_identity(bench.engine.workspace()).expect("a key");
    assert_eq!(engine.public(), hub.identity().public());
    let grant = |engine: &Identity, fence| {
        let stamp = Stamp { fence, issued_ms: 1, expires_ms: 2 };
        signed::stub(
            &signed::sign(engine, &phone.identity.public(), Kind::Grant, stamp, &"task").expect("JSON"),
        )
    };
    let says = |granted| Join { highest_fence: highest, granted, ..plain_join() };
    let again =
        |what: Join| join(hub, &phone.identity, &proven(hub, &phone.identity, what, None)).expect("joins");
    let unproven = [
        says(None),
        says(Some(grant(&Identity::from_secret(&[9; 32]), highest))),
        says(Some(grant(&engine, highest - 1))),
        Join { highest_fence: (1 << 62) - 1, ..says(None) },
    ];
    let mut last = None;
    for what in unproven {
        last = Some(again(what));
    }
    let (session, token) = last.expect("joined");
    let (hub_of, identity) = (hub.clone(), common::phone::phone());
    let mut liar = Phone { hub: hub_of, session, token, identity, tasks: Vec::new() };
    assert!(liar.claim().await.fence < highest);
    run.cancel();
    let run = begin(&bench, single(&[]));
    let (session, token) = again(says(Some(grant(&engine, highest))));
    let mut phone = Phone { session, token, ..liar };
    assert!(phone.claim().await.fence > highest);
    run.cancel();
}

#[tokio::test]
async fn an_engine_is_served_under_numbers_and_names_that_it_invited_to() {
    let bench = Bench::new();
    let hub = bench.engine.hub();
    for host in ["127.0.0.1:7878", "localhost:7878", "[::1]:7878", "192.168.1.20"] {
        assert!(hub.is_served_as(host), "{host}");
    }
    assert!(!hub.is_served_as("engine.example:7878") && !hub.is_served_as("evil.example"));
    let url = "https://Engine.example:7878";
    hub.registry().invite(hub.identity().public(), "phone", url, HOUR).expect("invited");
    assert!(hub.is_served_as("engine.EXAMPLE:7878") && !hub.is_served_as("evil.example"));
}
