//! Stages that another run computes: they wait for its result.

use std::collections::BTreeMap;
use std::time::Duration;

use headstart_protocol::Digest;
use headstart_protocol::text::plural;
use headstart_store::cache::{Claim, Claimed, Holder};

use super::Conductor;
use super::ready::Planned;

/// How often is looked whether what is waited for is there: a lock that is freed tells nobody.
const POLL_INTERVAL: Duration = Duration::from_millis(50);
/// The longest pause, however many wait.
const LONGEST: Duration = Duration::from_secs(2);

/// Stages of a run that wait for other runs.
#[derive(Default)]
pub(super) struct Claims {
    waiting: BTreeMap<u32, (Digest, Holder)>,
    next_ms: u64,
}

/// Other runs that a run waits for: each computes a result that stages of this one need.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StageWait {
    /// The stages that wait.
    pub stages: Vec<String>,
    /// Who computes the result.
    pub holder: Holder,
}

impl StageWait {
    /// What is waited for.
    pub fn reason(&self) -> String {
        let Holder { run, process } = &self.holder;
        let results = plural(self.stages.len() as u64, "result");
        if run.is_empty() {
            return format!("for another run, which computes the same {results}");
        }
        format!("for run {run} (process {process}), which computes the same {results}")
    }
}

impl Conductor {
    /// Claims what an instance computes. `None` if it need not start: its result is there by now, or another
    /// run computes it.
    pub(super) fn claim(&mut self, instance: u32, planned: &Planned) -> Option<Option<Claim>> {
        let Some((key, _)) = &planned.key else { return Some(None) };
        match self.engine.ws.cache().claim(key, &self.id) {
            Ok(Claimed::Ours(claim)) => {
                // Whoever held it before may have made the result since it was looked up.
                let in_use = self.uses_results()?;
                let entry = self.engine.ws.cache().stage_get(key);
                let reused = self.reuse(instance, *key, entry);
                self.journal.then(move || drop(in_use));
                (!reused).then_some(Some(claim))
            }
            Ok(Claimed::Held(holder)) => {
                self.claims.waiting.insert(instance, (*key, holder));
                self.tell_waits();
                None
            }
            Err(e) => {
                tracing::debug!("{e}; the stage is computed although another process may do so too");
                Some(None)
            }
        }
    }

    /// How long nothing changes for stages that wait for other runs.
    pub(super) fn claims_pause(&self, next: Duration) -> Duration {
        if self.claims.waiting.is_empty() { next } else { next.min(self.claims.interval()) }
    }

    /// Takes results that other runs have made, and starts what they have given up.
    pub(super) fn process_claims(&mut self, now: u64) {
        if self.claims.waiting.is_empty() || now < self.claims.next_ms {
            return;
        }
        let waiting: Vec<(u32, Digest)> =
            self.claims.waiting.iter().map(|(i, (key, _))| (*i, *key)).collect();
        let Some(in_use) = self.uses_results() else { return };
        for (instance, key) in waiting {
            let entry = self.engine.ws.cache().stage_get(&key);
            if self.reuse(instance, key, entry) {
                self.claims.waiting.remove(&instance);
                continue;
            }
            match self.engine.ws.cache().claim_holder(&key) {
                Some(holder) => drop(self.claims.waiting.insert(instance, (key, holder))),
                None => {
                    self.claims.waiting.remove(&instance);
                    self.queue(instance);
                }
            }
        }
        self.journal.then(move || drop(in_use));
        self.claims.next_ms = now.saturating_add(self.claims.interval().as_millis() as u64);
        self.tell_waits();
    }

    /// Nothing waits any more.
    pub(super) fn forget_claims(&mut self) {
        self.claims.waiting.clear();
        self.tell_waits();
    }

    fn tell_waits(&self) {
        let mut by_holder: BTreeMap<(&str, u32), StageWait> = BTreeMap::new();
        for (instance, (_, holder)) in &self.claims.waiting {
            let wait = by_holder.entry((&holder.run, holder.process));
            let wait = wait.or_insert_with(|| StageWait { stages: Vec::new(), holder: holder.clone() });
            wait.stages.push(self.state.instance(*instance).name.clone());
        }
        self.engine.stage_waits.set(&self.id, by_holder.into_values().collect());
    }
}

impl Claims {
    fn interval(&self) -> Duration {
        let each = Duration::from_millis(self.waiting.len() as u64);
        each.clamp(POLL_INTERVAL, LONGEST)
    }
}
