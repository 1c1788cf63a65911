//! Every kind of the language has exactly one implementation, and nothing else has one.

use headstart_builtin::stages;
use headstart_protocol::kinds;
use headstart_runner::StageRegistry;
use headstart_train::default_backend;

#[test]
fn every_kind_is_implemented_once() {
    let all = stages(default_backend());
    let mut implemented: Vec<&str> = all.iter().map(|s| s.kind()).collect();
    let mut known: Vec<&str> = kinds::all().map(|k| k.name.as_str()).collect();
    implemented.sort_unstable();
    known.sort_unstable();
    assert_eq!(implemented, known);
}

#[test]
fn a_kind_is_found_by_name() {
    let registry = StageRegistry::new(stages(default_backend()));
    assert!(registry.kinds().all(|kind| registry.built_in(kind).is_ok_and(|stage| stage.kind() == kind)));
    let message = registry.built_in("teleport").err().expect("no such kind").message;
    assert!(message.contains("`teleport`") && message.contains("finetune"), "{message}");
}
