//! The conversation with a program, and every way in which it can go wrong.

use std::collections::VecDeque;
use std::path::Path;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use headstart_protocol::declared::STAGE_PROTOCOL;
use headstart_protocol::{Failure, FailureClass};

use crate::memory;
use crate::message::{FEATURES, FromProgram, Line, ToProgram, begins_like_a_message};
use crate::process::{Process, Said};

/// Lines of a program that are repeated when it fails.
const LAST_WORDS: usize = 5;
/// How often a program's state is looked at while it is silent.
const TICK: Duration = Duration::from_millis(50);
/// How often its memory is looked at.
const WEIGHED: Duration = Duration::from_millis(250);
/// How long streams may stay open behind a program that has ended and whose group is killed.
const DRAIN: Duration = Duration::from_secs(2);

/// How long a program may take for what it owes.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// To say hello: its imports lie before that.
    pub hello: Duration,
    /// To end after it was told to stop, or was done.
    pub grace: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { hello: Duration::from_secs(120), grace: Duration::from_secs(5) }
    }
}

/// Who listens to a conversation.
pub struct Around<'a> {
    /// Takes lines for the log.
    pub log: &'a dyn Fn(&str),
    /// Whether the program should stop.
    pub cancelled: &'a dyn Fn() -> bool,
    /// Bytes of memory that the program's group may hold.
    pub memory: Option<u64>,
}

/// A conversation.
pub struct Talk<'a> {
    /// The program's name, for messages.
    name: String,
    process: Process,
    around: Around<'a>,
    limits: Limits,
    last_words: VecDeque<String>,
    open: (bool, bool),
    weighed: Instant,
}

/// What came next.
pub enum Next {
    /// A message.
    Message(FromProgram),
    /// The program ended.
    Ended(ExitStatus),
}

impl<'a> Talk<'a> {
    /// Starts a program.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn start(program: &Path, folder: &Path, around: Around<'a>, limits: Limits) -> Result<Self, Failure> {
        let name = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let process = Process::start(program, folder)?;
        let (last_words, open, weighed) = (VecDeque::new(), (true, true), Instant::now());
        Ok(Self { name, process, around, limits, last_words, open, weighed })
    }

    /// Sends a message.
    pub fn say(&mut self, message: &ToProgram<'_>) {
        let line = serde_json::to_string(message).expect("messages always serialize");
        self.process.send(&line);
    }

    /// The exchange of hellos.
    ///
    /// # Errors
    /// If the program says something else, nothing, or another version.
    pub fn hello(&mut self) -> Result<FromProgram, Failure> {
        self.say(&ToProgram::Hello { protocol: STAGE_PROTOCOL, features: FEATURES });
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
            Some(Next::Ended(status)) => {
                Err(self.failure(format!("{} before it said hello", ended(status))).help(help))
            }
            None => {
                let s = self.limits.hello.as_secs_f64();
                Err(self.failure(format!("did not say hello within {s} s")).help(help))
            }
        }
    }

    /// The next message, or the program's end; `None` when that does not come by `deadline`.
    ///
    /// # Errors
    /// If it says what is not understood, holds too much memory, or is to stop.
    pub fn next(&mut self, deadline: Option<Instant>) -> Result<Option<Next>, Failure> {
        loop {
            // Looked at before every line: a program that never stops talking must not be able to
            // keep its runner from stopping it.
            if (self.around.cancelled)() {
                return Err(self.stopped());
            }
            self.weigh()?;
            match self.process.listen(TICK) {
                Some(said) => {
                    if let Some(message) = self.heard(said)? {
                        return Ok(Some(Next::Message(message)));
                    }
                }
                None => {
                    if let Some(status) = self.process.ended() {
                        return self.drained(status).map(Some);
                    }
                }
            }
            if self.open == (false, false)
                && let Some(status) = self.process.ended()
            {
                return Ok(Some(Next::Ended(status)));
            }
            if deadline.is_some_and(|d| Instant::now() >= d) {
                return Ok(None);
            }
        }
    }

    /// After the program has ended: what is left in its streams. Processes that it left behind
    /// would keep them open, and are killed.
    fn drained(&mut self, status: ExitStatus) -> Result<Next, Failure> {
        let by = Instant::now() + DRAIN;
        self.process.kill();
        while self.open != (false, false) && Instant::now() < by {
            if let Some(said) = self.process.listen(TICK)
                && let Some(message) = self.heard(said)?
            {
                return Ok(Next::Message(message));
            }
        }
        Ok(Next::Ended(status))
    }

    fn heard(&mut self, said: Said) -> Result<Option<FromProgram>, Failure> {
        match said {
            Said::OutClosed => self.open.0 = false,
            Said::ErrClosed => self.open.1 = false,
            Said::Err(line) => self.noise(line),
            Said::TooLong(begin) if begins_like_a_message(&begin) => {
                return Err(self
                    .failure("sent a message of more than 1 MiB")
                    .help("messages are small: write data into files of the scratch folder"));
            }
            Said::TooLong(begin) => self.noise(format!("{begin}… (the rest of the line is left out)")),
            Said::Out(line, true) => match Line::of(&line) {
                Line::Message(FromProgram::Log { message }) => (self.around.log)(&message),
                Line::Message(FromProgram::Unknown) => {
                    (self.around.log)(&format!("(a message that this runner does not know: {line})"));
                }
                Line::Message(message) => return Ok(Some(message)),
                Line::Broken(why) => {
                    let m = format!("sent a message that is not understood: {why}: {}", shortened(&line));
                    return Err(self.failure(m));
                }
                Line::Noise => self.noise(line),
            },
            Said::Out(line, false) if begins_like_a_message(&line) => {
                let m = format!("stopped in the middle of a message: {}", shortened(&line));
                return Err(self.failure(m));
            }
            Said::Out(line, false) => self.noise(line),
        }
        Ok(None)
    }

    fn noise(&mut self, line: String) {
        (self.around.log)(&line);
        if !line.trim().is_empty() {
            self.last_words.push_back(shortened(&line));
        }
        if self.last_words.len() > LAST_WORDS {
            self.last_words.pop_front();
        }
    }

    fn weigh(&mut self) -> Result<(), Failure> {
        let Some(limit) = self.around.memory else { return Ok(()) };
        if self.weighed.elapsed() < WEIGHED {
            return Ok(());
        }
        self.weighed = Instant::now();
        match memory::of_group(self.process.id()) {
            Some(held) if held > limit => {
                let m = format!("holds {} MiB of memory, and may use {} MiB", held >> 20, limit >> 20);
                let failure = Failure::new(FailureClass::Memory, self.sentence(&m));
                Err(failure.help("raise `memory:` in its settings block"))
            }
            _ => Ok(()),
        }
    }

    /// Tells the program to stop, waits a little, and leaves it to be killed.
    fn stopped(&mut self) -> Failure {
        self.say(&ToProgram::Cancel);
        let by = Instant::now() + self.limits.grace;
        while Instant::now() < by && self.process.ended().is_none() {
            if let Some(Said::Err(line) | Said::Out(line, _)) = self.process.listen(TICK)
                && Line::of(&line) == Line::Noise
            {
                self.noise(line);
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
                    return Err(self.failure(format!("was done, but did not end within {s} s")).help(
                        "a thread or a process that it started may still run: end it before the stage returns",
                    ));
                }
            }
        }
    }

    /// A failure of the program, with its last words.
    pub fn failure(&self, what: impl AsRef<str>) -> Failure {
        Failure::input(self.sentence(what.as_ref()))
    }

    /// A failure by the way the program ended.
    pub fn ended_badly(&self, status: ExitStatus, then: &str) -> Failure {
        let class = match status.code() {
            Some(_) => FailureClass::Input,
            // Killed from outside: by a person, or by a system that ran out of memory.
            None => FailureClass::Transient,
        };
        Failure::new(class, self.sentence(&format!("{}{then}", ended(status))))
    }

    fn sentence(&self, what: &str) -> String {
        let mut text = format!("`{}` {what}", self.name);
        if !self.last_words.is_empty() {
            text += "; its last words:";
            for line in &self.last_words {
                text += &format!("\n  {line}");
            }
        }
        text
    }
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
