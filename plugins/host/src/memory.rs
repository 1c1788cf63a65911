//! What programs hold in memory, and how many processes they are.

/// What a program and all that it started use.
#[derive(Clone, Copy, Debug)]
pub struct Usage {
    /// Resident bytes. Pages that several processes share count for each.
    pub bytes: u64,
    /// Processes, those that ended and were not collected among them.
    pub processes: usize,
}

/// What all processes of a group use, where the system tells: on Linux.
#[cfg(target_os = "linux")]
pub fn of_group(group: u32) -> Option<Usage> {
    Some(usage(crate::processes::all()?.iter().filter(|process| process.group == group)))
}

/// What all that descends from a process uses.
#[cfg(target_os = "linux")]
pub fn below(root: u32) -> Option<Usage> {
    Some(usage(crate::processes::below(root)?.iter()))
}

#[cfg(target_os = "linux")]
fn usage<'a>(all: impl Iterator<Item = &'a crate::processes::Process>) -> Usage {
    let (pages, processes) =
        all.fold((0u64, 0), |(pages, n), process| (pages.saturating_add(process.pages), n + 1));
    Usage { bytes: pages.saturating_mul(rustix::param::page_size() as u64), processes }
}

/// What all processes of a group use, where the system tells: not here.
#[cfg(not(target_os = "linux"))]
pub fn of_group(_group: u32) -> Option<Usage> {
    None
}
