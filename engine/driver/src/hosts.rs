//! Hosts of addresses.

/// The host of `HOST:PORT` or `[HOST]:PORT`, in lower case; `None` if it is none.
///
/// Stricter than `http::uri::Authority`, which takes `USER@HOST` and characters that no name of a host has:
/// what is compared here decides who may call.
pub(crate) fn host_name(authority: &str) -> Option<String> {
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => {
            let (host, port) = rest.split_once(']')?;
            host.parse::<std::net::Ipv6Addr>().ok()?;
            (host, port.strip_prefix(':').or(port.is_empty().then_some("0")))
        }
        None => match authority.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (authority, Some("0")),
        },
    };
    port?.parse::<u16>().ok()?;
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | ':' | '_');
    (!host.is_empty() && host.chars().all(plain)).then(|| host.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::host_name;

    #[test]
    fn hosts_of_authorities() {
        for (authority, host) in [
            ("127.0.0.1:7878", Some("127.0.0.1")),
            ("LocalHost", Some("localhost")),
            ("[::1]:7878", Some("::1")),
            ("[::1]", Some("::1")),
            ("engine.example:7878", Some("engine.example")),
            ("", None),
            (":7878", None),
            ("a b:1", None),
            ("engine:70000", None),
            ("[::1", None),
            ("[evil.example]:1", None),
            ("a/b", None),
            ("user@localhost", None),
            ("localhost%00.evil.example", None),
        ] {
            assert_eq!(host_name(authority).as_deref(), host, "{authority}");
        }
    }
}
