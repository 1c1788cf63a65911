//! What two recordings of a wire are compared by.

/// A text in which every run of hexadecimal digits of one of these lengths is as many `#`: digests, handles, keys,
/// nonces and signatures, which differ from run to run.
pub fn without_digests(text: &str, lengths: &[usize]) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let digits = rest.bytes().take_while(u8::is_ascii_hexdigit).count();
        let step = digits.max(c.len_utf8());
        match lengths.contains(&digits) {
            true => out.push_str(&"#".repeat(digits)),
            false => out.push_str(&rest[..step]),
        }
        rest = &rest[step..];
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_are_alike_and_nothing_else_is() {
        let (a, b) = ("ab".repeat(32), "09".repeat(32));
        let message = |digest: &str| format!("é {digest}, fence 41907, {}", &digest[..10]);
        let seen = without_digests(&message(&a), &[64]);
        assert_eq!(seen, format!("é {}, fence 41907, ababababab", "#".repeat(64)));
        assert_ne!(seen, without_digests(&message(&b), &[64]), "the short one is left");
        assert_eq!(without_digests(&a, &[32]), a);
    }
}
