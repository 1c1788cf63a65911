//! What the owner approved, and what waits, in words.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

use headstart_inspect::Part;
use headstart_protocol::contract::{Proposal, ReleasedField};
use headstart_protocol::text::{bytes, counted};
use headstart_protocol::{Digest, FileRef};
use headstart_transport::PublicKey;
use serde_json::{Value as Json, json};

use super::parts::wrapped;
use crate::contract::{Approved, Contract, Contracts, ModelInfo, Pending};
use crate::error::DeviceError;
use crate::pairing;
use crate::state::State;

/// Digits of a digest that must be given at least.
const SHORTEST: usize = 16;

/// The contract of the engine that the device is paired with.
pub(crate) struct Shown {
    contracts: Contracts,
    engine: PublicKey,
    approved: Option<Approved>,
    /// What waits, oldest first.
    pub(crate) pending: Vec<Pending>,
}

impl Shown {
    /// Reads it beside a live runner.
    ///
    /// # Errors
    /// [`DeviceError::Input`] where `state` is not the folder of a paired device, or a file is damaged.
    pub(crate) fn read(state: &Path) -> Result<Self, DeviceError> {
        let opened = State::look(state)?;
        let Some(pairing) = pairing::read(&opened)? else {
            return Err(DeviceError::Input(
                "this device is paired with no engine, so nothing is approved".into(),
            ));
        };
        let contracts = Contracts::new(&opened);
        let (approved, pending) = (contracts.of(&pairing.key)?, contracts.pending(&pairing.key)?);
        Ok(Self { contracts, engine: pairing.key, approved, pending })
    }

    /// The proposal whose digest begins like this.
    ///
    /// # Errors
    /// [`DeviceError::Input`] where none does, several do, or too little of it is given.
    pub(crate) fn find(&self, digest: &str) -> Result<&Pending, DeviceError> {
        let input = |m: String| Err(DeviceError::Input(m));
        let digest = digest.to_ascii_lowercase();
        if digest.len() < SHORTEST {
            return input(format!("give at least {SHORTEST} digits of the digest"));
        }
        let mut found = self.pending.iter().filter(|p| p.digest().to_string().starts_with(&digest));
        match (found.next(), found.next()) {
            (Some(one), None) => Ok(one),
            (None, _) => input(format!(
                "no proposal {digest} waits for approval; `headstart-device contract` lists those that do"
            )),
            (Some(_), Some(_)) => {
                input(format!("several proposals begin with {digest}; give the whole digest"))
            }
        }
    }

    /// Approves a proposal, with these of its templates and tokenizers that look at content. Gives those that
    /// still wait.
    ///
    /// # Errors
    /// [`DeviceError::Input`] for a digest of none of them; [`DeviceError::State`].
    pub(crate) fn approve(
        &self,
        pending: &Pending,
        conditional: &[Digest],
    ) -> Result<Vec<Part>, DeviceError> {
        let none = Contract::default();
        let known = |digest: &&Digest| pending.conditional(&none).any(|part| part.digest == **digest);
        if let Some(other) = conditional.iter().find(|digest| !known(digest)) {
            return Err(DeviceError::Input(format!(
                "{other} is no template or tokenizer of this proposal that looks at content"
            )));
        }
        let conditional = conditional.iter().copied().collect();
        let approved =
            self.contracts.approve(&self.engine, &pending.proposal, &pending.models, &conditional)?;
        Ok(pending.conditional(&approved.contract).cloned().collect())
    }

    /// Approves templates and tokenizers that look at content, whatever they are part of.
    ///
    /// # Errors
    /// [`DeviceError::State`].
    pub(crate) fn approve_parts(&self, parts: &[Digest]) -> Result<(), DeviceError> {
        let parts = parts.iter().copied().collect();
        self.contracts.approve(&self.engine, &Proposal::default(), &BTreeMap::new(), &parts)?;
        Ok(())
    }

    /// All of it, in words.
    pub(crate) fn text(&self) -> String {
        let mut out = String::new();
        match &self.approved {
            None => out.push_str("Nothing is approved: nothing runs over private data.\n"),
            Some(Approved { contract, models }) => {
                out.push_str("Approved\n");
                proposal(&mut out, &contract.approved, models, None);
                for digest in &contract.conditional {
                    let _ = writeln!(out, "  although it may look at content: {digest}");
                }
            }
        }
        for pending in &self.pending {
            out.push('\n');
            self.pending(&mut out, pending);
        }
        out
    }

    /// What a proposal would add.
    pub(crate) fn pending(&self, out: &mut String, pending: &Pending) {
        let digest = pending.digest();
        let none = Approved::default();
        let approved = self.approved.as_ref().unwrap_or(&none);
        let new = pending.proposal.without(&approved.contract.approved);
        let time = pending.time.strftime("%Y-%m-%d %H:%M:%SZ");
        let _ = writeln!(out, "Waits for approval: {digest}");
        let _ = writeln!(out, "  since {time}, for {} of run {}", shown(&pending.stage), shown(&pending.run));
        if self.approved.is_some() {
            out.push_str("  new in it:\n");
        }
        proposal(out, &new, &pending.models, Some(&approved.models));
        for part in pending.conditional(&approved.contract) {
            let (name, why) = (part.kind.name(), part.conditional.as_deref().unwrap_or_default());
            let _ = writeln!(out, "  {name} {}", part.digest);
            wrapped(out, "    ", &format!("may look at content: {why}"));
            wrapped(
                out,
                "    ",
                "It can turn what your texts say into numbers. To approve it although it may, add \
                 --conditional and its digest.",
            );
        }
        let _ = writeln!(out, "  to approve: headstart-device approve {digest}");
    }

    /// All of it, as JSON.
    pub(crate) fn json(&self) -> Json {
        let contract = self.approved.as_ref().map(|a| a.contract.clone()).unwrap_or_default();
        let pending = self.pending.iter().map(|p| {
            json!({
                "digest": p.digest(),
                "run": p.run,
                "stage": p.stage,
                "time": p.time,
                "proposal": p.proposal,
                "new": p.proposal.without(&contract.approved),
                "conditional": p.conditional(&contract).collect::<Vec<_>>(),
                "models": p.models,
            })
        });
        json!({
            "engine": self.engine.to_string(),
            "approved": self.approved,
            "pending": pending.collect::<Vec<_>>(),
        })
    }
}

/// The lines of a proposal. Models that are like one of `before` but for some files are said to be so.
fn proposal(
    out: &mut String,
    p: &Proposal,
    models: &BTreeMap<Digest, ModelInfo>,
    before: Option<&BTreeMap<Digest, ModelInfo>>,
) {
    let stages: Vec<String> = p.stages.iter().map(|s| format!("{} {}", shown(&s.kind), s.version)).collect();
    let releases: Vec<String> = p.releases.iter().map(released).collect();
    for (what, words) in [("stages", stages), ("releases", releases)] {
        if !words.is_empty() {
            wrapped(out, "  ", &format!("{what}: {}", words.join(", ")));
        }
    }
    for a in &p.arguments {
        let of = shown(a.of.split('@').next().unwrap_or_default());
        let unusual: Vec<String> =
            a.unusual().map(|(name, text)| format!("{}: {}", shown(name), rule(text))).collect();
        if !unusual.is_empty() {
            wrapped(out, "  ", &format!("{of} with {}", unusual.join(", ")));
        }
    }
    for c in &p.conditions {
        // Digests of programs are said where the programs are.
        let of = shown(c.of.split('@').next().unwrap_or_default());
        let _ = writeln!(out, "  condition: {of} {} {}", shown(&c.at), rule(&c.rule));
    }
    for stage in &p.programs {
        let _ = writeln!(out, "  custom stage {} of program {}", shown(&stage.stage), stage.program);
    }
    for id in &p.models {
        match models.get(id) {
            Some(info) => model(out, id, info, before.and_then(|before| like(info, before))),
            None => {
                let _ = writeln!(out, "  model {id}, whose files are not known");
            }
        }
    }
}

fn released(r: &ReleasedField) -> String {
    let of = shown(r.of.split('@').next().unwrap_or_default());
    match r.path.as_str() {
        "" if r.ty == "Pllm" => format!("THE TRAINED WEIGHTS of {of}"),
        "" => format!("all of {of} ({})", shown(&r.ty)),
        path => format!("{} of {of}", shown(path)),
    }
}

/// A name that an engine chose: in quotes, unless it is as plain as names are.
fn shown(name: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-.[]\"/".contains(c);
    if !name.is_empty() && name.chars().all(plain) { name.to_owned() } else { format!("{name:?}") }
}

/// A condition as it is approved: in quotes where it could be taken for something else.
fn rule(text: &str) -> String {
    let plain = |c: char| c.is_ascii_graphic() || c == ' ';
    if text.chars().all(plain) { text.to_owned() } else { format!("{text:?}") }
}

fn model(out: &mut String, id: &Digest, info: &ModelInfo, likeness: Option<(&Digest, Vec<&str>)>) {
    let size: u64 = info.files.values().map(|f| f.size).sum();
    let files = counted(info.files.len() as u64, "file");
    let _ = writeln!(out, "  {} {id}: {files}, {}", shown(&info.ty), bytes(size));
    match likeness {
        Some((other, changed)) => {
            wrapped(
                out,
                "    ",
                &format!(
                    "as the approved {}, but for {}",
                    other.short(),
                    changed.into_iter().map(shown).collect::<Vec<_>>().join(", ")
                ),
            );
        }
        None if info.files.is_empty() => {}
        None => {
            let files = info.files.iter().map(|(name, f)| format!("{} {}", shown(name), f.digest.short()));
            wrapped(out, "    ", &files.collect::<Vec<_>>().join(", "));
        }
    }
    match &info.parts {
        None => out.push_str("    its template and tokenizer were not looked into yet\n"),
        Some(parts) => {
            for part in parts.iter().filter(|part| part.conditional.is_none()) {
                let _ = writeln!(out, "    its {} treats all content alike", part.kind.name());
            }
        }
    }
}

/// The approved model that shares most files with another, and the files that differ.
fn like<'m>(
    info: &'m ModelInfo,
    before: &'m BTreeMap<Digest, ModelInfo>,
) -> Option<(&'m Digest, Vec<&'m str>)> {
    let same = |a: &FileRef, b: Option<&FileRef>| b.is_some_and(|b| a.digest == b.digest);
    let shared =
        |other: &ModelInfo| info.files.iter().filter(|(name, f)| same(f, other.files.get(*name))).count();
    let (id, other) = before.iter().max_by_key(|(_, other)| shared(other)).filter(|(_, o)| shared(o) > 0)?;
    let changed = info.files.iter().filter(|(name, f)| !same(f, other.files.get(*name)));
    let gone = other.files.keys().filter(|name| !info.files.contains_key(*name));
    Some((id, changed.map(|(name, _)| name).chain(gone).map(String::as_str).collect()))
}
