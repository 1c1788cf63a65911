//! The part of a digest that the tables have an index over.

/// The first eight bytes of a digest as a number.
pub(crate) fn head(digest: &[u8; 32]) -> u64 {
    let (head, _) = digest.split_first_chunk().expect("32 bytes are more than 8");
    u64::from_be_bytes(*head)
}
