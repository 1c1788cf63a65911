//! A custom stage reads what it was given, writes its own folder, and reaches nothing else.
#![cfg(target_os = "linux")]

use std::net::{TcpListener, UdpSocket};
use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::path::{Path, PathBuf};

use headstart_host::folder::digest;
use headstart_host::{CustomStage, Limits, describe};
use headstart_protocol::{Args, Stage, Value};
use headstart_testkit::MemoryContext;
use serde_json::Value as Json;

/// The program and the SDK in a folder of their own.
fn program(folder: &Path) -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let stages = folder.join("stages");
    std::fs::create_dir(&stages).expect("a folder");
    std::fs::copy(here.join("../python/headstart.py"), stages.join("headstart.py")).expect("copied");
    std::fs::copy(here.join("tests/programs/nosy.py"), stages.join("nosy.py")).expect("copied");
    stages.join("nosy.py")
}

/// What the program could do, by name.
fn tried(confined: bool) -> Json {
    let dir = tempfile::tempdir().expect("a folder");
    let program = program(dir.path());
    let limits = Limits { confined, ..Limits::default() };
    let declaration = describe(&program, limits, &|line| panic!("said {line:?}")).expect("a declaration");
    let stage = CustomStage {
        kind: "tools.pry".into(),
        digest: digest(&program, &[]).expect("a digest"),
        program,
        files: Vec::new(),
        declared: declaration.stage("pry").expect("the stage").clone(),
        limits,
    };
    let folder = dir.path().join("data");
    std::fs::create_dir(&folder).expect("a folder");
    let (given, secret) = (folder.join("given"), folder.join("secret"));
    std::fs::write(&given, "given").expect("written");
    std::fs::write(&secret, "secret").expect("written");
    let tcp = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = tcp.local_addr().expect("an address").port();
    let _udp = UdpSocket::bind(("127.0.0.1", port)).expect("the same port");
    let _local = UnixListener::bind(folder.join("socket")).expect("a socket");
    let _log = UnixDatagram::bind(folder.join("log")).expect("a socket");
    std::fs::write(folder.join("victim"), "kept").expect("written");
    let left_open = std::fs::File::open(&secret).expect("opens");
    rustix::io::fcntl_setfd(&left_open, rustix::io::FdFlags::empty()).expect("programs inherit it");
    let text = |at: &Path| at.to_str().expect("UTF-8").to_owned();
    let args = [
        ("given", Value::Path(text(&given))),
        ("secret", Value::Text(text(&secret))),
        ("port", Value::Int(port.into())),
        ("parent", Value::Int(std::process::id().into())),
        ("left_open", Value::Int(left_open.as_raw_fd().into())),
    ];
    let args = Args(args.into_iter().map(|(name, value)| (name.to_owned(), value)).collect());
    let ctx = MemoryContext::new();
    let could = stage.run(&args, &ctx.attempt()).unwrap_or_else(|f| panic!("{}", f.message)).value;
    let read = |at: &Path| std::fs::read_to_string(at).unwrap_or_default();
    if confined {
        assert_eq!(read(&folder.join("victim")), "kept");
    }
    assert_eq!((read(&given).as_str(), read(&secret).as_str()), ("given", "secret"));
    could
}

const NEEDED: &[&str] =
    &["reads_what_it_was_given", "runs_programs", "has_home_and_temporary_files", "has_pairs_of_sockets"];

#[test]
fn a_confined_program_reaches_nothing_else() {
    let could = tried(true);
    for (what, done) in could.as_object().expect("metrics") {
        let wanted = NEEDED.contains(&what.as_str());
        assert_eq!(done.as_f64(), Some(f64::from(u8::from(wanted))), "{what}: {could:#}");
    }
}

/// The test above could not fail if the program were unable for other reasons.
#[test]
fn an_unconfined_program_reaches_it_all_but_what_no_program_gets() {
    let could = tried(false);
    // A hard link cannot be made across file systems, nor memory read where the kernel forbids it. File systems may
    // have no attributes, containers no terminals and no namespaces.
    let may_fail = [
        "links_out",
        "writes_its_input_by_another_name",
        "reads_the_runners_memory",
        "reads_the_runners_environment",
        "reads_by_the_runners_folder",
        "reads_by_the_runners_descriptor",
        "marks_a_file",
        "makes_a_user_namespace",
        "writes_to_a_terminal",
    ];
    for (what, done) in could.as_object().expect("metrics") {
        if !may_fail.contains(&what.as_str()) {
            let wanted =
                !["has_the_runners_variables", "has_the_runners_descriptor"].contains(&what.as_str());
            assert_eq!(done.as_f64(), Some(f64::from(u8::from(wanted))), "{what}: {could:#}");
        }
    }
}
