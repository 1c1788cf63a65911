//! What every handler shares.

use headstart_driver::Hub;
use headstart_protocol::Digest;
use tokio_util::sync::CancellationToken;

use crate::limits::Limits;
use crate::reply::Refusal;

/// The application that handlers belong to.
#[derive(Clone)]
pub(crate) struct App {
    pub(crate) hub: Hub,
    pub(crate) limits: Limits,
    pub(crate) closing: CancellationToken,
}

/// A digest in a path.
pub(crate) fn digest(text: &str) -> Result<Digest, Refusal> {
    text.parse().map_err(|e: headstart_protocol::ParseDigestError| Refusal::invalid(e.to_string()))
}
