//! From an instance of the plan to a task: outputs put in, public parts resolved, private parts
//! left to the device.

use std::collections::BTreeMap;

use headstart_dsl::plan::Plan;
use headstart_protocol::contract::Proposal;
use headstart_protocol::expr::{Expr, Manifests, ResolveError, Value, public_value, resolve_public};
use headstart_protocol::task::{Released, Task};
use headstart_protocol::{ArtifactRef, Type};

use crate::key::{KeyPreimage, PlaceFacts};
use crate::state::{RunState, Status};

/// An instance whose inputs all have outputs.
#[derive(Clone, Debug, PartialEq)]
pub struct Prepared {
    /// Its arguments: values, and expressions over private values.
    pub args: BTreeMap<String, Expr>,
    /// A condition over private values.
    pub when: Option<Expr>,
}

/// The decision about an instance.
#[derive(Clone, Debug, PartialEq)]
pub enum Decision {
    /// `when` is false.
    Skip,
    /// It is to be run, or found in the cache.
    Run(Prepared),
}

/// Prepares a ready instance.
///
/// # Errors
/// An expression has no value: a field that the artifact does not have, a condition that is not
/// true or false. The checker rules most of these out.
pub fn prepare(state: &RunState, instance: u32, source: &dyn Manifests) -> Result<Decision, ResolveError> {
    let inst = state.instance(instance);
    let public = |e: &Expr| match state.substitute(e) {
        Some(e) => resolve_public(&e, source),
        None => {
            let mut missing = instance;
            e.each_output(&mut |i| {
                if state.output(i).is_none() {
                    missing = i;
                }
            });
            Err(ResolveError::NoOutput(missing))
        }
    };
    let mut when = None;
    if let Some(e) = &inst.when {
        match public(e)? {
            Expr::Value { value } if !value.is_private() => {
                if !truth(&value)? {
                    return Ok(Decision::Skip);
                }
            }
            private => when = Some(private),
        }
    }
    let mut args = BTreeMap::new();
    for (name, e) in &inst.args {
        args.insert(name.clone(), public(e)?);
    }
    Ok(Decision::Run(Prepared { args, when }))
}

fn truth(value: &Value) -> Result<bool, ResolveError> {
    match value {
        Value::Bool(b) | Value::Json(serde_json::Value::Bool(b)) => Ok(*b),
        v if v.is_absent() => Ok(false),
        other => Err(ResolveError::NotComparable(other.describe())),
    }
}

impl Prepared {
    /// The pre-image of the instance's cache key, for kinds that have one.
    pub fn preimage(&self, state: &RunState, instance: u32, facts: &PlaceFacts) -> Option<KeyPreimage> {
        KeyPreimage::of(state.plan(), state.instance(instance), &self.args, self.when.as_ref(), facts)
    }

    /// Whether a device must resolve something.
    pub fn is_private(&self) -> bool {
        self.args.values().chain(&self.when).any(Expr::is_private)
    }

    /// The task of an attempt.
    pub fn task(
        &self,
        state: &RunState,
        instance: u32,
        attempt: u32,
        fence: u64,
        prefetch: Vec<ArtifactRef>,
        proposal: Proposal,
    ) -> Task {
        let inst = state.instance(instance);
        Task {
            run: state.run().to_owned(),
            instance,
            name: inst.name.clone(),
            attempt,
            fence,
            kind: inst.kind.clone(),
            program: state.plan().program(&inst.kind).map(|(p, _)| p.digest),
            version: inst.version,
            ty: state.plan().items[inst.item as usize].ty.clone(),
            args: self.args.clone(),
            when: self.when.clone(),
            memory: inst.policy.memory,
            timeout_ms: inst.policy.timeout_ms,
            private: inst.private_to.is_some(),
            release: inst.release.clone(),
            prefetch,
            proposal: Some(proposal),
        }
    }
}

/// Public catalogs that a private choice of an instance may have come from: the device downloads
/// everything they list, so that what it downloads does not tell what was chosen.
///
/// These are the catalogs among the ancestors of private arguments. A `select` that verifies its
/// shortlist opens pLLMs of the very catalog that it is given, so that one counts too.
pub fn catalogs_behind(state: &RunState, instance: u32) -> Vec<u32> {
    let plan: &Plan = state.plan();
    let inst = &plan.instances[instance as usize];
    let is_private = |i: u32| plan.instances[i as usize].private_to.is_some();
    let is_catalog = |i: &u32| {
        let inst = &plan.instances[*i as usize];
        inst.private_to.is_none() && plan.items[inst.item as usize].ty == Type::Catalog
    };
    let inputs = state.graph().inputs(instance);
    let private: Vec<u32> = inputs.iter().copied().filter(|i| is_private(*i)).collect();
    if private.is_empty() {
        return Vec::new();
    }
    let mut from = private;
    if inst.args.contains_key("verify") {
        from.extend(inputs);
    }
    state.graph().ancestors(&from).into_iter().filter(is_catalog).collect()
}

/// The value of a plan's output that exists outside its device; `None` where an instance that it
/// needs has no output, or the part was not released.
///
/// # Errors
/// [`ResolveError`] where a manifest cannot be read or lacks a field.
pub fn output_value(
    state: &RunState,
    expr: &Expr,
    source: &dyn Manifests,
) -> Result<Option<Value>, ResolveError> {
    let Some(known) = state.substitute(expr) else { return Ok(None) };
    if !known.is_private() {
        return public_value(&known, source).map(Some);
    }
    Ok(match expr {
        Expr::List { items } => {
            let mut out = Vec::with_capacity(items.len());
            for (key, item) in items {
                match output_value(state, item, source)? {
                    None => return Ok(None),
                    Some(v) if v.is_absent() => {}
                    Some(v) => out.push((key.clone(), v)),
                }
            }
            Some(Value::List(out))
        }
        Expr::Or { first, second } => match output_value(state, first, source)? {
            Some(v) if !v.is_absent() => Some(v),
            _ => output_value(state, second, source)?,
        },
        other => field_path(other).and_then(|(instance, path)| released(state, instance, &path)),
    })
}

/// `instance.a.b` as the instance and `a.b`.
fn field_path(expr: &Expr) -> Option<(u32, String)> {
    match expr {
        Expr::Output { instance } => Some((*instance, String::new())),
        Expr::Field { of, name } => {
            let (instance, path) = field_path(of)?;
            Some((instance, if path.is_empty() { name.clone() } else { format!("{path}.{name}") }))
        }
        _ => None,
    }
}

fn released(state: &RunState, instance: u32, path: &str) -> Option<Value> {
    match state.status(instance) {
        Status::Done(done) => match done.released.get(path) {
            Some(Released::Artifact(a)) => Some(Value::Artifact(a.clone())),
            Some(Released::Json(serde_json::Value::Null)) => Some(Value::Absent),
            Some(Released::Json(j)) => Some(Value::Json(j.clone())),
            None => None,
        },
        Status::Skipped => Some(Value::Absent),
        _ => None,
    }
}
