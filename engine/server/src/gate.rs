//! How many connections there are, and which has to go.
//!
//! Strangers never take the room of devices: a connection counts as a stranger's until its key is known
//! to be that of a device that may join. Where there are too many strangers the oldest goes, so that a new
//! one, which may be a device that has not shown its key yet, always gets its turn.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use headstart_transport::PublicKey;
use tokio_util::sync::CancellationToken;

use crate::limits::Limits;

/// All connections of a port.
pub(crate) struct Gate {
    limits: Limits,
    open: Mutex<Open>,
}

#[derive(Default)]
struct Open {
    next: u64,
    /// Oldest first.
    strangers: VecDeque<Entry>,
    /// By device, oldest first.
    devices: HashMap<PublicKey, VecDeque<Entry>>,
}

struct Entry {
    id: u64,
    from: IpAddr,
    end: CancellationToken,
}

impl Gate {
    pub(crate) fn new(limits: Limits) -> Arc<Self> {
        Arc::new(Self { limits, open: Mutex::default() })
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets a connection in, as a stranger's.
    pub(crate) fn enter(self: &Arc<Self>, from: IpAddr) -> Ticket {
        let mut open = self.open();
        let of_address = open.strangers.iter().filter(|e| e.from == from).count();
        let goes = if of_address >= self.limits.strangers_of_an_address.max(1) {
            open.strangers.iter().position(|e| e.from == from)
        } else {
            (open.strangers.len() >= self.limits.strangers.max(1)).then_some(0)
        };
        if let Some(entry) = goes.and_then(|at| open.strangers.remove(at)) {
            entry.end.cancel();
        }
        open.next += 1;
        let (id, end) = (open.next, CancellationToken::new());
        open.strangers.push_back(Entry { id, from, end: end.clone() });
        Ticket { gate: Arc::clone(self), id, end }
    }

    #[cfg(test)]
    fn counts(&self) -> (usize, usize) {
        let open = self.open();
        (open.strangers.len(), open.devices.values().map(VecDeque::len).sum())
    }
}

/// The right of a connection to be open; given back when it is dropped.
pub(crate) struct Ticket {
    gate: Arc<Gate>,
    id: u64,
    end: CancellationToken,
}

impl Ticket {
    /// The connection has shown the key of a device that may join.
    pub(crate) fn is_of(&self, device: PublicKey) {
        let mut open = self.gate.open();
        let Some(at) = open.strangers.iter().position(|e| e.id == self.id) else { return };
        let Some(entry) = open.strangers.remove(at) else { return };
        let most = self.gate.limits.connections_of_a_device.max(1);
        let mine = open.devices.entry(device).or_default();
        if mine.len() >= most
            && let Some(oldest) = mine.pop_front()
        {
            oldest.end.cancel();
        }
        mine.push_back(entry);
    }

    /// Whether it is still a stranger's.
    pub(crate) fn is_strangers(&self) -> bool {
        self.gate.open().strangers.iter().any(|e| e.id == self.id)
    }

    /// Done when the connection has to go.
    pub(crate) async fn ended(&self) {
        self.end.cancelled().await;
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut open = self.gate.open();
        open.strangers.retain(|e| e.id != self.id);
        open.devices.retain(|_, mine| {
            mine.retain(|e| e.id != self.id);
            !mine.is_empty()
        });
    }
}

#[cfg(test)]
mod tests {
    use headstart_transport::Identity;

    use super::*;

    #[test]
    fn strangers_push_out_strangers_and_never_devices() {
        let limits = Limits {
            strangers: 4,
            strangers_of_an_address: 2,
            connections_of_a_device: 2,
            ..Limits::default()
        };
        let gate = Gate::new(limits);
        let address = |n: u8| IpAddr::from([10, 0, 0, n]);
        let phone = Identity::from_secret(&[1; 32]).public();
        let device = gate.enter(address(1));
        device.is_of(phone);
        let strangers: Vec<Ticket> = (0..3).map(|_| gate.enter(address(1))).collect();
        let gone = |t: &Ticket| t.end.is_cancelled();
        assert!(
            gone(&strangers[0]) && !gone(&strangers[1]) && !gone(&strangers[2]),
            "the oldest of its address"
        );
        let others: Vec<Ticket> = (2..5).map(|n| gate.enter(address(n))).collect();
        assert!(gone(&strangers[1]) && !others.iter().any(gone), "then the oldest of all");
        assert!(!gone(&device) && !device.is_strangers());
        assert_eq!(gate.counts(), (4, 1));

        // A device has so many connections of its own.
        let more: Vec<Ticket> = (0..2).map(|_| gate.enter(address(9))).collect();
        more.iter().for_each(|t| t.is_of(phone));
        assert!(gone(&device) && !more.iter().any(gone));
        drop((device, strangers, others, more));
        assert_eq!(gate.counts(), (0, 0));
    }
}
