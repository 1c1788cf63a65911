//! The arguments of `headstart devices`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::Format;

/// `headstart devices`
#[derive(Subcommand)]
pub enum DevicesCommand {
    /// Print a one-time invitation for a device. Also works while an engine is running.
    Invite(Invite),
    /// List all devices.
    List {
        /// Output format.
        #[arg(long, value_enum, default_value_t)]
        format: Format,
    },
    /// Let a device join that waits for approval, or that was revoked.
    Approve {
        /// Its key's fingerprint, as the device shows it, or at least twelve of the key's digits; or its name, where that means one device alone.
        #[arg(value_name = "NAME|KEY")]
        device: String,
        /// The name to give it, instead of the one that it asks for.
        #[arg(long)]
        name: Option<String>,
    },
    /// Bar a device from joining, and take back invitations under its name.
    Revoke {
        /// The device.
        name: String,
    },
    /// Give a device another name.
    Rename {
        /// The device.
        name: String,
        /// Its new name.
        to: String,
    },
    /// Set a device's label, for lists.
    Label {
        /// The device.
        name: String,
        /// The label; an empty one removes it.
        label: String,
    },
    /// Print this workspace's public key, for devices that join without an invitation.
    Key,
}

/// `headstart devices invite`
#[derive(Args)]
pub struct Invite {
    /// The name that the device will have, as in `device("phone")`.
    pub name: String,
    /// How long the invitation can be used, such as 10m, 1h or 2d.
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = duration)]
    pub expires: std::time::Duration,
    /// The address at which the device reaches this machine: that of `--listen`, as seen from there.
    #[arg(long, value_name = "URL", default_value = DEFAULT_URL)]
    pub url: String,
    /// Write the invitation's QR code as a picture.
    #[arg(long, value_name = "FILE.svg")]
    pub qr: Option<PathBuf>,
}

/// The address of an engine that listens where it does by default.
pub const DEFAULT_URL: &str = "https://127.0.0.1:7878";
/// Longest time of an invitation, in seconds.
const LONGEST_INVITATION: u64 = 30 * 24 * 3600;

fn duration(text: &str) -> Result<std::time::Duration, String> {
    let wrong = || format!("{text:?} is not a time; write it as in 10m, 1h or 2d, of at most 30d");
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let scale = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 24 * 3600,
        _ => return Err(wrong()),
    };
    let seconds = number.parse::<u64>().ok().and_then(|n| n.checked_mul(scale)).ok_or_else(wrong)?;
    if (1..=LONGEST_INVITATION).contains(&seconds) {
        Ok(std::time::Duration::from_secs(seconds))
    } else {
        Err(wrong())
    }
}
