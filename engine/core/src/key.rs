//! Cache keys: what an output depends on, and nothing else.

use std::collections::BTreeMap;

use headstart_dsl::plan::{Instance, Place, Plan};
use headstart_protocol::expr::Expr;
use headstart_protocol::{Digest, Numerics, canonical_json};
use serde::{Deserialize, Serialize};

/// What a cache key is the digest of: all that may change the bytes of an output, and nothing else
/// (docs/adr/0017). Paths of files, names of stages, attempts, formatting and limits are not in it.
/// The keys of a list and the names of a mix's terms are: stages write them into what they make (a
/// catalog its pLLMs' names, a merge its lineage), so they are part of the output, and an output
/// under other names would be a wrong answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct KeyPreimage {
    /// The stage kind; of a program's stage its own name, not the one that the file gives it.
    pub kind: String,
    /// The kind's version.
    pub version: u32,
    /// Digest of the program of a custom stage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub program: Option<Digest>,
    /// The arguments: inputs as references, public expressions resolved, private ones as they are.
    pub args: BTreeMap<String, Expr>,
    /// What numbers are computed with, for kinds that are numeric.
    #[serde(default, skip_serializing_if = "ComputedWith::is_irrelevant")]
    pub numerics: ComputedWith,
    /// A condition that only the device can resolve.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub when: Option<Expr>,
    /// The device that alone may hold the output. Without it, a private output could be found for
    /// a public instance of the same arguments.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub private_to: Option<String>,
    /// The device that makes the output. Nobody checks what a device makes, so that what one made is found only
    /// by stages that are placed on that very device; see docs/adr/0039.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub made_by: Option<DeviceIdentity>,
    /// How often the owner of that device asked for everything to be tried again.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub generation: u64,
}

/// A device, as a key knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeviceIdentity {
    /// Its public key, which nobody else can join with.
    Key(String),
    /// The name that the plan places the stage on: no device has been paired under it yet.
    Name(String),
}

/// What is known of the place that runs an instance, as far as a key holds it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PlaceFacts {
    /// What it computes with.
    pub numerics: Option<Numerics>,
    /// Its public key, if it is a device that has been paired.
    pub device_key: Option<String>,
    /// How often the owner of the device asked for everything to be tried again.
    pub generation: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "as serde calls it")]
fn is_zero(n: &u64) -> bool {
    *n == 0
}

/// What a stage computes numbers with, as a key knows it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum ComputedWith {
    /// This.
    Known(Numerics),
    /// It is numeric, but the place that runs it has not said what it computes with: a device that
    /// has never joined, or one of version 0.1.
    Unknown {
        /// Always true; it tells such a key from one of version 0.1, which held nothing of the kind.
        unknown: bool,
    },
    /// It computes nothing, or the key is one of version 0.1.
    #[default]
    Irrelevant,
}

impl ComputedWith {
    /// Of an instance whose place computes with `numerics`.
    pub fn of(plan: &Plan, instance: &Instance, numerics: Option<&Numerics>) -> Self {
        match numerics {
            _ if !plan.is_numeric(&instance.kind) => Self::Irrelevant,
            Some(numerics) => Self::Known(numerics.clone()),
            None => Self::Unknown { unknown: true },
        }
    }

    fn is_irrelevant(&self) -> bool {
        *self == Self::Irrelevant
    }

    fn known(&self) -> Option<&Numerics> {
        match self {
            Self::Known(numerics) => Some(numerics),
            _ => None,
        }
    }
}

/// A difference between two pre-images.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Difference {
    /// What differs: `kind`, `program`, `version`, `when`, `private_to`, `device`, `retries asked for on the
    /// device`, an argument as `args.NAME`, or of what numbers are computed with, `backend`, `precision`,
    /// `instruction set`; `computed with` where one side does not know.
    pub what: String,
    /// What it was, as JSON; absent where there was none.
    pub before: Option<serde_json::Value>,
    /// What it is.
    pub after: Option<serde_json::Value>,
}

impl KeyPreimage {
    /// The pre-image of an instance with prepared arguments; `None` for kinds that are not cached,
    /// because their output depends on more than their arguments.
    pub fn of(
        plan: &Plan,
        instance: &Instance,
        args: &BTreeMap<String, Expr>,
        when: Option<&Expr>,
        facts: &PlaceFacts,
    ) -> Option<Self> {
        let program = plan.program(&instance.kind);
        // Of a device in any case, so that what it makes is never taken for what the engine made.
        let made_by = match &instance.place {
            Place::Server => None,
            Place::Device(name) => Some(match &facts.device_key {
                Some(key) => DeviceIdentity::Key(key.clone()),
                None => DeviceIdentity::Name(name.clone()),
            }),
        };
        plan.is_cacheable(&instance.kind).then(|| Self {
            kind: program.map_or(&instance.kind, |(_, stage)| &stage.name).clone(),
            program: program.map(|(p, _)| p.digest),
            version: instance.version,
            args: args.clone(),
            numerics: ComputedWith::of(plan, instance, facts.numerics.as_ref()),
            when: when.cloned(),
            private_to: instance.private_to.clone(),
            made_by,
            generation: facts.generation,
        })
    }

    /// Canonical JSON, as kept beside the cached result.
    pub fn json(&self) -> String {
        canonical_json(self)
    }

    /// The key, and the JSON that it is the digest of.
    pub fn key(&self) -> (Digest, String) {
        let json = self.json();
        (Digest::of(json.as_bytes()), json)
    }

    /// What differs between an earlier pre-image and this one, in a fixed order.
    pub fn since(&self, before: &Self) -> Vec<Difference> {
        let mut out = Vec::new();
        let mut compare = |what: String, before: Option<serde_json::Value>, after| {
            if before != after {
                out.push(Difference { what, before, after });
            }
        };
        fn json<T: Serialize>(x: T) -> Option<serde_json::Value> {
            serde_json::to_value(x).ok().filter(|v| !v.is_null())
        }
        compare("kind".into(), json(&before.kind), json(&self.kind));
        compare("program".into(), json(before.program), json(self.program));
        compare("version".into(), json(before.version), json(self.version));
        match (before.numerics.known(), self.numerics.known()) {
            (Some(old), Some(new)) => {
                compare("backend".into(), json(&old.backend), json(&new.backend));
                compare("precision".into(), json(&old.precision), json(&new.precision));
                let sets = (json(&old.instruction_set), json(&new.instruction_set));
                compare("instruction set".into(), sets.0, sets.1);
            }
            (old, new) if before.numerics != self.numerics => {
                let text = |n: Option<&Numerics>| json(n.map(Numerics::to_string));
                compare("computed with".into(), text(old), text(new));
            }
            _ => {}
        }
        let names: std::collections::BTreeSet<&String> = before.args.keys().chain(self.args.keys()).collect();
        for name in names {
            compare(format!("args.{name}"), json(before.args.get(name)), json(self.args.get(name)));
        }
        compare("when".into(), json(&before.when), json(&self.when));
        compare("private_to".into(), json(&before.private_to), json(&self.private_to));
        compare("device".into(), json(&before.made_by), json(&self.made_by));
        compare("retries asked for on the device".into(), json(before.generation), json(self.generation));
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn preimage(numerics: ComputedWith) -> KeyPreimage {
        KeyPreimage {
            kind: "probe".into(),
            version: 1,
            program: None,
            args: BTreeMap::new(),
            numerics,
            when: None,
            private_to: None,
            made_by: None,
            generation: 0,
        }
    }

    fn known(backend: &str, precision: &str, set: &str) -> KeyPreimage {
        preimage(ComputedWith::Known(Numerics::new(backend, precision).instruction_set(set)))
    }

    #[test]
    fn whatever_may_change_a_byte_changes_the_key_and_is_named() {
        let was = known("cpu", "f32", "avx512");
        let changes = [
            (known("mlx", "f32", "avx512"), "backend", "mlx"),
            (known("cpu", "bf16", "avx512"), "precision", "bf16"),
            (known("cpu", "f32", "avx2"), "instruction set", "avx2"),
        ];
        for (now, what, value) in changes {
            assert_ne!(now.key().0, was.key().0, "{what}");
            let differences = now.since(&was);
            assert_eq!(differences.len(), 1, "{differences:?}");
            assert_eq!((differences[0].what.as_str(), &differences[0].after), (what, &Some(value.into())));
        }
        let unknown = preimage(ComputedWith::Unknown { unknown: true });
        assert_ne!(unknown.key().0, was.key().0);
        assert_eq!(was.since(&unknown)[0].after, Some("cpu, f32, avx512".into()));
    }

    #[test]
    fn what_a_device_makes_has_a_key_of_its_own_and_the_engine_keeps_its_own() {
        let made_by = |made_by| KeyPreimage { made_by, ..preimage(ComputedWith::Irrelevant) };
        let all = [
            made_by(None),
            made_by(Some(DeviceIdentity::Key("a".into()))),
            made_by(Some(DeviceIdentity::Key("b".into()))),
            made_by(Some(DeviceIdentity::Name("a".into()))),
        ];
        for (i, one) in all.iter().enumerate() {
            assert_eq!(serde_json::from_str::<KeyPreimage>(&one.json()).expect("own text"), *one);
            for other in &all[..i] {
                assert_ne!(one.key().0, other.key().0);
                assert_eq!(one.since(other).iter().map(|d| d.what.as_str()).collect::<Vec<_>>(), ["device"]);
            }
        }
        // Results of the engine stay where they are.
        assert_eq!(all[0].json(), r#"{"args":{},"kind":"probe","version":1}"#);
    }

    #[test]
    fn a_numeric_key_of_version_0_1_is_read_and_misses() {
        let json = r#"{"args":{},"kind":"probe","version":1}"#;
        let old: KeyPreimage = serde_json::from_str(json).expect("still read");
        assert_eq!(old.json(), json, "its digest is still the key that the run recorded");
        for now in [known("cpu", "f32", "avx2"), preimage(ComputedWith::Unknown { unknown: true })] {
            assert_ne!(now.key().0, old.key().0);
            assert_eq!(serde_json::from_str::<KeyPreimage>(&now.json()).expect("own text"), now);
        }
        let now = known("cpu", "f32", "avx2");
        let differences = now.since(&old);
        assert_eq!((differences[0].what.as_str(), &differences[0].before), ("computed with", &None));
    }
}
