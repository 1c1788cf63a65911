//! How long and how much a caller may take.

use std::time::Duration;

/// Limits of a port. Whoever is a stranger, that is: has not proven to be a device that may join, is
/// limited more.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Until the TLS handshake is over.
    pub handshake: Duration,
    /// Until a request's head is there, counted from the end of the last request.
    pub head: Duration,
    /// Until the body of a message is there.
    pub body: Duration,
    /// A connection on which nothing moves for this long ends. Longer than a claim waits for work.
    pub stall: Duration,
    /// A connection of a stranger ends after this long, whatever it does.
    pub stranger: Duration,
    /// Connections of strangers in all. Another one ends the oldest.
    pub strangers: usize,
    /// Connections of strangers from one address. Another one ends its oldest.
    pub strangers_of_an_address: usize,
    /// Connections of one device. Another one ends its oldest.
    pub connections_of_a_device: usize,
    /// Slowest upload, in bytes a second.
    pub slowest_upload: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            handshake: Duration::from_secs(10),
            head: Duration::from_secs(75),
            body: Duration::from_secs(30),
            stall: Duration::from_secs(90),
            stranger: Duration::from_secs(30),
            strangers: 256,
            strangers_of_an_address: 64,
            connections_of_a_device: 16,
            slowest_upload: 16 << 10,
        }
    }
}
