//! `headstart logs`: what stages have written while they ran.

use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::Duration;

use headstart_console::{errln, outln, print};
use headstart_core::EventKind;
use headstart_disk::read;
use headstart_history::Followed;
use headstart_store::Workspace;

use crate::args::Logs;
use crate::exit::CommandError;
use crate::recorded;

/// How often a log is looked at while its run is running.
const POLL_INTERVAL: Duration = Duration::from_millis(200);
/// Bytes that are read at once.
const CHUNK: u64 = 1 << 20;

/// One attempt's log.
struct Log {
    path: PathBuf,
    title: String,
    /// What was printed of it.
    printed: u64,
}

/// Runs the command.
///
/// # Errors
/// If there is no such run or stage, or something cannot be read or written.
pub fn run(ws: &Workspace, args: &Logs) -> Result<(), CommandError> {
    let id = recorded::find(ws, Some(&args.run))?.id;
    let mut followed = Followed::open(ws, &id).map_err(CommandError::input)?;
    let wanted = instances(&followed, &args.stage);
    if wanted.is_empty() {
        let names = followed.run.plan.items.iter().map(|i| i.name.as_str());
        return Err(CommandError::input(format!("run {id} has no stage `{}`", args.stage))
            .help(headstart_console::suggest::help(&args.stage, "its stages", names)));
    }
    let (mut logs, mut seen) = (Vec::new(), 0);
    loop {
        // First whether more may come, then what has come: the end is not missed.
        let live = followed.run.live;
        seen = add(ws, &followed, &wanted, seen, &mut logs);
        let several = logs.len() > 1 || wanted.len() > 1;
        for log in &mut logs {
            log.print_on(several)?;
        }
        if !args.follow || !live {
            break;
        }
        std::thread::sleep(POLL_INTERVAL);
        followed.refresh().map_err(CommandError::input)?;
    }
    if logs.iter().all(|l| l.printed == 0) {
        errln!("the stage wrote nothing");
    }
    Ok(())
}

/// The instances of this name: one, or all of an item.
fn instances(followed: &Followed, stage: &str) -> Vec<u32> {
    let plan = &followed.run.plan;
    let is = |i: &u32| {
        let inst = &plan.instances[*i as usize];
        inst.is_called(stage) || plan.items[inst.item as usize].name == stage
    };
    (0..plan.instances.len() as u32).filter(is).collect()
}

/// Adds the logs of attempts that began since `seen` events.
fn add(ws: &Workspace, followed: &Followed, wanted: &[u32], seen: usize, logs: &mut Vec<Log>) -> usize {
    let events = &followed.run.events;
    for event in &events[seen..] {
        let EventKind::AttemptStarted { instance, attempt, fence, .. } = &event.kind else { continue };
        if wanted.contains(instance) {
            let path = ws.dir().join("runs").join(&followed.run.id).join(format!("logs/{fence}.log"));
            let name = &followed.run.state.instance(*instance).name;
            logs.push(Log { path, title: format!("{name}, attempt {attempt}"), printed: 0 });
        }
    }
    events.len()
}

impl Log {
    /// Prints what is new.
    fn print_on(&mut self, several: bool) -> Result<(), CommandError> {
        loop {
            let text = match self.next() {
                Ok(text) if text.is_empty() => return Ok(()),
                Ok(text) => text,
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
                Err(e) => return Err(unreadable(&self.path, &e)),
            };
            if several && self.printed == 0 {
                outln!("== {}", self.title)?;
            }
            self.printed += text.len() as u64;
            print(&headstart_console::color::safe(&String::from_utf8_lossy(&text), false))?;
        }
    }

    /// Whole lines behind what was printed, or all there is at the end of a long one.
    fn next(&self) -> std::io::Result<Vec<u8>> {
        let mut file = read::open(&self.path)?;
        file.seek(SeekFrom::Start(self.printed))?;
        let mut bytes = read::stream(file.take(CHUNK), CHUNK)?;
        let whole = bytes.iter().rposition(|b| *b == b'\n').map_or(0, |at| at + 1);
        if whole > 0 {
            bytes.truncate(whole);
        } else if (bytes.len() as u64) < CHUNK {
            bytes.clear();
        }
        Ok(bytes)
    }
}

fn unreadable(path: &Path, e: &std::io::Error) -> CommandError {
    CommandError::input(format!("cannot read {}: {}", path.display(), headstart_disk::reason(e)))
}
