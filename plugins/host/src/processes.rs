//! The processes of this machine, as `/proc` lists them (Linux).

use std::path::Path;

/// A process.
pub struct Process {
    /// Its number.
    pub id: u32,
    /// Its parent's.
    pub parent: u32,
    /// Its group's.
    pub group: u32,
    /// Whether it has ended, and waits to be collected.
    pub ended: bool,
    /// Pages that it holds in memory. Those that several processes share count for each.
    pub pages: u64,
}

/// All processes.
pub fn all() -> Option<Vec<Process>> {
    Some(std::fs::read_dir("/proc").ok()?.flatten().filter_map(|entry| read(&entry.path())).collect())
}

/// All that descends from a process, which is not among them.
pub fn below(root: u32) -> Option<Vec<Process>> {
    let (mut others, mut found, mut parents) = (all()?, Vec::new(), vec![root]);
    while let Some(parent) = parents.pop() {
        let (children, rest): (Vec<_>, Vec<_>) = others.into_iter().partition(|p| p.parent == parent);
        parents.extend(children.iter().map(|child| child.id));
        found.extend(children);
        others = rest;
    }
    Some(found)
}

/// What `/proc/ID/stat` says; nothing for what is no process, or has ended meanwhile.
fn read(at: &Path) -> Option<Process> {
    let id = at.file_name()?.to_str()?.parse().ok()?;
    let stat = std::fs::read_to_string(at.join("stat")).ok()?;
    // The second field is a name in parentheses that may hold anything.
    let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split(' ').collect();
    let number = |n: usize| fields.get(n).and_then(|f| f.parse().ok());
    Some(Process {
        id,
        parent: number(1)?,
        group: number(2)?,
        ended: matches!(*fields.first()?, "Z" | "X"),
        pages: fields.get(21)?.parse().ok()?,
    })
}
