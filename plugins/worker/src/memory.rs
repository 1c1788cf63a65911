//! What a worker holds in memory, and may hold.

use std::fs::File;
use std::sync::OnceLock;

/// Memory of a worker beside what its attempt may use: its program, and what it reads along the way.
pub(crate) const ALLOWANCE: u64 = 32 << 20;
/// Address space for stacks and for what allocators keep, beside what is used: for each processor.
const SLACK: u64 = 8 << 20;

/// Bytes that an attempt may use for which the pipeline sets no limit: three quarters of the machine's memory,
/// or of what the system leaves to this process. `None` where the system does not tell.
pub(crate) fn share_of_machine() -> Option<u64> {
    static SHARE: OnceLock<Option<u64>> = OnceLock::new();
    *SHARE.get_or_init(|| memory_of_machine().map(|total| total / 4 * 3))
}

#[cfg(target_os = "linux")]
fn memory_of_machine() -> Option<u64> {
    let info = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = info.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let total = line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)?;
    Some(control_group().map_or(total, |most| total.min(most)))
}

/// The limit of this process's control group, or of one above it.
#[cfg(target_os = "linux")]
fn control_group() -> Option<u64> {
    let groups = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    let own = groups.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let root = std::path::Path::new("/sys/fs/cgroup");
    let own = root.join(own);
    let above = own.ancestors().take_while(|at| at.starts_with(root));
    above.filter_map(|at| std::fs::read_to_string(at.join("memory.max")).ok()?.trim().parse().ok()).min()
}

#[cfg(not(target_os = "linux"))]
fn memory_of_machine() -> Option<u64> {
    None
}

/// Tells what a process holds, where the system does.
#[derive(Debug)]
pub(crate) struct Gauge(
    #[cfg_attr(not(target_os = "linux"), expect(dead_code, reason = "nothing tells"))] Option<File>,
);

impl Gauge {
    /// That of a process.
    pub(crate) fn of(process: u32) -> Self {
        Self(File::open(format!("/proc/{process}/statm")).ok())
    }

    /// The fields of `statm` in bytes: size, resident, shared, text, libraries, data.
    #[cfg(target_os = "linux")]
    fn fields(&self) -> Option<[u64; 6]> {
        use std::os::unix::fs::FileExt;
        // Kept open: each attempt looks, and opening takes longer than reading.
        let mut text = [0; 200];
        let n = self.0.as_ref()?.read_at(&mut text, 0).ok()?;
        let text = std::str::from_utf8(text.get(..n)?).ok()?;
        let page = rustix::param::page_size() as u64;
        let mut fields = [0; 6];
        let mut given = text.split_ascii_whitespace();
        for field in &mut fields {
            *field = given.next()?.parse::<u64>().ok()?.checked_mul(page)?;
        }
        Some(fields)
    }

    #[cfg(not(target_os = "linux"))]
    fn fields(&self) -> Option<[u64; 6]> {
        None
    }

    /// Bytes that the process took. Pages of files do not count: the system takes them back whenever it likes.
    pub(crate) fn held(&self) -> Option<u64> {
        self.fields().map(|[_, resident, shared, ..]| resident.saturating_sub(shared))
    }

    /// Bytes of address space that count against [`limit_this_process`].
    pub(crate) fn data(&self) -> Option<u64> {
        self.fields().map(|fields| fields[5])
    }
}

/// Has the kernel refuse this process, which has `data` bytes and uses so many `processors`, more than `most`
/// bytes beside them.
#[cfg(target_os = "linux")]
pub(crate) fn limit_this_process(data: u64, most: u64, processors: u64) {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let soft = data.saturating_add(most).saturating_add(ALLOWANCE + SLACK * processors);
    let hard = getrlimit(Resource::Data).maximum;
    let soft = hard.map_or(soft, |hard| soft.min(hard));
    // Where it is refused, the runner's look at what the worker holds remains.
    let _ = setrlimit(Resource::Data, Rlimit { current: Some(soft), maximum: hard });
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn limit_this_process(_data: u64, _most: u64, _processors: u64) {}
