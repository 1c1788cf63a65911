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
    /// Whether it has ended with all its threads, and waits to be collected.
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
    let mut process = of_stat(id, &std::fs::read(at.join("stat")).ok()?)?;
    if process.pages == 0 && !process.ended {
        // Its first thread may have ended; what it holds is then told by the others alone.
        let threads = std::fs::read_dir(at.join("task")).into_iter().flatten().flatten();
        let stats =
            threads.filter_map(|thread| of_stat(id, &std::fs::read(thread.path().join("stat")).ok()?));
        process.pages = stats.map(|thread| thread.pages).max().unwrap_or(0);
    }
    Some(process)
}

/// The second field is a name in parentheses, which the process chooses: any bytes but NUL, also `) ` and what is not
/// UTF-8. All that follows is a letter and numbers.
fn of_stat(id: u32, stat: &[u8]) -> Option<Process> {
    let behind_name = stat.iter().rposition(|byte| *byte == b')')? + 1;
    let fields: Vec<&str> =
        std::str::from_utf8(&stat[behind_name..]).ok()?.split_ascii_whitespace().collect();
    let number = |n: usize| fields.get(n).and_then(|f| f.parse().ok());
    Some(Process {
        id,
        parent: number(1)?,
        group: number(2)?,
        // A process whose first thread has ended is shown as if it had ended too, and lives as long as it has others.
        ended: matches!(*fields.first()?, "Z" | "X") && number(17)? <= 1,
        pages: fields.get(21)?.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_seen_whatever_its_name_is() {
        let rest = b" S 7 8 8 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 5 1000000 42 18446744073709551615 1 1";
        for name in [
            &b"python3"[..],
            b"\xff\xfe\xff",
            b"a) Z 1 1 1",
            b")",
            b"(((",
            b"",
            b" ",
            b") R 1 1 1 0 0 0 0",
            b"\xc3)",
            b"x\n) Z",
        ] {
            let stat = [b"9 (", name, b")", rest].concat();
            let found = of_stat(9, &stat).unwrap_or_else(|| panic!("{:?}", String::from_utf8_lossy(name)));
            assert_eq!((found.id, found.parent, found.group, found.pages), (9, 7, 8, 42));
            assert!(!found.ended);
        }
    }

    #[test]
    fn a_process_lives_as_long_as_one_of_its_threads() {
        let ended = |state: &str, threads: u32| {
            let stat = format!("9 (x) {state} 7 8 8 0 -1 0 1 0 0 0 0 0 0 0 20 0 {threads} 0 5 1000000 0 1");
            of_stat(9, stat.as_bytes()).expect("understood").ended
        };
        assert!(ended("Z", 1) && ended("X", 0));
        assert!(!ended("Z", 2) && !ended("S", 1) && !ended("T", 1));
    }
}
