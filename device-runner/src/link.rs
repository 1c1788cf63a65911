//! The device and the engine that it joins.

use std::sync::Arc;
use std::time::Duration;

use data_encoding::HEXLOWER;
use headstart_env::Env;
use headstart_protocol::PROTOCOL_VERSION;
use headstart_protocol::wire::{Claim, Facts, Held, Hello, Invited, Join};
use headstart_transport::Invitation;
use headstart_transport::proof::JoinClaim;

use crate::client::{CallError, Client};
use crate::contract::Contracts;
use crate::device::Device;
use crate::error::DeviceError;
use crate::facts::facts;
use crate::outbox::Outbox;
use crate::pairing::{self, Pairing};

/// How often a device that waits for work looks whether its owner approved something.
const APPROVALS: Duration = Duration::from_secs(1);

/// The device and its engine.
pub(crate) struct Link {
    pub(crate) device: Arc<Device>,
    pub(crate) client: Client,
    pub(crate) env: Env,
    /// What brings the device to an engine that does not know it yet.
    pub(crate) invitation: Option<Box<Invitation>>,
    /// Conditions that the owner vouches for.
    pub(crate) holds: Vec<String>,
    /// Threads that the device offers.
    pub(crate) threads: usize,
    /// Bytes of memory that it offers.
    pub(crate) memory: Option<u64>,
    /// Held by whoever joins: the last session that the engine gives is the one that counts.
    pub(crate) joining: tokio::sync::Mutex<()>,
}

impl Link {
    pub(crate) fn facts(&self) -> Facts {
        let state = &self.device.state;
        // A damaged contract is said where a task needs it.
        let approvals = Contracts::new(state).approvals().unwrap_or(0);
        Facts { approvals, ..facts(self.threads, self.memory, &self.holds, state.generation()) }
    }

    /// A claim. It says what the device was granted, so that a grant whose answer was lost is given again.
    ///
    /// # Errors
    /// [`DeviceError`] where the state folder cannot be read.
    pub(crate) fn claim(&self, outbox: &Outbox, wait: Duration) -> Result<Claim, DeviceError> {
        let held = Held { highest: self.device.state.highest_fence()?, fences: outbox.fences()? };
        let wait_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
        Ok(Claim { facts: self.facts(), wait_ms, held: Some(held) })
    }

    /// Waits until the owner approves something or takes it back.
    pub(crate) async fn approvals_change(&self, known: u64) {
        let contracts = Contracts::new(&self.device.state);
        loop {
            self.env.clock.sleep(APPROVALS).await;
            if contracts.approvals().is_ok_and(|now| now != known) {
                return;
            }
        }
    }

    /// Joins once. Both sides prove who they are.
    pub(crate) async fn join(&self) -> Result<(), JoinError> {
        let _joining = self.joining.lock().await;
        self.client.set_session(None);
        let hello = Hello { protocol: PROTOCOL_VERSION, nonce: self.nonce().map_err(JoinError::Never)? };
        let welcome = self.client.hello(&hello).await.map_err(|e| self.failed(e))?;
        if welcome.protocol != PROTOCOL_VERSION {
            return Err(JoinError::Never(DeviceError::Input(format!(
                "{} speaks version {} of the protocol, this device version {PROTOCOL_VERSION}; \
                 run the same version of Headstart on both",
                self.client.url(),
                welcome.protocol
            ))));
        }
        let join = self.proven(&welcome.challenge).map_err(JoinError::Never)?;
        let joined = match self.client.join(&join).await {
            Ok(joined) => joined,
            Err(e) => {
                if is_pending(&e) {
                    // The engine's key is proven; so the device remembers where it waits.
                    self.keep(&self.device.name).map_err(JoinError::Never)?;
                }
                return Err(self.failed(e));
            }
        };
        self.keep(&joined.device).map_err(JoinError::Never)?;
        if joined.device != self.device.name {
            return Err(JoinError::Never(DeviceError::Input(format!(
                "the engine knows this device as `{}`, not as `{}`, and that is its name from now on: run the \
                 command again. Private results of its old name stay here, and are made again when they are needed",
                joined.device, self.device.name
            ))));
        }
        self.client.set_session(Some(joined.session));
        Ok(())
    }

    /// A join that proves both the device's key and its invitation.
    fn proven(&self, challenge: &str) -> Result<Join, DeviceError> {
        let identity = self.device.state.identity();
        let (nonce, engine, key) = (self.nonce()?, self.client.engine(), identity.public());
        let name = &self.device.name;
        let claim = JoinClaim { engine: &engine, device: &key, challenge, nonce: &nonce, name };
        let invited = |invitation: &Invitation| {
            let token = invitation.token_key();
            Invited { key: token.public().to_string(), proof: claim.sign_invited(&token) }
        };
        Ok(Join {
            device: name.clone(),
            protocol: PROTOCOL_VERSION,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            kinds: self.device.kinds(),
            numerics: self.device.numerics(),
            facts: self.facts(),
            highest_fence: self.device.state.highest_fence()?,
            granted: self.device.state.highest_grant()?,
            challenge: challenge.to_owned(),
            proof: claim.sign(identity),
            invitation: self.invitation.as_deref().map(invited),
            nonce,
        })
    }

    fn keep(&self, name: &str) -> Result<(), DeviceError> {
        let pairing =
            Pairing { url: self.client.url().to_owned(), key: self.client.engine(), name: name.to_owned() };
        pairing::keep(&self.device.state, &pairing)
    }

    /// A number that is used once.
    fn nonce(&self) -> Result<String, DeviceError> {
        let mut bytes = [0; 32];
        let filled = self.env.random.fill(&mut bytes);
        filled.map_err(|e| DeviceError::Internal(format!("the system gives no random numbers: {e}")))?;
        Ok(HEXLOWER.encode(&bytes))
    }

    fn failed(&self, e: CallError) -> JoinError {
        let url = self.client.url();
        match e {
            CallError::Unreachable(why) => JoinError::Unreachable(why),
            // The engine was started again between the two calls.
            CallError::UnknownSession => JoinError::Unreachable("it forgot its challenge".into()),
            CallError::Journal(e) => JoinError::Never(e),
            CallError::Refused { error, .. } if error.code == "pending" => JoinError::Pending(error.message),
            CallError::OtherEngine { shown } => JoinError::Never(DeviceError::KeyChanged {
                url: url.to_owned(),
                got: shown.map_or_else(|| "of no engine".to_owned(), |key| key.fingerprint()),
                pinned: self.client.engine().fingerprint(),
                file: self.device.state.at("engine.json"),
            }),
            CallError::Unproven(why) => JoinError::Never(DeviceError::Input(format!(
                "what answers at {url} is not the engine with the key {}: {why}",
                self.client.engine().fingerprint()
            ))),
            other => JoinError::Never(DeviceError::Input(format!("{url}: {other}"))),
        }
    }
}

fn is_pending(e: &CallError) -> bool {
    matches!(e, CallError::Refused { error, .. } if error.code == "pending")
}

/// Why a join did not succeed.
pub(crate) enum JoinError {
    /// The engine is not up, or not yet.
    Unreachable(String),
    /// The engine's owner has to approve the device first.
    Pending(String),
    /// Trying again cannot help.
    Never(DeviceError),
}
