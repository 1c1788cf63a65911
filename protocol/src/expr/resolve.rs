//! From an expression to a value, and to what may be known of it.

use std::collections::BTreeMap;

use super::{CompareOp, Expr, MixTerm, ResolveError, Value};
use crate::artifact::{ArtifactRef, Manifest};
use crate::types::Type;

/// Whether a value may be known outside the device that resolved it. Public is only what was proven to
/// be: a value is private if anything private was looked at on the way to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Residency {
    /// It follows from public artifacts alone.
    Public,
    /// It says something about a private artifact.
    Private,
}

impl Residency {
    /// That of an artifact.
    pub fn of(artifact: &ArtifactRef) -> Self {
        if artifact.private_to.is_some() { Self::Private } else { Self::Public }
    }

    /// That of a value that follows from both.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        self.max(other)
    }

    /// Whether it is [`Residency::Private`].
    pub fn is_private(self) -> bool {
        self == Self::Private
    }
}

/// What an expression comes to.
#[derive(Clone, Debug, PartialEq)]
pub struct Resolved {
    /// The value.
    pub value: Value,
    /// Whether it may be known elsewhere.
    pub residency: Residency,
}

impl Resolved {
    fn public(value: Value) -> Self {
        Self { value, residency: Residency::Public }
    }

    /// The same value, which follows from something else too.
    fn and(self, other: Residency) -> Self {
        Self { residency: self.residency.and(other), ..self }
    }
}

/// Gives artifacts to [`resolve`].
pub trait Manifests {
    /// The manifest behind a reference.
    ///
    /// # Errors
    /// [`ResolveError::Manifest`] where it is not here.
    fn manifest(&self, artifact: &ArtifactRef) -> Result<Manifest, ResolveError>;

    /// A reference as this place knows it: a device knows which private artifacts are absent.
    ///
    /// # Errors
    /// Why this place has no such artifact.
    fn local(&self, artifact: &ArtifactRef) -> Result<ArtifactRef, ResolveError> {
        Ok(artifact.clone())
    }
}

/// Resolves an expression to a value and its residency. Fields of an artifact are looked up in its
/// manifest: first among `uses`, then in `value`. A field of an absent value is absent. What follows from
/// a private artifact is private, be it a public artifact that a private manifest names, or the second
/// operand of an `or` whose first is private: that it was taken says that the first is absent.
///
/// # Errors
/// [`ResolveError`]. How an expression fails may depend on private artifacts that it names.
pub fn resolve(expr: &Expr, source: &dyn Manifests) -> Result<Resolved, ResolveError> {
    match expr {
        Expr::Value { value } => known(value, source),
        Expr::Output { instance } => Err(ResolveError::NoOutput(*instance)),
        Expr::Field { of, name } => field(resolve(of, source)?, name, source),
        Expr::Or { first, second } => {
            let first = resolve(first, source)?;
            match first.value.is_absent() {
                true => Ok(resolve(second, source)?.and(first.residency)),
                false => Ok(first),
            }
        }
        Expr::List { items } => {
            let mut residency = Residency::Public;
            let mut kept = Vec::with_capacity(items.len());
            for (key, item) in items {
                let item = resolve(item, source)?;
                residency = residency.and(item.residency);
                // Elements that a `when` left out are not part of the list.
                if !item.value.is_absent() {
                    kept.push((key.clone(), item.value));
                }
            }
            Ok(Resolved { value: Value::List(kept), residency })
        }
        Expr::Mix { terms } => {
            let mut residency = Residency::Public;
            let mut mix = Vec::with_capacity(terms.len());
            for (weight, name, e) in terms {
                let term = resolve(e, source)?;
                residency = residency.and(term.residency);
                match term.value {
                    Value::Artifact(pllm) => mix.push(MixTerm { weight: *weight, pllm, name: name.clone() }),
                    other => return Err(ResolveError::NotPllm(other.describe())),
                }
            }
            Ok(Resolved { value: Value::Mix(mix), residency })
        }
        Expr::Compare { op, left, right } => {
            let (l, r) = (resolve(left, source)?, resolve(right, source)?);
            let value = Value::Bool(compare(*op, &l.value, &r.value)?);
            Ok(Resolved { value, residency: l.residency.and(r.residency) })
        }
        Expr::Not { of } => {
            let Resolved { value, residency } = resolve(of, source)?;
            match value {
                Value::Bool(b) | Value::Json(serde_json::Value::Bool(b)) => {
                    Ok(Resolved { value: Value::Bool(!b), residency })
                }
                other => Err(ResolveError::NotComparable(other.describe())),
            }
        }
    }
}

/// A value that stands in an expression, with its artifacts as they are known here.
fn known(value: &Value, source: &dyn Manifests) -> Result<Resolved, ResolveError> {
    let mut residency = Residency::Public;
    let value = value.try_map_artifacts(&mut |a| {
        residency = residency.and(Residency::of(a));
        source.local(a)
    })?;
    Ok(Resolved { value, residency })
}

fn compare(op: CompareOp, left: &Value, right: &Value) -> Result<bool, ResolveError> {
    if let (Value::Text(l), Value::Text(r)) = (left, right) {
        return match op {
            CompareOp::Eq => Ok(l == r),
            CompareOp::Ne => Ok(l != r),
            _ => Err(ResolveError::NotComparable(format!("{l:?}"))),
        };
    }
    let number = |v: &Value| v.number().ok_or(ResolveError::NotComparable(v.describe()));
    Ok(op.holds(number(left)?, number(right)?))
}

fn field(of: Resolved, name: &str, source: &dyn Manifests) -> Result<Resolved, ResolveError> {
    let Resolved { value: of, residency } = of;
    let missing = |of: &Value| ResolveError::NoField { of: of.describe(), field: name.to_owned() };
    let value = match &of {
        v if v.is_absent() => Value::Absent,
        Value::Json(j) => j.get(name).cloned().map(from_json).ok_or_else(|| missing(&of))?,
        Value::Artifact(a) => {
            let manifest = source.manifest(a)?;
            return field_of(a, &manifest, name, source)?
                .map(|r| r.and(residency))
                .ok_or_else(|| missing(&of));
        }
        _ => return Err(missing(&of)),
    };
    Ok(Resolved { value, residency })
}

/// A field of an artifact; `None` where it has none of this name.
fn field_of(
    artifact: &ArtifactRef,
    m: &Manifest,
    name: &str,
    source: &dyn Manifests,
) -> Result<Option<Resolved>, ResolveError> {
    let own = Residency::of(artifact);
    if !own.is_private()
        && let Some(name) = m.private_reference()
    {
        return Err(ResolveError::PrivateReference { artifact: artifact.id, name: name.to_owned() });
    }
    let found = if m.ty == Type::Selection && name == "mix" {
        Some(known(&Value::Mix(selection_mix(m)), source)?)
    } else if let Some(used) = m.uses.get(name) {
        Some(known(&Value::Artifact(used.clone()), source)?)
    } else {
        m.value.get(name).cloned().map(from_json).map(Resolved::public)
    };
    Ok(found.map(|r| r.and(own)))
}

/// The mix of a selection: `value.mix` maps a pLLM's catalog name to its weight, and
/// `uses["pllm:NAME"]` is that pLLM.
fn selection_mix(m: &Manifest) -> Vec<MixTerm> {
    let weights: BTreeMap<String, f64> =
        m.value.get("mix").and_then(|v| serde_json::from_value(v.clone()).ok()).unwrap_or_default();
    let term = |(name, weight): (String, f64)| {
        let pllm = m.uses.get(&format!("pllm:{name}"))?.clone();
        Some(MixTerm { weight, pllm, name })
    };
    weights.into_iter().filter_map(term).collect()
}

fn from_json(j: serde_json::Value) -> Value {
    match j {
        serde_json::Value::Null => Value::Absent,
        serde_json::Value::Bool(b) => Value::Bool(b),
        serde_json::Value::String(s) => Value::Text(s),
        serde_json::Value::Number(n) => match n.as_i64() {
            Some(i) => Value::Int(i),
            None => Value::Float(n.as_f64().unwrap_or(f64::NAN)),
        },
        other => Value::Json(other),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::artifact::ArtifactType;
    use crate::digest::Digest;

    /// Three artifacts: a public catalog, a private selection from it, and a public artifact that refers
    /// to a private one.
    struct Place;

    fn artifact(name: &str, ty: ArtifactType, private: bool) -> ArtifactRef {
        ArtifactRef { id: Digest::of(name.as_bytes()), ty, private_to: private.then(|| "phone".into()) }
    }

    fn kind() -> ArtifactRef {
        artifact("kind", ArtifactType::Pllm, false)
    }

    fn catalog() -> ArtifactRef {
        artifact("catalog", ArtifactType::Catalog, false)
    }

    fn pick() -> ArtifactRef {
        artifact("pick", ArtifactType::Selection, true)
    }

    fn disguise() -> ArtifactRef {
        artifact("disguise", ArtifactType::Metrics, false)
    }

    impl Manifests for Place {
        fn manifest(&self, a: &ArtifactRef) -> Result<Manifest, ResolveError> {
            let manifest = |ty, uses: &[(&str, ArtifactRef)], value| Manifest {
                ty,
                files: BTreeMap::new(),
                value,
                uses: uses.iter().map(|(n, a)| ((*n).to_owned(), a.clone())).collect(),
            };
            match a {
                a if *a == catalog() => Ok(manifest(Type::Catalog, &[("first", kind())], json!({ "n": 1 }))),
                a if *a == pick() => {
                    let uses = [("pllm", kind()), ("pllm:kind", kind())];
                    Ok(manifest(Type::Selection, &uses, json!({ "is_mix": true, "mix": { "kind": 1.0 } })))
                }
                a if *a == disguise() => Ok(manifest(Type::Metrics, &[("held", pick())], json!({ "x": 1 }))),
                _ => Err(ResolveError::Manifest("not here".into())),
            }
        }

        fn local(&self, a: &ArtifactRef) -> Result<ArtifactRef, ResolveError> {
            let absent = a.id == Digest::of(b"absent");
            Ok(ArtifactRef { ty: if absent { ArtifactType::Absent } else { a.ty }, ..a.clone() })
        }
    }

    fn value(a: ArtifactRef) -> Expr {
        Expr::value(Value::Artifact(a))
    }

    fn field(of: Expr, name: &str) -> Expr {
        Expr::Field { of: Box::new(of), name: name.into() }
    }

    fn or(first: Expr, second: Expr) -> Expr {
        Expr::Or { first: Box::new(first), second: Box::new(second) }
    }

    #[test]
    fn public_is_only_what_follows_from_public_artifacts_alone() {
        use Residency::{Private, Public};
        let absent = || value(artifact("absent", ArtifactType::Pllm, true));
        let compare = |left: Expr| Expr::Compare {
            op: CompareOp::Eq,
            left: Box::new(left),
            right: Box::new(Expr::value(Value::Bool(true))),
        };
        let list =
            |items: Vec<Expr>| Expr::List { items: items.into_iter().map(|e| ("k".into(), e)).collect() };
        let cases = [
            (value(catalog()), Public),
            (field(value(catalog()), "first"), Public),
            (field(value(catalog()), "n"), Public),
            (value(pick()), Private),
            (field(value(pick()), "is_mix"), Private),
            // The pLLM is public; that it was chosen is not.
            (field(value(pick()), "pllm"), Private),
            (field(value(pick()), "mix"), Private),
            (compare(field(value(pick()), "is_mix")), Private),
            (Expr::Not { of: Box::new(field(value(pick()), "is_mix")) }, Private),
            (or(absent(), value(kind())), Private),
            (or(value(kind()), absent()), Public),
            (field(or(absent(), value(catalog())), "first"), Private),
            (list(vec![value(kind()), absent()]), Private),
            (list(vec![value(kind())]), Public),
            (Expr::Mix { terms: vec![(1.0, "a".into(), value(kind()))] }, Public),
            (Expr::Mix { terms: vec![(1.0, "a".into(), field(value(pick()), "pllm"))] }, Private),
            (Expr::value(Value::List(vec![("k".into(), Value::Artifact(pick()))])), Private),
        ];
        for (expr, residency) in cases {
            let resolved = resolve(&expr, &Place).unwrap_or_else(|e| panic!("{expr:?}: {e}"));
            assert_eq!(resolved.residency, residency, "{expr:?} is {resolved:?}");
        }
        let chosen = resolve(&field(value(pick()), "pllm"), &Place).expect("a pLLM").value;
        assert_eq!(chosen, Value::Artifact(kind()));
    }

    #[test]
    fn a_public_artifact_does_not_lead_to_a_private_one() {
        for name in ["held", "x"] {
            let led = resolve(&field(field(value(disguise()), name), "is_mix"), &Place);
            let e = led.expect_err("refused");
            assert!(matches!(&e, ResolveError::PrivateReference { name, .. } if name == "held"), "{e}");
        }
    }
}
