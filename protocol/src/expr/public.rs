//! The resolved form of an expression: everything public in it is a value.
//!
//! An engine resolves what follows from public values before it sends a task, and leaves to the device what
//! touches a private one. A device takes tasks in this form alone. What its owner approves, what is charged, what
//! a result is kept under and what runs are then read from one and the same expression: nothing is left in it
//! that could come to something else in one of these places.

use super::{Expr, Manifests, ResolveError, Resolved, Value, resolve};

/// Resolves everything public in an expression without outputs. A part that touches a private value stays an
/// expression, so the engine never learns what it is.
///
/// # Errors
/// [`ResolveError`] where a manifest cannot be read or lacks a field.
pub fn resolve_public(expr: &Expr, source: &dyn Manifests) -> Result<Expr, ResolveError> {
    if !expr.is_private() {
        return public_value(expr, source).map(Expr::value);
    }
    let known = |e: &Expr| match e {
        Expr::Value { value } if !value.is_private() => Some(value.is_absent()),
        _ => None,
    };
    Ok(match expr {
        Expr::Or { first, second } => {
            let first = resolve_public(first, source)?;
            match known(&first) {
                Some(true) => resolve_public(second, source)?,
                Some(false) => first,
                None => {
                    Expr::Or { first: Box::new(first), second: Box::new(resolve_public(second, source)?) }
                }
            }
        }
        Expr::List { items } => {
            let mut kept = Vec::with_capacity(items.len());
            for (key, item) in items {
                let item = resolve_public(item, source)?;
                if known(&item) != Some(true) {
                    kept.push((key.clone(), item));
                }
            }
            Expr::List { items: kept }
        }
        other => other.try_map_parts(&mut |e| resolve_public(e, source))?,
    })
}

/// The value of an expression that names public artifacts only.
///
/// # Errors
/// As [`resolve_public`].
pub fn public_value(expr: &Expr, source: &dyn Manifests) -> Result<Value, ResolveError> {
    let Resolved { value, residency } = resolve(expr, source)?;
    // No public artifact refers to a private one, so that this never happens.
    if residency.is_private() {
        return Err(ResolveError::Manifest("a public expression came to a private value".to_owned()));
    }
    Ok(value)
}

/// The first part of an expression that [`resolve_public`] would have replaced; `None` where it is in the
/// resolved form. It reads no artifact: that a part follows from public values alone shows in the expression.
pub fn unresolved(expr: &Expr) -> Option<&Expr> {
    if !expr.is_private() {
        return match expr {
            Expr::Value { .. } => None,
            Expr::Output { .. }
            | Expr::Field { .. }
            | Expr::Or { .. }
            | Expr::List { .. }
            | Expr::Mix { .. }
            | Expr::Compare { .. }
            | Expr::Not { .. } => Some(expr),
        };
    }
    match expr {
        Expr::Value { .. } => None,
        Expr::Output { .. } => Some(expr),
        Expr::Field { of, .. } | Expr::Not { of } => unresolved(of),
        // Which of the two it is follows from public values.
        Expr::Or { first, .. } if !first.is_private() => Some(expr),
        Expr::Or { first: left, second: right } | Expr::Compare { left, right, .. } => {
            unresolved(left).or_else(|| unresolved(right))
        }
        Expr::List { items } => {
            let left_out =
                |e: &Expr| matches!(e, Expr::Value { value } if !value.is_private() && value.is_absent());
            items.iter().find_map(|(_, e)| if left_out(e) { Some(e) } else { unresolved(e) })
        }
        Expr::Mix { terms } => terms.iter().find_map(|(.., e)| unresolved(e)),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::json;

    use super::*;
    use crate::artifact::{ArtifactRef, ArtifactType, Manifest};
    use crate::digest::Digest;
    use crate::expr::CompareOp;
    use crate::types::Type;

    /// Every public artifact has a number `n` and no `nothing`.
    struct Numbers;

    impl Manifests for Numbers {
        fn manifest(&self, a: &ArtifactRef) -> Result<Manifest, ResolveError> {
            assert_eq!(a.private_to, None, "a private artifact is not looked into");
            let value = json!({ "n": 5, "nothing": null });
            Ok(Manifest { ty: Type::Metrics, files: BTreeMap::new(), value, uses: BTreeMap::new() })
        }
    }

    fn artifact(private: bool) -> Expr {
        let id = Digest::of(&[u8::from(private)]);
        let private_to = private.then(|| "phone".to_owned());
        Expr::value(Value::Artifact(ArtifactRef { id, ty: ArtifactType::Metrics, private_to }))
    }

    fn field(of: Expr, name: &str) -> Expr {
        Expr::Field { of: Box::new(of), name: name.into() }
    }

    fn or(first: Expr, second: Expr) -> Expr {
        Expr::Or { first: Box::new(first), second: Box::new(second) }
    }

    fn above(left: Expr, right: Expr) -> Expr {
        Expr::Compare { op: CompareOp::Gt, left: Box::new(left), right: Box::new(right) }
    }

    fn list(items: Vec<Expr>) -> Expr {
        Expr::List { items: items.into_iter().map(|e| ("k".into(), e)).collect() }
    }

    /// Each form of expression, with a public part that an engine would have resolved.
    fn not_resolved() -> Vec<Expr> {
        let (public, private) = (|| artifact(false), || artifact(true));
        let five = || field(public(), "n");
        vec![
            Expr::Output { instance: 0 },
            or(private(), Expr::Output { instance: 0 }),
            five(),
            or(Expr::value(Value::Absent), Expr::value(Value::Int(1))),
            or(public(), private()),
            or(Expr::value(Value::Absent), private()),
            or(private(), five()),
            above(five(), field(private(), "n")),
            above(field(private(), "n"), five()),
            above(Expr::value(Value::Int(1)), Expr::value(Value::Int(2))),
            Expr::Not { of: Box::new(Expr::value(Value::Bool(true))) },
            Expr::Not { of: Box::new(above(field(private(), "n"), five())) },
            field(or(private(), or(Expr::value(Value::Absent), public())), "n"),
            list(vec![]),
            list(vec![public()]),
            list(vec![private(), five()]),
            list(vec![private(), Expr::value(Value::Absent)]),
            list(vec![private(), list(vec![public()])]),
            Expr::Mix { terms: vec![(1.0, "a".into(), public())] },
            Expr::Mix {
                terms: vec![(1.0, "a".into(), private()), (1.0, "b".into(), or(public(), public()))],
            },
        ]
    }

    #[test]
    fn a_public_part_of_any_form_is_found() {
        for expr in not_resolved() {
            assert!(unresolved(&expr).is_some(), "{expr:?}");
        }
    }

    #[test]
    fn what_an_engine_resolves_is_in_the_resolved_form() {
        for expr in not_resolved() {
            let has_output = {
                let mut found = false;
                expr.each_output(&mut |_| found = true);
                found
            };
            match resolve_public(&expr, &Numbers) {
                Ok(resolved) => {
                    assert_eq!(unresolved(&resolved), None, "{expr:?}");
                    assert_eq!(resolve_public(&resolved, &Numbers).expect("again"), resolved, "{expr:?}");
                }
                Err(e) => assert!(has_output, "{expr:?}: {e}"),
            }
        }
    }

    #[test]
    fn what_is_private_is_left_as_it_is() {
        let private = || artifact(true);
        let n = || field(private(), "n");
        let mix = Expr::Mix { terms: vec![(0.5, "a".into(), private()), (0.5, "b".into(), artifact(false))] };
        let values = Value::List(vec![("0".into(), Value::Int(1)), ("1".into(), Value::Absent)]);
        let all = [
            private(),
            n(),
            or(private(), artifact(false)),
            or(n(), Expr::value(Value::Absent)),
            above(Expr::value(Value::Float(0.5)), n()),
            above(n(), n()),
            Expr::Not { of: Box::new(n()) },
            list(vec![artifact(false), private()]),
            mix,
            Expr::value(values),
        ];
        for expr in all {
            assert_eq!(unresolved(&expr), None, "{expr:?}");
            assert_eq!(resolve_public(&expr, &Numbers).expect("resolves"), expr);
        }
    }
}
