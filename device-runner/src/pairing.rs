//! Which engine the device belongs to.

use headstart_content::read_bounded;
use headstart_transport::{Invitation, PublicKey};
use serde::{Deserialize, Serialize};

use crate::error::DeviceError;
use crate::state::{State, write_durably};

/// The file of the state folder that says so.
const FILE: &str = "engine.json";
/// The file in which versions before 0.2 kept the engine's key.
const EARLIER: &str = "engine.key";
/// Bytes of either file at most.
const LARGEST: u64 = 16 << 10;

/// Which engine to join.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// The one that the device is paired with.
    Paired,
    /// The one that invites it.
    Invitation(Box<Invitation>),
    /// The one of this key; its owner has to approve the device.
    Key {
        /// Its address.
        url: String,
        /// The name to ask for.
        name: String,
        /// Its key.
        key: PublicKey,
    },
}

/// The engine that a device is paired with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Pairing {
    /// Its address.
    pub url: String,
    /// Its key.
    pub key: PublicKey,
    /// The name that it knows the device by.
    pub name: String,
}

/// The engine to join, and the invitation to join it with if the device is not paired with it yet.
pub(crate) fn resolve(
    state: &State,
    target: &Target,
) -> Result<(Pairing, Option<Box<Invitation>>), DeviceError> {
    let known = read(state)?;
    match target {
        Target::Paired => match known {
            Some(pairing) => Ok((pairing, None)),
            None => Err(unpaired(state)),
        },
        Target::Invitation(invitation) => {
            let Invitation { url, engine, device, .. } = &**invitation;
            let pairing = Pairing { url: url.clone(), key: *engine, name: device.clone() };
            same_engine(state, known.as_ref(), &pairing)?;
            Ok((pairing, Some(invitation.clone())))
        }
        Target::Key { url, name, key } => {
            let pairing = Pairing { url: url.clone(), key: *key, name: name.clone() };
            same_engine(state, known.as_ref(), &pairing)?;
            Ok((pairing, None))
        }
    }
}

/// A device that is paired is not handed to another engine by the way.
fn same_engine(state: &State, known: Option<&Pairing>, wanted: &Pairing) -> Result<(), DeviceError> {
    let (pinned, file) = match known {
        Some(pairing) => (Some(pairing.key), state.at(FILE)),
        None => (earlier_key(state), state.at(EARLIER)),
    };
    match pinned {
        Some(pinned) if pinned != wanted.key => Err(DeviceError::KeyChanged {
            url: wanted.url.clone(),
            got: wanted.key.fingerprint(),
            pinned: pinned.fingerprint(),
            file,
        }),
        _ => Ok(()),
    }
}

/// What the file says.
pub(crate) fn read(state: &State) -> Result<Option<Pairing>, DeviceError> {
    let at = state.at(FILE);
    let Some(bytes) = read_bounded(&at, LARGEST)? else { return Ok(None) };
    serde_json::from_slice(&bytes).map(Some).map_err(|e| {
        DeviceError::Input(format!(
            "{} is damaged ({e}); restore it, or pair again with an invitation",
            at.display()
        ))
    })
}

/// Keeps which engine the device is paired with.
pub(crate) fn keep(state: &State, pairing: &Pairing) -> Result<(), DeviceError> {
    if read(state)?.as_ref() == Some(pairing) {
        return Ok(());
    }
    let json =
        serde_json::to_vec_pretty(pairing).map_err(|e| DeviceError::Internal(format!("pairing: {e}")))?;
    write_durably(&**state.disk(), &state.at(FILE), &json)
}

fn earlier_key(state: &State) -> Option<PublicKey> {
    let bytes = read_bounded(&state.at(EARLIER), LARGEST).ok()??;
    std::str::from_utf8(&bytes).ok()?.parse().ok()
}

fn unpaired(state: &State) -> DeviceError {
    let name = state.name();
    let how = format!(
        "ask for an invitation: `headstart devices invite {}` on the engine's machine prints one for \
         `headstart-device join INVITATION`",
        name.as_deref().unwrap_or("NAME")
    );
    let folder = state.root().display();
    DeviceError::Input(match name {
        Some(name) if state.at(EARLIER).exists() => format!(
            "device `{name}` ({folder}) joined with an earlier version of Headstart and must pair again; {how}"
        ),
        _ => format!("{folder} is paired with no engine; {how}"),
    })
}
