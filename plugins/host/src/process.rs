//! A program's process group and its streams.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use headstart_protocol::{Failure, FailureClass};

/// Longest line that is read whole, in bytes: messages are small, data goes into files.
pub const LONGEST_LINE: usize = 1 << 20;

/// Lines that wait to be heard.
const QUEUE: usize = 64;

/// What a program wrote.
#[derive(Debug)]
pub enum Said {
    /// A line on standard output, without its end; whether it ended with a newline.
    Out(String, bool),
    /// A line on standard error.
    Err(String),
    /// A line on standard output that is too long: how it begins.
    TooLong(String),
    /// Standard output is closed.
    OutClosed,
    /// Standard error is closed.
    ErrClosed,
}

/// A running program. Dropping it kills the whole process group.
pub struct Process {
    child: Child,
    stdin: Option<ChildStdin>,
    said: Receiver<Said>,
}

impl Process {
    /// Starts a program in a process group of its own.
    ///
    /// # Errors
    /// Why the system does not start it, and what to do.
    pub fn start(program: &Path, folder: &Path) -> Result<Self, Failure> {
        let mut command = Command::new(program);
        command.current_dir(folder).env("HEADSTART_STAGES", "1");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        #[cfg(unix)]
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let mut child = spawn(&mut command).map_err(|e| not_started(program, &e))?;
        // Bounded: a program that talks faster than it is heard waits.
        let (tx, said) = sync_channel(QUEUE);
        let stdin = child.stdin.take();
        if let Some(out) = child.stdout.take() {
            let tx = tx.clone();
            std::thread::spawn(move || read_out(out, &tx));
        }
        if let Some(err) = child.stderr.take() {
            std::thread::spawn(move || read_err(err, &tx));
        }
        Ok(Self { child, stdin, said })
    }

    /// Number of the process, and of its group.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends a line. A program that no longer listens shows by how it ends.
    pub fn send(&mut self, line: &str) {
        if let Some(stdin) = &mut self.stdin {
            let sent = stdin.write_all(format!("{line}\n").as_bytes()).and_then(|()| stdin.flush());
            if sent.is_err() {
                self.stdin = None;
            }
        }
    }

    /// Closes its standard input: nothing more is asked.
    pub fn close(&mut self) {
        self.stdin = None;
    }

    /// What it says next, if it says something in time.
    pub fn listen(&self, patience: Duration) -> Option<Said> {
        self.said.recv_timeout(patience).ok()
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Kills the group: the program, and whatever it started that stayed in the group.
    pub fn kill(&mut self) {
        #[cfg(unix)]
        if let Some(group) = i32::try_from(self.child.id()).ok().and_then(rustix::process::Pid::from_raw) {
            // Gone already is as good.
            let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        }
        let _ = self.child.kill();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        let _ = self.child.wait();
    }
}

fn spawn(command: &mut Command) -> std::io::Result<Child> {
    for _ in 0..20 {
        match command.spawn() {
            // Another thread's child may still hold the file open for writing, for a moment.
            Err(e) if e.kind() == ErrorKind::ExecutableFileBusy => {
                std::thread::sleep(Duration::from_millis(10));
            }
            done => return done,
        }
    }
    command.spawn()
}

fn not_started(program: &Path, e: &std::io::Error) -> Failure {
    let at = program.display();
    // The number that Unix systems have for a file that is no program.
    let no_program = e.raw_os_error() == Some(8);
    match e.kind() {
        ErrorKind::NotFound if program.exists() => {
            Failure::input(format!("{at}: the interpreter that its first line names is not on this machine"))
                .help("install it, or change the first line, as in `#!/usr/bin/env python3`")
        }
        ErrorKind::NotFound => Failure::input(format!("there is no program {at}")),
        ErrorKind::PermissionDenied => {
            Failure::input(format!("{at} may not be executed")).help(format!("`chmod +x {at}` allows it"))
        }
        _ if no_program => Failure::input(format!("{at} is no program that this machine can execute"))
            .help("begin a script with a line such as `#!/usr/bin/env python3`"),
        _ => Failure::new(FailureClass::Transient, format!("{at} cannot be started: {e}")),
    }
}

/// One line of at most [`LONGEST_LINE`] bytes, and whether it was complete; the rest is skipped.
fn line(reader: &mut impl BufRead) -> std::io::Result<Option<(Vec<u8>, End)>> {
    let mut bytes = Vec::new();
    let n = reader.by_ref().take(LONGEST_LINE as u64).read_until(b'\n', &mut bytes)?;
    if n == 0 {
        return Ok(None);
    }
    if bytes.last() == Some(&b'\n') {
        bytes.pop();
        if bytes.last() == Some(&b'\r') {
            bytes.pop();
        }
        return Ok(Some((bytes, End::Newline)));
    }
    if n < LONGEST_LINE {
        return Ok(Some((bytes, End::Nothing)));
    }
    loop {
        let buffer = reader.fill_buf()?;
        let (len, found) = match buffer.iter().position(|b| *b == b'\n') {
            Some(at) => (at + 1, true),
            None => (buffer.len(), buffer.is_empty()),
        };
        reader.consume(len);
        if found {
            return Ok(Some((bytes, End::Cut)));
        }
    }
}

enum End {
    Newline,
    Nothing,
    Cut,
}

fn read_out(out: impl Read, to: &SyncSender<Said>) {
    let mut reader = BufReader::new(out);
    while let Ok(Some((bytes, end))) = line(&mut reader) {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let said = match end {
            End::Newline => Said::Out(text, true),
            End::Nothing => Said::Out(text, false),
            End::Cut => Said::TooLong(text.chars().take(200).collect()),
        };
        if to.send(said).is_err() {
            return;
        }
    }
    let _ = to.send(Said::OutClosed);
}

fn read_err(err: impl Read, to: &SyncSender<Said>) {
    let mut reader = BufReader::new(err);
    while let Ok(Some((bytes, _))) = line(&mut reader) {
        if to.send(Said::Err(String::from_utf8_lossy(&bytes).into_owned())).is_err() {
            return;
        }
    }
    let _ = to.send(Said::ErrClosed);
}
