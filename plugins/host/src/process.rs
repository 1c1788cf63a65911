//! A program's process group and its streams.

use std::io::{ErrorKind, Read, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel, sync_channel};
use std::time::{Duration, Instant};

use headstart_protocol::{Failure, FailureClass};

use crate::confine::{self, Confinement};
use crate::groups::{self, Group};
use crate::lines::{self, Heard};
use crate::memory;
#[cfg(target_os = "linux")]
use crate::{supervise, tree};

/// How long a supervisor may take to end what it keeps.
const ENDING: Duration = Duration::from_secs(5);
/// Lines of a program that are read ahead. A program that writes faster than it is heard waits.
const QUEUE: usize = 64;

/// What to start.
#[derive(Clone, Copy, Debug)]
pub struct Launch<'a> {
    /// The program: a copy, or itself.
    pub program: &'a Path,
    /// Its path in messages: where the user has it.
    pub shown: &'a Path,
    /// The folder that holds the copy of the program and of all that it is made of.
    pub copy: Option<&'a Path>,
    /// Its working folder.
    pub work: &'a Path,
    /// What it may touch; none, if it is not confined.
    pub confinement: Option<&'a Confinement>,
}

/// A running program. Dropping it kills the whole process group.
pub struct Process {
    child: Child,
    /// The number of the program's process group, whoever started it.
    #[cfg(target_os = "linux")]
    program: u32,
    /// Until the program is known to have ended.
    group: Option<Group>,
    status: Option<ExitStatus>,
    stdin: Option<Sender<String>>,
    heard: Receiver<Heard>,
}

impl Process {
    /// Starts a program in its own process group.
    ///
    /// # Errors
    /// Why the system does not start it, and what to do.
    pub fn start(launch: &Launch<'_>) -> Result<Self, Failure> {
        if is_text_without_interpreter(launch.program) {
            return Err(no_program(launch.shown));
        }
        let mut prepared = Prepared::new(launch).map_err(|e| not_started(launch.shown, &e))?;
        let command = &mut prepared.command;
        confine::environment(command, launch.work);
        command.current_dir(launch.work).env("HEADSTART_STAGES", "1");
        // With these the SDK makes absolute paths mean the same in every copy.
        if let Some(copy) = launch.copy {
            command.env("HEADSTART_PROGRAM_COPY", copy);
            command.env("HEADSTART_PROGRAM_FOLDER", launch.shown.parent().unwrap_or(Path::new("/")));
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let Started { mut child, group, program } = prepared.spawn(launch)?;
        #[cfg(not(target_os = "linux"))]
        let _ = program;
        let (tx, heard) = sync_channel(QUEUE);
        if let Some(out) = child.stdout.take() {
            let tx = tx.clone();
            std::thread::spawn(move || lines::read_out(out, &tx));
        }
        if let Some(err) = child.stderr.take() {
            std::thread::spawn(move || lines::read_err(err, &tx));
        }
        let stdin = child.stdin.take().map(writer);
        Ok(Self {
            child,
            #[cfg(target_os = "linux")]
            program,
            group: Some(group),
            status: None,
            stdin,
            heard,
        })
    }

    /// Resident bytes and number of the program and all that it started, where the system tells. Without a supervisor,
    /// of the process group.
    pub fn usage(&self) -> Option<memory::Usage> {
        #[cfg(target_os = "linux")]
        if self.group.as_ref().is_some_and(Group::is_supervised) {
            return memory::below(self.child.id());
        }
        memory::of_group(self.child.id())
    }

    /// Sends a line, without waiting until it is read. A program that does not read shows by what
    /// it does, or does not do.
    pub fn send(&mut self, line: String) {
        if self.stdin.as_ref().is_some_and(|stdin| stdin.send(line).is_err()) {
            self.stdin = None;
        }
    }

    /// Closes its standard input, behind what was sent: nothing more is asked.
    pub fn close(&mut self) {
        self.stdin = None;
    }

    /// The next line of the program, if it comes in time.
    pub fn listen(&self, patience: Duration) -> Option<Heard> {
        self.heard.recv_timeout(patience).ok()
    }

    /// How it ended, if it has. Then nothing runs any more of what it left running: a supervisor ends last, and where
    /// there is none, or it was killed, the group is killed and waited for.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        if self.status.is_none() && has_exited(&mut self.child) {
            // The group is killed before the program's number is given back to the system: later
            // the number may be that of another group.
            if let Some(group) = self.group.take() {
                group.kill();
                self.end_abandoned(&group);
            }
            self.status = self.child.wait().ok();
            groups::hold_while_exiting();
        }
        self.status
    }

    /// Ends what a supervisor has left, or would have ended: one that ended by itself has left nothing.
    #[cfg(target_os = "linux")]
    fn end_abandoned(&self, group: &Group) {
        if !group.is_supervised() || was_killed(&self.child) {
            tree::kill_abandoned(self.program);
        }
    }

    #[cfg(not(target_os = "linux"))]
    fn end_abandoned(&self, _group: &Group) {}
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Some(group) = self.group.take() {
            group.kill();
            if group.is_supervised() {
                self.wait_for_supervisor();
            }
            // Where there are no groups, and where a supervisor does not end, such as one that is stopped.
            let _ = self.child.kill();
            while !group.is_supervised() && !has_exited(&mut self.child) {
                std::thread::sleep(Duration::from_millis(1));
            }
            self.end_abandoned(&group);
        }
        if self.status.is_none() {
            let _ = self.child.wait();
        }
    }
}

impl Process {
    /// Waits until the supervisor has ended what it keeps, and itself.
    fn wait_for_supervisor(&mut self) {
        let by = Instant::now() + ENDING;
        while !has_exited(&mut self.child) && Instant::now() < by {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// A command that is about to be started.
struct Prepared {
    command: Command,
    /// Both ends of the socket of a supervisor, this one and its own.
    #[cfg(target_os = "linux")]
    supervisor: Option<(groups::Supervisor, std::os::unix::net::UnixStream)>,
}

/// What was started.
struct Started {
    /// The supervisor, or the program where there is none.
    child: Child,
    group: Group,
    /// The program's own number.
    program: u32,
}

impl Prepared {
    #[cfg(target_os = "linux")]
    fn new(launch: &Launch<'_>) -> std::io::Result<Self> {
        if !supervise::is_available() {
            return Ok(Self { command: Command::new(launch.program), supervisor: None });
        }
        let (ours, its) = std::os::unix::net::UnixStream::pair()?;
        Ok(Self { command: supervise::command(&its), supervisor: Some((ours.into(), its)) })
    }

    #[cfg(not(target_os = "linux"))]
    fn new(launch: &Launch<'_>) -> std::io::Result<Self> {
        Ok(Self { command: Command::new(launch.program) })
    }

    fn spawn(mut self, launch: &Launch<'_>) -> Result<Started, Failure> {
        #[cfg(target_os = "linux")]
        if let Some((ours, its)) = self.supervisor {
            let started = spawn(&mut self.command, Some(ours.clone()));
            let (mut child, group) = started.map_err(|e| not_started(launch.shown, &e))?;
            drop(its);
            let begun = begin_supervised(&ours, launch);
            if begun.is_err() {
                // It has nothing to keep, and ends.
                group.kill();
                let _ = child.wait();
            }
            return begun.map(|program| Started { child, group, program });
        }
        if let Some(confinement) = launch.confinement {
            confine::confine(&mut self.command, launch.program, confinement)
                .map_err(|e| not_confined(launch.shown, &e))?;
        }
        let (child, group) = spawn(&mut self.command, None).map_err(|e| not_started(launch.shown, &e))?;
        let program = child.id();
        Ok(Started { child, group, program })
    }
}

/// Has a supervisor start the program, and gives the program's number.
#[cfg(target_os = "linux")]
fn begin_supervised(supervisor: &groups::Supervisor, launch: &Launch<'_>) -> Result<u32, Failure> {
    use supervise::StartError;
    supervise::begin(supervisor, launch.program, launch.confinement).map_err(|e| match e {
        StartError::Confine(e) => not_confined(launch.shown, &e),
        StartError::Start(e) => not_started(launch.shown, &e),
    })
}

/// Whether a child that has exited was killed, without taking its status.
#[cfg(target_os = "linux")]
fn was_killed(child: &Child) -> bool {
    use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};
    let Some(pid) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) else { return true };
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    !matches!(waitid(WaitId::Pid(pid), options), Ok(Some(status)) if status.exited())
}

/// Whether a child has exited, without taking its status.
#[cfg(all(unix, not(any(target_os = "openbsd", target_os = "redox"))))]
fn has_exited(child: &mut Child) -> bool {
    use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};
    let Some(pid) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) else { return false };
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    matches!(waitid(WaitId::Pid(pid), options), Ok(Some(_)))
}

#[cfg(not(all(unix, not(any(target_os = "openbsd", target_os = "redox")))))]
fn has_exited(child: &mut Child) -> bool {
    matches!(child.try_wait(), Ok(Some(_)))
}

/// Writes lines from a separate thread: a program that never reads its input must not keep its
/// runner from stopping it.
fn writer(mut stdin: ChildStdin) -> Sender<String> {
    let (tx, rx) = channel::<String>();
    std::thread::spawn(move || {
        for line in rx {
            let written = stdin.write_all(line.as_bytes()).and_then(|()| stdin.write_all(b"\n"));
            if written.and_then(|()| stdin.flush()).is_err() {
                return;
            }
        }
    });
    tx
}

fn spawn(command: &mut Command, supervisor: Option<groups::Supervisor>) -> std::io::Result<(Child, Group)> {
    for _ in 0..100 {
        match groups::spawn(command, supervisor.clone()) {
            // Another thread's child may still hold the file open for writing, for a moment.
            Err(e) if e.kind() == ErrorKind::ExecutableFileBusy => {
                std::thread::sleep(Duration::from_millis(10));
            }
            done => return done,
        }
    }
    groups::spawn(command, supervisor)
}

/// A text that may be executed and does not name its interpreter: some systems would have a shell
/// read it. One that may not be executed is refused for that.
fn is_text_without_interpreter(program: &Path) -> bool {
    let mut head = Vec::new();
    let read = headstart_disk::read::open(program).and_then(|file| file.take(512).read_to_end(&mut head));
    let is_text = !head.starts_with(b"#!") && !head.contains(&0) && std::str::from_utf8(&head).is_ok();
    read.is_ok() && is_text && is_executable(program)
}

#[cfg(unix)]
fn is_executable(program: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    std::fs::metadata(program).is_ok_and(|facts| facts.permissions().mode() & 0o111 != 0)
}

#[cfg(not(unix))]
fn is_executable(_program: &Path) -> bool {
    true
}

fn no_program(at: &Path) -> Failure {
    Failure::input(format!("{} is no program that this machine can execute", at.display()))
        .help("begin a script with a line such as `#!/usr/bin/env python3`")
}

fn not_confined(program: &Path, e: &std::io::Error) -> Failure {
    let m = format!("{} is not started, because it cannot be confined: {e}", program.display());
    Failure::new(FailureClass::Transient, m)
        .help("`headstart run --unconfined-stages` starts programs with all your rights")
}

fn not_started(program: &Path, e: &std::io::Error) -> Failure {
    let at = program.display();
    // The number that Unix systems have for a file that is no program.
    let is_no_program = e.raw_os_error() == Some(8);
    match e.kind() {
        ErrorKind::NotFound if program.exists() => {
            Failure::input(format!("{at}: the interpreter that its first line names is not on this machine"))
                .help("install it, or change the first line, as in `#!/usr/bin/env python3`")
        }
        ErrorKind::NotFound => Failure::input(format!("there is no program {at}")),
        ErrorKind::PermissionDenied => {
            Failure::input(format!("{at} may not be executed")).help(format!("`chmod +x {at}` allows it"))
        }
        ErrorKind::OutOfMemory | ErrorKind::WouldBlock => {
            let m = format!("{at} is not started: {e}");
            Failure::new(FailureClass::Environment, m)
                .help("memory or processes are used up: end something, then run the same command again")
        }
        ErrorKind::Interrupted => {
            Failure::new(FailureClass::Cancelled, format!("{at} is not started: the runner is stopping"))
        }
        _ if is_no_program => no_program(program),
        _ => Failure::new(FailureClass::Transient, format!("{at} cannot be started: {e}")),
    }
}
