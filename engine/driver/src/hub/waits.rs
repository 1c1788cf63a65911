//! What a run waits for on its devices, for people.

use headstart_protocol::Digest;

/// A device that a run waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceWait {
    /// The device.
    pub device: String,
    /// The stages that wait for it.
    pub stages: Vec<String>,
    /// What for.
    pub why: WaitReason,
}

/// What a device is waited for to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WaitReason {
    /// Nobody has invited it.
    Pairing,
    /// It joined an earlier version of Headstart, and must pair again.
    PairAgain,
    /// An invitation is open; it has not been used.
    Invited,
    /// It has asked to join: these fingerprints wait for approval.
    Approval(Vec<String>),
    /// It was revoked.
    Revoked,
    /// It may join, and has not since this engine started.
    Join,
    /// It has joined before and is silent: for contact.
    Contact {
        /// When it was last heard of, in Unix milliseconds.
        last_seen_ms: u64,
    },
    /// It is here, but these conditions do not hold.
    Conditions(Vec<String>),
    /// Its owner has to approve the proposal of this digest first.
    Contract(Digest),
    /// It is here, but can never run the stages, for this reason.
    Unfit(String),
}

impl WaitReason {
    /// What to do about it, for a device that reaches the engine at `url`; empty where nothing helps but
    /// waiting.
    pub fn help(&self, device: &str, url: Option<&str>) -> String {
        let url = url.map(|url| format!(" --url {url}")).unwrap_or_default();
        match self {
            Self::Pairing | Self::PairAgain | Self::Revoked => format!(
                "invite it here with `headstart devices invite {device}{url}`, then run on the device: \
                 headstart-device join INVITATION --data FOLDER"
            ),
            Self::Invited => "on the device, run: headstart-device join INVITATION --data FOLDER".to_owned(),
            Self::Approval(fingerprints) => match &fingerprints[..] {
                [one] => format!("if the device shows this key: headstart devices approve {one}"),
                _ => format!(
                    "several devices ask for this name; approve the one whose key it shows: headstart devices \
                     approve KEY, of {}",
                    fingerprints.join(", ")
                ),
            },
            Self::Join | Self::Contact { .. } => {
                "on the device, run: headstart-device join --data FOLDER".to_owned()
            }
            Self::Conditions(missing) => format!(
                "the device reports conditions with `--holds {}`; it detects mains power by itself",
                missing.join(",")
            ),
            Self::Contract(digest) => format!(
                "on the device, its owner sees with `headstart-device contract` what the run needs, and allows it \
                 with `headstart-device approve {digest}`"
            ),
            Self::Unfit(_) => String::new(),
        }
    }
}
