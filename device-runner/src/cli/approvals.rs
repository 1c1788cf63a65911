//! `headstart-device contract`, `approve`, `budget` and `retry`: what the owner decides.

use std::path::Path;

use headstart_console::{errln, print as put};
use headstart_protocol::Digest;

use crate::contract::Contracts;
use crate::error::DeviceError;
use crate::show::contract::Shown;
use crate::state::State;
use crate::{quarantine, show};

/// Prints what is approved and what waits, or takes everything back.
pub(super) fn contract(state: &Path, json: bool, reset: bool, quiet: bool) -> Result<u8, DeviceError> {
    if reset {
        Contracts::new(&State::look(state)?).reset()?;
        if !quiet {
            errln!("nothing is approved any more");
        }
        return Ok(0);
    }
    let shown = Shown::read(state)?;
    put(&if json { format!("{:#}\n", shown.json()) } else { shown.text() })?;
    Ok(0)
}

/// Approves a proposal; without its digest, shows what waits.
pub(super) fn approve(
    state: &Path,
    digest: Option<&str>,
    conditional: &[Digest],
    quiet: bool,
) -> Result<u8, DeviceError> {
    let shown = Shown::read(state)?;
    let Some(digest) = digest else {
        if !conditional.is_empty() {
            shown.approve_parts(conditional)?;
            if !quiet {
                errln!(
                    "approved {}",
                    conditional.iter().map(Digest::to_string).collect::<Vec<_>>().join(", ")
                );
            }
            return Ok(0);
        }
        let mut out = String::new();
        shown.pending.iter().for_each(|pending| shown.pending(&mut out, pending));
        if shown.pending.is_empty() {
            errln!("nothing waits for approval");
            return Ok(0);
        }
        put(&out)?;
        return Err(DeviceError::Input("nothing was approved; name the digest of what you approve".into()));
    };
    let pending = shown.find(digest)?;
    let left = shown.approve(pending, conditional)?;
    if !quiet {
        errln!("approved {}", pending.digest());
    }
    for part in &left {
        let (name, digest) = (part.kind.name(), part.digest);
        errln!(
            "not approved: the {name} {digest}, which may look at content; --conditional {digest} approves it"
        );
    }
    Ok(0)
}

/// Has what failed run again.
pub(super) fn retry(state: &Path, name: Option<&str>, quiet: bool) -> Result<u8, DeviceError> {
    let cleared = quarantine::retry(state, name)?;
    if !quiet {
        match &cleared[..] {
            [] => errln!("nothing had failed; the next run asks this device for everything again"),
            some => errln!("the next run tries again: {}", some.join(", ")),
        }
    }
    Ok(0)
}

/// Prints what was spent, or forgets it.
pub(super) fn budget(state: &Path, reset: bool, quiet: bool) -> Result<u8, DeviceError> {
    if reset {
        crate::budget::reset(state)?;
        if !quiet {
            errln!("the whole budget may be spent again");
        }
        return Ok(0);
    }
    put(&show::budget(state)?)?;
    Ok(0)
}
