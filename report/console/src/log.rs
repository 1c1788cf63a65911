//! What libraries report through `tracing`, in the command's own voice: `warning: …` on standard
//! error, without times and module paths.

use std::collections::BTreeSet;
use std::fmt::{Debug, Write};
use std::sync::{Mutex, PoisonError};

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;

use crate::color::{Ink, paint};

/// Starts reporting. `default` is the least level that is shown, such as `warn`; the variable
/// `HEADSTART_LOG` overrides it.
pub fn start(default: &str) {
    let filter = EnvFilter::try_from_env("HEADSTART_LOG").unwrap_or_else(|_| default.into());
    // A second start, as in tests, changes nothing.
    let _ = tracing_subscriber::registry().with(filter).with(Voice::default()).try_init();
}

/// The level that `-v` flags and `--quiet` ask for, over a command's own.
pub fn level(own: &'static str, verbose: u8, quiet: bool) -> &'static str {
    match verbose {
        0 if quiet => "error",
        0 => own,
        1 => "info",
        2 => "debug",
        _ => "trace",
    }
}

/// Warnings that are remembered, so that each is given once.
const REMEMBERED: usize = 1000;

#[derive(Default)]
struct Voice {
    warned: Mutex<BTreeSet<String>>,
}

impl<S: Subscriber> Layer<S> for Voice {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut line = Line::default();
        event.record(&mut line);
        let text = line.text();
        let level = *event.metadata().level();
        if level == Level::WARN {
            let mut warned = self.warned.lock().unwrap_or_else(PoisonError::into_inner);
            if warned.contains(&text) {
                return;
            }
            if warned.len() < REMEMBERED {
                warned.insert(text.clone());
            }
        }
        crate::say(&match level {
            Level::ERROR => format!("{}: {text}", paint(Ink::Error, "error")),
            Level::WARN => format!("{}: {text}", paint(Ink::Warning, "warning")),
            Level::INFO => text,
            _ => paint(Ink::Quiet, &format!("{}: {text}", event.metadata().target())),
        });
    }
}

/// The message of an event, and its other fields behind it.
#[derive(Default)]
struct Line {
    message: String,
    fields: Vec<String>,
}

impl Line {
    fn text(self) -> String {
        match self.fields.as_slice() {
            [] => self.message,
            fields => format!("{} ({})", self.message, fields.join(", ")),
        }
    }
}

impl Visit for Line {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.record_debug(field, &format_args!("{value}"));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        if field.name() == "message" {
            let _ = write!(self.message, "{value:?}");
        } else {
            self.fields.push(format!("{}: {value:?}", field.name()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_raise_the_level() {
        assert_eq!(
            [level("warn", 0, false), level("warn", 0, true), level("warn", 2, true)],
            ["warn", "error", "debug"]
        );
    }
}
