//! The device and the engine that it joins.

use std::sync::Arc;

use ed25519_dalek::VerifyingKey;
use headstart_env::Env;
use headstart_protocol::PROTOCOL_VERSION;
use headstart_protocol::wire::{Facts, Join, Joined};

use crate::client::{CallError, Client};
use crate::device::Device;
use crate::error::DeviceError;
use crate::facts::facts;

/// The device and its engine.
pub(crate) struct Link {
    pub(crate) device: Arc<Device>,
    pub(crate) client: Client,
    pub(crate) env: Env,
    /// Conditions that the owner vouches for.
    pub(crate) holds: Vec<String>,
    /// Threads that the device offers.
    pub(crate) threads: usize,
    /// Bytes of memory that it offers.
    pub(crate) memory: Option<u64>,
}

impl Link {
    pub(crate) fn facts(&self) -> Facts {
        facts(self.threads, self.memory, &self.holds, self.device.state.generation())
    }

    /// Joins once; checks the engine's key.
    pub(crate) async fn join(&self) -> Result<VerifyingKey, JoinError> {
        let join = Join {
            device: self.device.name.clone(),
            protocol: PROTOCOL_VERSION,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            kinds: self.device.kinds(),
            numerics: self.device.numerics(),
            facts: self.facts(),
            secret: self.device.state.join_secret().to_owned(),
        };
        let url = self.client.url();
        let Joined { token, key, protocol } = self.client.join(&join).await.map_err(|e| match e {
            CallError::Unreachable(why) => JoinError::Unreachable(why),
            CallError::Journal(e) => JoinError::Never(e),
            other => JoinError::Never(DeviceError::Input(format!("{url}: {other}"))),
        })?;
        if protocol != PROTOCOL_VERSION {
            return Err(JoinError::Never(DeviceError::Input(format!(
                "{url} speaks version {protocol} of the protocol, this device version {PROTOCOL_VERSION}; \
                 run the same version of Headstart on both"
            ))));
        }
        let key = self.device.state.pin(url, &key).map_err(JoinError::Never)?;
        self.device.state.keep_name(&self.device.name).map_err(JoinError::Never)?;
        self.client.set_token(token);
        Ok(key)
    }
}

/// Why a join did not succeed.
pub(crate) enum JoinError {
    /// The engine is not up, or not yet.
    Unreachable(String),
    /// Trying again cannot help.
    Never(DeviceError),
}
