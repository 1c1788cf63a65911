//! What a run waits for on its devices, for people.

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
    /// It has never joined.
    Join,
    /// It has joined before and is silent: for contact.
    Contact {
        /// When it was last heard of, in Unix milliseconds.
        last_seen_ms: u64,
    },
    /// It is here, but these conditions do not hold.
    Conditions(Vec<String>),
    /// It is here, but can never run the stages, for this reason.
    Unfit(String),
}
