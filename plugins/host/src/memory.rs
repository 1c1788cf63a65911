//! What a process group holds in memory.

/// Resident bytes of all processes of a group, where the system tells: on Linux. Pages that several
/// of them share count for each.
#[cfg(target_os = "linux")]
pub fn of_group(group: u32) -> Option<u64> {
    let mut pages = 0u64;
    for entry in std::fs::read_dir("/proc").ok()?.flatten() {
        let numeric = entry.file_name().to_string_lossy().bytes().all(|b| b.is_ascii_digit());
        if !numeric {
            continue;
        }
        // A process may end meanwhile.
        let Ok(stat) = std::fs::read_to_string(entry.path().join("stat")) else { continue };
        // The second field is a name in parentheses that may hold anything.
        let Some((_, fields)) = stat.rsplit_once(") ") else { continue };
        let fields: Vec<&str> = fields.split(' ').collect();
        let number = |n: usize| fields.get(n).and_then(|f| f.parse::<u64>().ok());
        if number(2) == Some(u64::from(group)) {
            pages += number(21).unwrap_or(0);
        }
    }
    Some(pages * rustix::param::page_size() as u64)
}

/// Resident bytes of all processes of a group, where the system tells: not here.
#[cfg(not(target_os = "linux"))]
pub fn of_group(_group: u32) -> Option<u64> {
    None
}
