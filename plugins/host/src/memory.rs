//! What programs hold in memory.

/// Resident bytes of all processes of a group, where the system tells: on Linux. Pages that several
/// of them share count for each.
#[cfg(target_os = "linux")]
pub fn of_group(group: u32) -> Option<u64> {
    Some(bytes(crate::processes::all()?.iter().filter(|process| process.group == group)))
}

/// Resident bytes of all that descends from a process.
#[cfg(target_os = "linux")]
pub fn below(root: u32) -> Option<u64> {
    Some(bytes(crate::processes::below(root)?.iter()))
}

#[cfg(target_os = "linux")]
fn bytes<'a>(processes: impl Iterator<Item = &'a crate::processes::Process>) -> u64 {
    processes.map(|process| process.pages).sum::<u64>() * rustix::param::page_size() as u64
}

/// Resident bytes of all processes of a group, where the system tells: not here.
#[cfg(not(target_os = "linux"))]
pub fn of_group(_group: u32) -> Option<u64> {
    None
}
