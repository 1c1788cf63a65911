//! The conversation with a program, and every way in which it can go wrong.
//!
//! Cancellation, memory and the end of the program are looked at on a clock, whatever the program
//! or a process that it started writes meanwhile.

use std::collections::VecDeque;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use headstart_protocol::declared::STAGE_PROTOCOL;
use headstart_protocol::{Failure, FailureClass};

use crate::lines::Heard;
use crate::message::{FEATURES, FromProgram, Line, ToProgram, begins_like_a_message};
use crate::process::{Launch, Process};

/// Lines of a program that are repeated when it fails.
const LAST_OUTPUT: usize = 5;
/// How often cancellation and the end of the program are looked at.
const POLL_INTERVAL: Duration = Duration::from_millis(50);
/// How often its memory is measured, and its processes are counted.
const MEMORY_INTERVAL: Duration = Duration::from_millis(250);
/// How long streams may stay open behind a program that has ended and whose group is killed: a
/// process that left the group may hold them.
const DRAIN: Duration = Duration::from_secs(2);

/// How long a program may take for what it owes, and whether it is confined.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// To say hello: its imports lie before that.
    pub hello: Duration,
    /// To end after it was told to stop, or was done.
    pub grace: Duration,
    /// Whether it may touch only what [`crate::confine`] lists.
    pub confined: bool,
    /// Processes that it may have at a time, itself among them, where the system tells.
    pub processes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            hello: Duration::from_secs(120),
            grace: Duration::from_secs(5),
            confined: true,
            processes: 1000,
        }
    }
}

/// Who listens to a session.
pub struct Around<'a> {
    /// Takes lines for the log.
    pub log: &'a dyn Fn(&str),
    /// Whether the program should stop.
    pub cancelled: &'a dyn Fn() -> bool,
    /// Bytes of memory that the program's group may hold.
    pub memory: Option<u64>,
}

/// A program that runs, and what it said last.
pub struct Session<'a> {
    /// The program's name, for messages.
    name: String,
    process: Process,
    around: Around<'a>,
    limits: Limits,
    last_output: VecDeque<String>,
    out_open: bool,
    err_open: bool,
    polled: Option<Instant>,
    weighed: Instant,
    /// How the program ended, and until when its streams are read.
    ended: Option<(ExitStatus, Instant)>,
}

/// What came next.
pub enum Next {
    /// A message.
    Message(FromProgram),
    /// The program ended, and everything that it wrote was heard.
    Ended(ExitStatus),
}

impl<'a> Session<'a> {
    /// Starts a program.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn start(launch: &Launch<'_>, around: Around<'a>, limits: Limits) -> Result<Self, Failure> {
        let name = launch.shown.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Ok(Self {
            name,
            process: Process::start(launch)?,
            around,
            limits,
            last_output: VecDeque::new(),
            out_open: true,
            err_open: true,
            polled: None,
            weighed: Instant::now(),
            ended: None,
        })
    }

    /// Sends a message. Does not wait until the program reads it.
    pub fn send(&mut self, message: &ToProgram<'_>) {
        self.process.send(serde_json::to_string(message).expect("messages always serialize"));
    }

    /// The exchange of hellos.
    ///
    /// # Errors
    /// If the program says something else, nothing, or another version.
    pub fn hello(&mut self) -> Result<FromProgram, Failure> {
        self.send(&ToProgram::Hello { protocol: STAGE_PROTOCOL, features: FEATURES });
        let by = Instant::now() + self.limits.hello;
        let help = "a program says hello first; with the Python SDK, it ends with `headstart.main()`";
        match self.next(Some(by))? {
            Some(Next::Message(hello @ FromProgram::Hello { .. })) => {
                if let FromProgram::Hello { protocol, .. } = hello
                    && protocol != STAGE_PROTOCOL
                {
                    return Err(self.failure(format!(
                        "speaks version {protocol} of the stage protocol, and this runner version {STAGE_PROTOCOL}"
                    ))
                    .help("use the SDK of this version of Headstart: `headstart describe --sdk`"));
                }
                Ok(hello)
            }
            Some(Next::Message(_)) => Err(self.failure("said something before it said hello").help(help)),
            Some(Next::Ended(status)) => Err(self.ended_badly(status, " before it said hello").help(help)),
            None => {
                let s = self.limits.hello.as_secs_f64();
                Err(self.may_pass(format!("did not say hello within {s} s")).help(help))
            }
        }
    }

    /// The next message, or the program's end; `None` when that does not come by `deadline`.
    ///
    /// # Errors
    /// If it sends an unknown message, holds too much memory, or is to stop.
    pub fn next(&mut self, deadline: Option<Instant>) -> Result<Option<Next>, Failure> {
        loop {
            if let Some((status, until)) = self.ended {
                return self.drain(status, until).map(Some);
            }
            if self.polled.is_none_or(|p| p.elapsed() >= POLL_INTERVAL) {
                self.polled = Some(Instant::now());
                // First: what a program had finished before it was told to stop counts.
                if self.look_for_end() {
                    continue;
                }
                if (self.around.cancelled)() {
                    return Err(self.stop());
                }
                self.weigh()?;
            }
            if let Some(heard) = self.process.listen(POLL_INTERVAL)
                && let Some(message) = self.take(heard)?
            {
                return Ok(Some(Next::Message(message)));
            }
            if deadline.is_some_and(|d| Instant::now() >= d) {
                return Ok(None);
            }
        }
    }

    fn look_for_end(&mut self) -> bool {
        if self.ended.is_none() {
            self.ended = self.process.ended().map(|status| (status, Instant::now() + DRAIN));
        }
        self.ended.is_some()
    }

    /// The rest of the streams of a program that has ended.
    fn drain(&mut self, status: ExitStatus, until: Instant) -> Result<Next, Failure> {
        while (self.out_open || self.err_open) && Instant::now() < until {
            if let Some(heard) = self.process.listen(POLL_INTERVAL)
                && let Some(message) = self.take(heard)?
            {
                return Ok(Next::Message(message));
            }
        }
        Ok(Next::Ended(status))
    }

    fn take(&mut self, heard: Heard) -> Result<Option<FromProgram>, Failure> {
        match heard {
            Heard::OutClosed => self.out_open = false,
            Heard::ErrClosed => self.err_open = false,
            Heard::Err(line) => self.log(line),
            Heard::TooLong(begin) if begins_like_a_message(&begin) => {
                return Err(self
                    .failure("sent a message of more than 1 MiB")
                    .help("messages are small: write data into files of the scratch folder"));
            }
            Heard::TooLong(begin) => self.log(format!("{begin}… (the rest of the line is left out)")),
            Heard::Out(line, true) => match Line::of(&line) {
                Line::Message(FromProgram::Log { message }) => (self.around.log)(&message),
                Line::Message(FromProgram::Unknown) => {
                    (self.around.log)(&format!("(a message that this runner does not know: {line})"));
                }
                Line::Message(message) => return Ok(Some(message)),
                Line::Broken(why) => {
                    let m = format!("sent a message that is not understood: {why}: {}", shortened(&line));
                    return Err(self.failure(m));
                }
                Line::Noise => self.log(line),
            },
            Heard::Out(line, false) if begins_like_a_message(&line) => {
                let m = format!("stopped in the middle of a message: {}", shortened(&line));
                return Err(self.may_pass(m));
            }
            Heard::Out(line, false) => self.log(line),
        }
        Ok(None)
    }

    fn log(&mut self, line: String) {
        (self.around.log)(&line);
        if !line.trim().is_empty() {
            self.last_output.push_back(shortened(&line));
        }
        if self.last_output.len() > LAST_OUTPUT {
            self.last_output.pop_front();
        }
    }

    fn weigh(&mut self) -> Result<(), Failure> {
        if self.weighed.elapsed() < MEMORY_INTERVAL {
            return Ok(());
        }
        self.weighed = Instant::now();
        let Some(used) = self.process.usage() else { return Ok(()) };
        let most = self.limits.processes;
        if used.processes > most {
            let m = format!("has {} processes, and may have {most}", used.processes);
            return Err(self.failure(m).help("start fewer at a time, and wait for those that have ended"));
        }
        match self.around.memory {
            Some(limit) if used.bytes > limit => {
                let m = format!("holds {} MiB of memory, and may use {} MiB", used.bytes >> 20, limit >> 20);
                let failure = Failure::new(FailureClass::Memory, self.sentence(&m));
                Err(failure.help("raise `memory:` in its settings block"))
            }
            _ => Ok(()),
        }
    }

    /// Tells the program to stop, waits a little, and leaves it to be killed.
    fn stop(&mut self) -> Failure {
        self.send(&ToProgram::Cancel);
        let by = Instant::now() + self.limits.grace;
        let mut polled = Instant::now();
        while Instant::now() < by {
            if polled.elapsed() >= POLL_INTERVAL {
                polled = Instant::now();
                if self.process.ended().is_some() {
                    break;
                }
            }
            if let Some(Heard::Err(line) | Heard::Out(line, _)) = self.process.listen(POLL_INTERVAL)
                && Line::of(&line) == Line::Noise
            {
                self.log(line);
            }
        }
        Failure::new(FailureClass::Cancelled, format!("`{}` was told to stop", self.name))
    }

    /// Waits for the end of a program that owes nothing but that.
    ///
    /// # Errors
    /// If it does not end in time.
    pub fn end(&mut self) -> Result<ExitStatus, Failure> {
        self.process.close();
        let by = Instant::now() + self.limits.grace;
        loop {
            match self.next(Some(by))? {
                Some(Next::Ended(status)) => return Ok(status),
                Some(Next::Message(_)) => {}
                None => {
                    let s = self.limits.grace.as_secs_f64();
                    return Err(self
                        .may_pass(format!("was done, but did not end within {s} s"))
                        .help("a thread that it started may still run: end it before the stage returns"));
                }
            }
        }
    }

    /// A failure that would come again: the program does not keep to the protocol.
    pub fn failure(&self, what: impl AsRef<str>) -> Failure {
        Failure::input(self.sentence(what.as_ref()))
    }

    /// A failure that may pass, which `retry:` tries again.
    pub fn may_pass(&self, what: impl AsRef<str>) -> Failure {
        Failure::new(FailureClass::Transient, self.sentence(what.as_ref()))
    }

    /// A failure by the way the program ended. Nobody knows what an exit status or a signal means,
    /// so `retry:` tries again; one that somebody killed is lost.
    pub fn ended_badly(&self, status: ExitStatus, then: &str) -> Failure {
        let what = format!("{}{then}", ended(status));
        if was_killed(status) {
            return Failure::new(FailureClass::Lost, self.sentence(&what));
        }
        self.may_pass(what)
    }

    fn sentence(&self, what: &str) -> String {
        let mut text = format!("`{}` {what}", self.name);
        if !self.last_output.is_empty() {
            text += "; last output:";
            for line in &self.last_output {
                text += &format!("\n  {line}");
            }
        }
        text
    }
}

/// Whether somebody killed it: a person, or a system that ran out of memory. A shell that started it, as that of a
/// version manager does, ends with 128 and the number of the signal.
fn was_killed(status: ExitStatus) -> bool {
    #[cfg(unix)]
    return matches!(std::os::unix::process::ExitStatusExt::signal(&status), Some(9 | 15))
        || matches!(status.code(), Some(137 | 143));
    #[cfg(not(unix))]
    return false;
}

/// How a program ended, in words.
pub fn ended(status: ExitStatus) -> String {
    #[cfg(unix)]
    if let Some(signal) = std::os::unix::process::ExitStatusExt::signal(&status) {
        let out_of_memory = if signal == 9 { ", as systems do that run out of memory" } else { "" };
        return format!("was killed by signal {signal}{out_of_memory},");
    }
    match status.code() {
        Some(code) => format!("ended with exit status {code}"),
        None => "ended".to_owned(),
    }
}

fn shortened(line: &str) -> String {
    const LONGEST: usize = 200;
    match line.char_indices().nth(LONGEST) {
        Some((at, _)) => format!("{}…", &line[..at]),
        None => line.to_owned(),
    }
}
