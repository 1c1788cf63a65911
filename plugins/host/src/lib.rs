//! Runs custom stages: programs that speak JSON Lines on their standard streams.
//!
//! A copy of the program's folder is made for each attempt and started in a process group of its
//! own, with an empty folder as its working folder. A conversation (docs/stages.md has all
//! messages):
//!
//! ```text
//! runner   {"headstart":"hello","protocol":1,"features":["count","log","progress"]}
//! program  {"headstart":"hello","protocol":1,"features":[],"stages":[…]}
//! runner   {"headstart":"run","stage":"readability","args":{…},"scratch":"/…","threads":2}
//! program  {"headstart":"progress","done":10,"total":50,"unit":"rows"}
//! program  {"headstart":"done","files":[],"value":{"ease":63.1},"uses":{}}
//! ```
//!
//! A line that is no message is noise and goes to the attempt's log, as does standard error. What
//! the program says it made counts only if it then ends with exit status 0, and if every file is
//! there with the size and SHA-256 that it stated. However the conversation ends, the program and all
//! that it started are killed.
//!
//! # Layout
//! - [`folder`]: what a program is made of, its digest, its copy.
//! - [`message`], [`lines`]: what is said. [`process`]: the process group and its streams.
//! - [`groups`], [`supervise`], [`tree`], [`parent`]: programs must not outlive this process, nor what they started.
//! - [`memory`], [`processes`]: what they hold.
//! - [`session`]: the conversation, and every way in which it can go wrong.
//! - [`confine`]: what a program may touch.
//! - [`arguments`], [`output`]: values on their way to the program and back, verified.
//! - [`stage`]: a custom stage as a [`headstart_protocol::Stage`].
//! - [`places`]: which programs may run: those of a plan on the engine's machine; on a device those
//!   that its owner put into a folder.
//! - [`describe()`]: what a program declares.

mod arguments;
mod confine;
mod describe;
pub mod folder;
mod groups;
mod lines;
mod memory;
mod message;
mod output;
#[cfg(target_os = "linux")]
mod parent;
mod places;
mod process;
#[cfg(target_os = "linux")]
mod processes;
mod session;
mod stage;
#[cfg(target_os = "linux")]
mod supervise;
#[cfg(target_os = "linux")]
mod tree;

pub use confine::{Confinement, confine_this_process};
pub use describe::describe;
pub use groups::kill_all;
pub use places::{Allowlist, Trusted};
pub use session::Limits;
pub use stage::CustomStage;
#[cfg(target_os = "linux")]
pub use supervise::supervise_if_asked;

/// There are no supervisors on this system.
#[cfg(not(target_os = "linux"))]
pub fn supervise_if_asked() -> Option<std::process::ExitCode> {
    None
}
