//! What the device says of itself. Nothing that names its owner: no host name, no address.

use std::collections::BTreeMap;

use headstart_protocol::wire::Facts;

/// Facts as they are now; `holds` are the conditions that the owner vouches for, and `generation`
/// how often it asked for everything to be tried again.
pub fn facts(threads: usize, memory: Option<u64>, holds: &[String], generation: u64) -> Facts {
    let mut holds = holds.to_vec();
    if on_mains() && !holds.iter().any(|h| h == "charging") {
        holds.push("charging".into());
    }
    holds.sort();
    let os = (String::from("os"), std::env::consts::OS.to_owned());
    let arch = (String::from("arch"), std::env::consts::ARCH.to_owned());
    Facts {
        threads: u32::try_from(threads).unwrap_or(u32::MAX),
        memory: memory.or_else(installed_memory).unwrap_or(0),
        holds,
        generation,
        approvals: 0,
        other: BTreeMap::from([os, arch]),
    }
}

/// Bytes of memory that the machine has.
fn installed_memory() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|l| l.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

/// Whether a supply that is no battery says that it is on-line.
fn on_mains() -> bool {
    let Ok(supplies) = std::fs::read_dir("/sys/class/power_supply") else { return false };
    let reads = |at: std::path::PathBuf, what: &str| {
        std::fs::read_to_string(at).is_ok_and(|text| text.trim() == what)
    };
    supplies.flatten().any(|s| reads(s.path().join("type"), "Mains") && reads(s.path().join("online"), "1"))
}
