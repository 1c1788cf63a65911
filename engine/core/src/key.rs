//! Cache keys: what an output depends on, and nothing else.

use std::collections::BTreeMap;

use headstart_dsl::plan::{Instance, Plan};
use headstart_protocol::Digest;
use headstart_protocol::digest::canonical_json;
use headstart_protocol::expr::Expr;
use serde::{Deserialize, Serialize};

/// What a cache key is the digest of. Paths of files, names of stages, attempts, formatting and
/// limits are not in it. The keys of a list and the names of a mix's terms are: stages write them
/// into what they make (a catalog its pLLMs' names, a merge its lineage), so they are part of the
/// output, and an output under other names would be a wrong answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct KeyPreimage {
    /// The stage kind; of a program's stage its own name, not the one that the file gives it.
    pub kind: String,
    /// The kind's version.
    pub version: u32,
    /// Digest of the user's own program that the stage belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub program: Option<Digest>,
    /// The arguments: inputs as references, public expressions resolved, private ones as they are.
    pub args: BTreeMap<String, Expr>,
    /// A condition that only the device can resolve.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub when: Option<Expr>,
    /// The device that alone may hold the output. Without it, a private output could be found for
    /// a public instance of the same arguments.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub private_to: Option<String>,
}

/// A difference between two pre-images.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Difference {
    /// What differs: `kind`, `program`, `version`, `when`, or an argument as `args.NAME`.
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
    ) -> Option<Self> {
        let program = plan.program(&instance.kind);
        plan.is_cacheable(&instance.kind).then(|| Self {
            kind: program.map_or(&instance.kind, |(_, stage)| &stage.name).clone(),
            program: program.map(|(p, _)| p.digest),
            version: instance.version,
            args: args.clone(),
            when: when.cloned(),
            private_to: instance.private_to.clone(),
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
        let names: std::collections::BTreeSet<&String> = before.args.keys().chain(self.args.keys()).collect();
        for name in names {
            compare(format!("args.{name}"), json(before.args.get(name)), json(self.args.get(name)));
        }
        compare("when".into(), json(&before.when), json(&self.when));
        compare("private_to".into(), json(&before.private_to), json(&self.private_to));
        out
    }
}
