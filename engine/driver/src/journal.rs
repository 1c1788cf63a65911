//! Log first, then act: events become durable in groups, and only then does anybody outside this
//! process hear of them.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use headstart_core::Event;
use headstart_store::{RunLog, Ticket};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::error::EngineError;
use crate::message::Message;

/// Something to be done once the events before it are durable.
pub(crate) type Effect = Box<dyn FnOnce() + Send>;

/// The events of a run as they become durable, for any number of readers.
#[derive(Default)]
pub(crate) struct Feed {
    state: Mutex<FeedState>,
}

#[derive(Default)]
struct FeedState {
    history: Vec<Event>,
    readers: Vec<UnboundedSender<Event>>,
    closed: bool,
}

impl Feed {
    /// All events from the first (progress only from now on), as they become durable. Ends
    /// with the run.
    pub(crate) fn subscribe(&self) -> UnboundedReceiver<Event> {
        let (tx, rx) = unbounded_channel();
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        for event in &state.history {
            // The receiver is at hand.
            let _ = tx.send(event.clone());
        }
        if !state.closed {
            state.readers.push(tx);
        }
        rx
    }

    pub(crate) fn publish(&self, events: Vec<Event>, keep: bool) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.readers.retain(|r| events.iter().all(|e| r.send(e.clone()).is_ok()));
        if keep {
            state.history.extend(events);
        }
    }

    /// Puts events before all others: those of a run that is resumed.
    pub(crate) fn publish_before(&self, mut events: Vec<Event>) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        events.append(&mut state.history);
        state.history = events;
    }

    fn close(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.closed = true;
        state.readers.clear();
    }
}

enum Settle {
    Durable { ticket: Ticket, events: Vec<Event>, effects: Vec<Effect> },
    Passing(Event),
}

/// Writes a run's events.
pub(crate) struct Journal {
    log: RunLog,
    feed: Arc<Feed>,
    events: Vec<Event>,
    effects: Vec<Effect>,
    settle: Option<Sender<Settle>>,
    thread: Option<JoinHandle<()>>,
}

impl Journal {
    /// A journal over a log. Write errors are sent to `conductor`.
    pub(crate) fn new(log: RunLog, feed: Arc<Feed>, conductor: Sender<Message>) -> Result<Self, EngineError> {
        let (settle, incoming) = channel();
        let out = Arc::clone(&feed);
        let thread = std::thread::Builder::new()
            .name(format!("settle {}", log.id()))
            .spawn(move || settle_in_order(&incoming, &out, &conductor))
            .map_err(EngineError::io("start a thread for", log.id()))?;
        Ok(Self {
            log,
            feed,
            events: Vec::new(),
            effects: Vec::new(),
            settle: Some(settle),
            thread: Some(thread),
        })
    }

    /// Adds an event to the group.
    pub(crate) fn push(&mut self, event: Event) {
        self.events.push(event);
    }

    /// Adds something to be done once the group is durable.
    pub(crate) fn then(&mut self, effect: impl FnOnce() + Send + 'static) {
        self.effects.push(Box::new(effect));
    }

    /// Events in the group.
    pub(crate) fn len(&self) -> usize {
        self.events.len()
    }

    /// Hands the group to the log; returns at once.
    pub(crate) fn commit(&mut self) -> Result<(), EngineError> {
        if self.events.is_empty() && self.effects.is_empty() {
            return Ok(());
        }
        let ticket = self.log.submit(&self.events)?;
        let (events, effects) = (std::mem::take(&mut self.events), std::mem::take(&mut self.effects));
        self.send(Settle::Durable { ticket, events, effects });
        Ok(())
    }

    /// Passes an event on that may be lost in a crash; `log` says whether it is written at all.
    pub(crate) fn pass(&mut self, event: Event, log: bool) -> Result<(), EngineError> {
        self.commit()?;
        if log {
            self.log.append_lazy(std::slice::from_ref(&event))?;
        }
        self.send(Settle::Passing(event));
        Ok(())
    }

    fn send(&self, settle: Settle) {
        if let Some(tx) = &self.settle {
            // The thread ends only when this end is dropped.
            let _ = tx.send(settle);
        }
    }

    /// Waits until everything is durable and done, frees the log, and ends the feed.
    pub(crate) fn close(mut self) {
        self.settle = None;
        if let Some(thread) = self.thread.take() {
            // A panic in an effect was reported when it happened.
            let _ = thread.join();
        }
        let feed = Arc::clone(&self.feed);
        drop(self);
        feed.close();
    }
}

fn settle_in_order(incoming: &Receiver<Settle>, feed: &Feed, conductor: &Sender<Message>) {
    for settle in incoming {
        match settle {
            Settle::Durable { ticket, events, effects } => match ticket.wait() {
                Ok(()) => {
                    feed.publish(events, true);
                    effects.into_iter().for_each(|effect| effect());
                }
                Err(e) => {
                    // The effects are dropped: callers that wait for one learn that it will not come.
                    let _ = conductor.send(Message::LogBroken(e.to_string()));
                }
            },
            Settle::Passing(event) => feed.publish(vec![event], false),
        }
    }
}
