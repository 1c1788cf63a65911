//! Broken files and what is said of them.

use super::*;
use std::io::Write;

fn write(dir: &Path, bytes: &[u8]) -> PathBuf {
    let path = dir.join("model.safetensors");
    std::fs::File::create(&path).unwrap().write_all(bytes).unwrap();
    path
}

fn file() -> Vec<u8> {
    let data: Vec<u8> = [1.0f32, 2.0, 3.0].iter().flat_map(|v| v.to_le_bytes()).collect();
    let view = safetensors::tensor::TensorView::new(Dtype::F32, vec![3], &data).unwrap();
    safetensors::serialize([("a", view)], None).unwrap()
}

#[test]
fn broken_files_say_what_is_wrong() {
    let dir = tempfile::tempdir().unwrap();
    let whole = file();
    let cases: [(&[u8], &str); 7] = [
        (&whole[..whole.len() - 4], "cut short"),
        (&whole[..20], "cut short"),
        (b"PK\x03\x04 this is something else", "a zip archive"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer"),
        (b"\x1f\x8b\x08\0\0\0\0\0\0", "compressed with gzip"),
        (&[whole.as_slice(), b"more"].concat(), "longer than it should be"),
        (b"abc", "3 bytes"),
    ];
    for (bytes, expected) in cases {
        let path = write(dir.path(), bytes);
        let e = Weights::open(&[path]).err().unwrap().to_string();
        assert!(e.contains(expected) && e.contains("model.safetensors"), "{e}");
    }
}

#[test]
fn missing_and_misshapen_tensors_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let w = Weights::open(&[write(dir.path(), &file())]).unwrap();
    assert_eq!(w.need("a", &[3]).unwrap().to_vec(), [1.0, 2.0, 3.0]);
    assert!(w.need("b", &[3]).err().unwrap().to_string().contains("tensor b is missing"));
    let e = w.need("a", &[4]).err().unwrap().to_string();
    assert!(e.contains("tensor a") && e.contains("[4]") && e.contains("[3]"), "{e}");
}
