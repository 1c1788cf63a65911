//! Under which addresses the page is reached.

use std::net::SocketAddr;

use axum::http::Uri;

/// Where people open the page: what they type, and what their browsers therefore say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origins {
    /// The first is the one to print.
    all: Vec<String>,
}

/// Why a text is no address of a page.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is not an address of a page: write it as https://headstart.example.com, without a path")]
pub struct OriginError(String);

impl Origins {
    /// Those of an address of this machine alone.
    pub fn loopback(address: SocketAddr, tls: bool) -> Self {
        let scheme = if tls { "https" } else { "http" };
        let port = address.port();
        let mut all = vec![format!("{scheme}://{address}")];
        for name in ["localhost", "127.0.0.1", "[::1]"] {
            let origin = format!("{scheme}://{name}:{port}");
            if !all.contains(&origin) {
                all.push(origin);
            }
        }
        Self { all }
    }

    /// One that the operator names.
    ///
    /// # Errors
    /// If it is not a scheme, a host and perhaps a port.
    pub fn named(url: &str) -> Result<Self, OriginError> {
        let wrong = || OriginError(url.to_owned());
        let uri: Uri = url.parse().map_err(|_| wrong())?;
        let plain = matches!(uri.path(), "" | "/") && uri.query().is_none();
        let scheme = uri.scheme_str().filter(|s| matches!(*s, "http" | "https")).ok_or_else(wrong)?;
        let host = uri.authority().filter(|a| plain && !a.as_str().contains('@')).ok_or_else(wrong)?;
        let host = host.as_str().to_ascii_lowercase();
        let standard = if scheme == "https" { ":443" } else { ":80" };
        let host = host.strip_suffix(standard).unwrap_or(&host);
        Ok(Self { all: vec![format!("{scheme}://{host}")] })
    }

    /// The address to print.
    pub fn first(&self) -> &str {
        &self.all[0]
    }

    /// Whether browsers send what they send only over TLS.
    pub(crate) fn is_secure(&self) -> bool {
        self.first().starts_with("https://")
    }

    /// Whether a request for this host is one for the page. Any other name may be one that somebody else has pointed
    /// at this machine.
    pub(crate) fn has_host(&self, host: &str) -> bool {
        let host = host.to_ascii_lowercase();
        self.all.iter().any(|o| {
            o.split_once("://").is_some_and(|(scheme, h)| {
                let standard = if scheme == "https" { ":443" } else { ":80" };
                h == host || host.strip_suffix(standard) == Some(h)
            })
        })
    }

    /// Whether a page of this origin is one of these.
    pub(crate) fn has(&self, origin: &str) -> bool {
        self.all.iter().any(|o| o == origin)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_names_for_this_machine_are_not_the_page() {
        let local = Origins::loopback(([127, 0, 0, 1], 7879).into(), false);
        assert_eq!(local.first(), "http://127.0.0.1:7879");
        for host in ["127.0.0.1:7879", "localhost:7879", "LOCALHOST:7879", "[::1]:7879"] {
            assert!(local.has_host(host), "{host}");
        }
        for host in ["evil.example:7879", "127.0.0.1", "127.0.0.1:7878", "localhost:7879.evil.example", ""] {
            assert!(!local.has_host(host), "{host}");
        }
        assert!(local.has("http://localhost:7879"));
        assert!(!local.has("https://localhost:7879") && !local.has("null") && !local.has("http://localhost"));
    }

    #[test]
    fn an_operator_names_an_origin() {
        let named = Origins::named("https://Headstart.Example.com:443/").expect("an origin");
        assert_eq!(named.first(), "https://headstart.example.com");
        assert!(named.has_host("headstart.example.com") && named.has_host("headstart.example.com:443"));
        assert!(!named.has_host("headstart.example.com:80") && named.is_secure());
        for wrong in ["headstart.example.com", "ftp://x", "https://x/y", "https://a@b", "https://x?y", ""] {
            assert!(Origins::named(wrong).is_err(), "{wrong}");
        }
    }
}
