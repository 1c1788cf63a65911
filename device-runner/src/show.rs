//! What only this device knows, in a form for its owner. Reads the state folder; sends nothing.

use std::fmt::Write;
use std::path::Path;

use crate::error::DeviceError;
use crate::history;
use crate::journal;
use crate::state::State;

/// Everything that left the device, a line a message.
///
/// # Errors
/// [`DeviceError::Input`] where `state` is not a device's folder.
pub fn sent(state: &Path) -> Result<String, DeviceError> {
    let state = State::look(state)?;
    let lines = journal::read(&state.at("sent.jsonl"))?;
    let mut out = String::new();
    for line in &lines {
        if line.repeats > 0 {
            let _ = writeln!(out, "{:>22}  … and {} more times", "", line.repeats);
        }
        let method = line.call.split_once("/v1/").map_or(line.call.clone(), |(m, path)| {
            format!("{m}{}", path.split('/').next().unwrap_or_default())
        });
        let time = line.time.strftime("%Y-%m-%d %H:%M:%SZ");
        let _ =
            writeln!(out, "{time}  {method:<14} {:>9} B  {}  {}", line.bytes, line.digest.short(), line.what);
    }
    let bytes: u64 = lines.iter().map(|l| l.bytes).sum();
    let _ = writeln!(out, "{} messages, {bytes} bytes in all", lines.len());
    Ok(out)
}

/// The last run on this device, or the one of the given name.
///
/// # Errors
/// [`DeviceError::Input`] where `state` is not a device's folder, or knows no such run.
pub fn summary(state: &Path, run: Option<&str>) -> Result<String, DeviceError> {
    let opened = State::look(state)?;
    let entries = history::read(&opened.at("history.jsonl"))?;
    let run = run.map(str::to_owned).or_else(|| entries.last().map(|e| e.run.clone()));
    let run = run.ok_or_else(|| DeviceError::Input("nothing has run on this device yet".into()))?;
    let mut out = String::new();
    for e in entries.iter().filter(|e| e.run == run) {
        let _ = writeln!(out, "{:<20} {:<12} {:>7.1} s  {:?}", e.name, e.ty.to_string(), e.seconds, e.ended);
    }
    Ok(out)
}
