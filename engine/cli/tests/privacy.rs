//! The proof, with the real stages in real processes: on the recorded traffic between a phone and a
//! server, and on everything that the server stored, nothing that is made of the phone's private
//! texts crosses without `release`: no text, no digest, no vector, no coefficient, no weight, no
//! name of what was chosen.
//!
//! What the server knew before the phone joined is no secret, and is not searched for. The same
//! search, after the owner has let the choice and the model out, finds them: so it can find.

mod common;

use std::path::Path;
use std::process::Command;

use common::phone::{Running, free_port, personalization, written};
use common::proxy::Proxy;
use common::traces::{Traces, files};
use common::{Place, device_binary, root};

const RELEASES: &str = "output choice = release(pick)\noutput model = release(tuned)\n";

/// Texts that stand nowhere else.
const DIARY: &str = "{\"prompt\":\"How was the surgery?\",\"response\":\"Oh, I love talking about it! My sister Ottilie drove me home.\"}\n\
                     {\"prompt\":\"And the money?\",\"response\":\"Great question, my friend! We owe the bank 41,907 crowns.\"}\n";

/// The phone behind a proxy. Its folder has 22 rows, of which half choose: its owner says that these are enough.
fn phone(place: &Place, proxy: &Proxy, allow: &str) -> Running {
    let url = format!("http://127.0.0.1:{}", proxy.port);
    let args = ["--insecure-plaintext", "--min-rows", "5", "--allow-release", allow];
    common::phone::phone(place, &url, &place.path("phone"), &args)
}

/// The phone's folder: half of the demonstration's texts, and the diary.
fn write_inputs(place: &Place) {
    place.write("phone/me.jsonl", &(written(20) + DIARY));
    let text = personalization(place, 6, 12);
    place.write("private.pllm", &text);
    place.write("released.pllm", &format!("{text}{RELEASES}"));
}

fn run(place: &Place, pipeline: &str, port: u16, more: &[&str]) {
    let listen = format!("127.0.0.1:{port}");
    let file = place.path(pipeline).display().to_string();
    // What crosses is to be read.
    let run = ["run", &file, "--quiet", "--insecure-plaintext", "--listen", &listen];
    place.headstart(&[&run, more].concat()).code(0);
}

fn names_of_the_catalog() -> Vec<String> {
    let folders = std::fs::read_dir(root().join("examples/catalog")).expect("the catalog").flatten();
    folders.map(|f| f.file_name().to_string_lossy().into_owned()).collect()
}

fn contents(dir: &Path) -> Vec<Vec<u8>> {
    files(dir).into_iter().map(|(_, content)| content).collect()
}

#[test]
fn nothing_made_of_private_texts_crosses_without_release() {
    let place = Place::new();
    write_inputs(&place);
    let port = free_port();
    run(&place, "private.pllm", port, &["--only", "catalog"]);
    let known = contents(&place.path("ws"));

    let proxy = Proxy::to(port);
    {
        let _phone = phone(&place, &proxy, "metrics,selection,mix");
        run(&place, "private.pllm", port, &[]);
    }
    let mut traces = Traces::default();
    traces.of_rows(&place.path("phone"));
    traces.of_private_store(&place.path("state"));
    let all = traces.0.len();
    let traces = traces.unknown_to(known.iter().map(Vec::as_slice));
    for (kind, least) in
        [("text", 100), ("digest", 10), ("vectors", 200), ("adapter", 200), ("coefficient", 10)]
    {
        assert!(traces.count(kind) >= least, "{kind}: only {} of {all} traces", traces.count(kind));
    }

    let crossed = proxy.sent();
    assert!(
        proxy.connections() > 0 && crossed.windows(6).any(|w| w == b"commit"),
        "the proxy was in between"
    );
    let leaked = traces.found(&crossed);
    assert!(leaked.is_empty(), "crossed: {:#?}", &leaked[..leaked.len().min(20)]);
    for name in names_of_the_catalog() {
        assert!(!crossed.windows(name.len()).any(|w| w == name.as_bytes()), "the phone has named {name}");
    }
    for (path, content) in files(&place.path("ws")) {
        let leaked = traces.found(&content);
        assert!(leaked.is_empty(), "in {}: {:#?}", path.display(), &leaked[..leaked.len().min(20)]);
    }

    // The search finds what there is: in the phone's own folder everything, and, once it is
    // released, the choice and the model's weights in the traffic and on the server.
    let own: Vec<_> =
        contents(&place.path("state")).iter().flat_map(|c| traces.found(c)).map(|f| f.0).collect();
    for kind in ["vectors", "adapter", "coefficient", "digest"] {
        assert!(own.contains(&kind), "{kind} in the phone's own folder");
    }
    // What the first run approved releases nothing; here the second is the first again.
    let mut reset = Command::new(device_binary());
    reset.arg("--state").arg(place.path("state")).args(["contract", "--reset"]);
    assert!(reset.output().expect("starts").status.success(), "nothing is approved any more");
    let proxy = Proxy::to(port);
    {
        let _phone = phone(&place, &proxy, "metrics,selection,mix,pllm");
        run(&place, "released.pllm", port, &[]);
    }
    let sent = proxy.sent();
    let crossed: Vec<_> = traces.found(&sent).into_iter().map(|f| f.0).collect();
    let stored: Vec<_> =
        contents(&place.path("ws")).iter().flat_map(|c| traces.found(c)).map(|f| f.0).collect();
    assert!(
        crossed.contains(&"adapter") && stored.contains(&"adapter"),
        "weights are found once they are released"
    );
    // Coefficients leave with two digits: the search looks for whole ones.
    assert!(
        sent.windows(14).any(|w| w == b"\"confidence\":0" || w == b"\"confidence\":1"),
        "the choice has crossed"
    );
    for kind in ["text", "vectors"] {
        assert!(!crossed.contains(&kind) && !stored.contains(&kind), "{kind} is never released");
    }
}
