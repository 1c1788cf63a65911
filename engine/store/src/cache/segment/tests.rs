//! What is appended is read back by anybody; whatever happens to the file, nothing is handed out that was not
//! appended, and no damage goes unnoticed.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use headstart_disk::{SystemDisk, read};
use headstart_protocol::Digest;
use headstart_testkit::cases;
use proptest::prelude::*;

use super::Loc;
use super::entry::{self, Hash, hash_of};
use super::frame::{self, Item, Kind, Scan};
use super::index::{self, Index};
use super::own::Own;
use super::set::Segment;

type Frame = (Kind, Vec<u8>);

fn digest() -> impl Strategy<Value = Digest> {
    // Few, so that keys repeat.
    (0u8..12).prop_map(|n| Digest::of(&[n]))
}

fn frame() -> impl Strategy<Value = Frame> {
    let stage = (digest(), any::<i64>(), "[a-z]{0,40}", "[ -~]{0,600}")
        .prop_map(|(key, added, json, preimage)| (Kind::Stage, entry::stage(&key, added, &json, &preimage)));
    let forget = (digest(), any::<i64>()).prop_map(|(key, at)| (Kind::Forget, entry::forget(&key, at)));
    let numbers = prop::collection::vec(any::<f32>(), 0..300);
    let embedding = (digest(), digest(), numbers)
        .prop_map(|(space, text, vector)| (Kind::Embedding, entry::embedding(&space, &text, &vector)));
    let response = (digest(), digest(), digest(), ".{0,60}").prop_map(|(model, settings, prompt, a)| {
        (Kind::Response, entry::response(&model, &settings, &prompt, &a))
    });
    prop_oneof![stage, forget, embedding, response]
}

/// Appends frames in groups; the file, which is left as by a process that was killed.
fn written(dir: &Path, frames: &[Frame], group: usize) -> PathBuf {
    let mut own = Own::create(&SystemDisk, dir).expect("creates");
    frames.chunks(group.max(1)).for_each(|frames| own.append(frames).expect("appends"));
    own.segment.path().to_owned()
}

/// The newest frame of each hash.
fn newest(frames: &[Frame]) -> BTreeMap<Hash, Frame> {
    frames.iter().map(|(kind, body)| (hash_of(*kind, body).expect("a key"), (*kind, body.clone()))).collect()
}

fn found(path: &Path, hash: &Hash) -> Option<Frame> {
    let mut segment = Segment::open(path).ok()??;
    let mut buffer = Vec::new();
    let kind = segment.read(hash, &mut buffer)?;
    Some((kind, buffer))
}

/// What a scan of the file says: intact frames, and whether anything else is in it.
fn scanned(path: &Path) -> (Vec<Frame>, bool) {
    let file = read::open(path).expect("opens");
    let Ok(Some(salt)) = frame::salt(&file) else { return (Vec::new(), true) };
    let mut scan = Scan::new(&file, salt, 0, file.metadata().expect("there").len());
    let (mut frames, mut damaged) = (Vec::new(), false);
    while let Some(item) = scan.next().expect("reads") {
        match item {
            Item::Frame { kind, body, .. } => frames.push((kind, body.to_vec())),
            Item::Damage { .. } | Item::Tail { .. } => damaged = true,
        }
    }
    (frames, damaged)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases(12, 400)))]

    #[test]
    fn what_is_appended_is_found_before_and_after_sealing(
        frames in prop::collection::vec(frame(), 1..40), group in 1usize..7,
    ) {
        let dir = tempfile::tempdir().expect("a folder");
        let mut own = Own::create(&SystemDisk, dir.path()).expect("creates");
        let path = own.segment.path().to_owned();
        frames.chunks(group).for_each(|frames| own.append(frames).expect("appends"));
        let expected = newest(&frames);
        for (hash, frame) in &expected {
            prop_assert_eq!(found(&path, hash), Some(frame.clone()), "by another process");
        }
        own.seal(&SystemDisk).expect("seals");
        prop_assert!(path.with_extension("idx").is_file());
        for (hash, frame) in &expected {
            prop_assert_eq!(found(&path, hash), Some(frame.clone()), "sealed");
        }
        prop_assert_eq!(found(&path, &[7; 16]), None);
    }

    #[test]
    fn a_torn_tail_takes_only_what_was_not_written(
        frames in prop::collection::vec(frame(), 1..12), cut in any::<prop::sample::Index>(),
    ) {
        let dir = tempfile::tempdir().expect("a folder");
        let path = written(dir.path(), &frames, 3);
        let bytes = fs::read(&path).expect("reads");
        let length = cut.index(bytes.len());
        fs::write(&path, &bytes[..length]).expect("written");
        let mut end = frame::FILE_HEADER;
        let whole = frames.iter().take_while(|(_, body)| {
            end += frame::HEADER + body.len();
            end <= length
        });
        let whole: Vec<Frame> = whole.cloned().collect();
        let (left, _) = scanned(&path);
        prop_assert_eq!(&left, &whole);
        for (hash, frame) in newest(&whole) {
            prop_assert_eq!(found(&path, &hash), Some(frame));
        }
        // As a power failure leaves it: sectors that were never written read as zeros.
        let mut zeros = bytes[..length / 512 * 512].to_vec();
        zeros.resize(bytes.len(), 0);
        fs::write(&path, &zeros).expect("written");
        let (left, _) = scanned(&path);
        prop_assert!(frames.starts_with(&left));
    }

    #[test]
    fn every_flipped_byte_is_noticed(
        frames in prop::collection::vec(frame(), 1..6), at in any::<prop::sample::Index>(), bit in 0u8..8,
    ) {
        let dir = tempfile::tempdir().expect("a folder");
        let path = written(dir.path(), &frames, 2);
        let mut bytes = fs::read(&path).expect("reads");
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        fs::write(&path, bytes).expect("written");
        let (left, damaged) = scanned(&path);
        prop_assert!(damaged, "byte {} was flipped", at);
        prop_assert!(left.iter().all(|frame| frames.contains(frame)));
        // Of all frames but the damaged one, nothing is lost, unless the file's own header is damaged.
        let expected = if at < frame::FILE_HEADER { 0 } else { frames.len() - 1 };
        prop_assert_eq!(left.len(), expected);
    }
}

#[test]
fn every_flipped_byte_of_an_index_is_noticed() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("a.idx");
    let entry = |n: u32| {
        let hash: Hash = *Digest::of(&n.to_le_bytes()).0.first_chunk().expect("long enough");
        (hash, Loc { offset: u64::from(n) * 100, len: 100 })
    };
    let entries: Vec<(Hash, Loc)> = (0..200).map(entry).collect();
    let bytes = index::encode(entries.clone(), 5, 20_000);
    let open = |bytes: &[u8]| {
        fs::write(&path, bytes).expect("written");
        Index::open(read::open(&path).expect("opens"), 5)
    };
    let mut intact = open(&bytes).expect("intact");
    for (hash, loc) in &entries {
        assert_eq!(intact.find(hash).expect("intact"), Some(*loc));
    }
    let mut all = intact.entries().expect("intact");
    all.sort_by_key(|(_, loc)| loc.offset);
    assert_eq!(all, entries);
    assert!(Index::open(read::open(&path).expect("opens"), 6).is_err(), "of another segment");
    for at in 0..bytes.len() {
        let mut flipped = bytes.clone();
        flipped[at] ^= 0x10;
        let noticed = open(&flipped).and_then(|mut index| index.entries()).is_err();
        assert!(noticed, "byte {at} of {}", bytes.len());
    }
    for length in [0, 10, 32, 100, bytes.len() - 1] {
        assert!(open(&bytes[..length]).is_err(), "cut at {length}");
    }
}

#[test]
fn a_reader_follows_a_segment_that_grows() {
    let dir = tempfile::tempdir().expect("a folder");
    let mut own = Own::create(&SystemDisk, dir.path()).expect("creates");
    let mut set = super::set::Set::new(dir.path().to_owned());
    let mut buffer = Vec::new();
    for n in 0..50u8 {
        let (space, text) = (Digest::of(b"space"), Digest::of(&[n]));
        own.append(&[(Kind::Embedding, entry::embedding(&space, &text, &[f32::from(n)]))]).expect("appends");
        set.refresh(None);
        let mut seen = 0;
        let _all = set.each(&entry::embedding_hash(&space, &text), &mut buffer, |_, _| {
            seen += 1;
            std::ops::ControlFlow::Continue(())
        });
        assert_eq!(seen, 1, "{n}");
    }
}
