//! The one walk over expressions and values. All code that looks into an expression or rebuilds one does
//! so through these, so that a new form of expression is added in one place.

use std::convert::Infallible;

use super::{Expr, MixTerm, Value};
use crate::artifact::ArtifactRef;

impl Expr {
    /// Calls `f` with the expression and every expression inside it, the outer one first, from left
    /// to right.
    pub fn visit<'a>(&'a self, f: &mut dyn FnMut(&'a Expr)) {
        f(self);
        match self {
            Self::Value { .. } | Self::Output { .. } => {}
            Self::Field { of, .. } | Self::Not { of } => of.visit(f),
            Self::Or { first: left, second: right } | Self::Compare { left, right, .. } => {
                left.visit(f);
                right.visit(f);
            }
            Self::List { items } => items.iter().for_each(|(_, e)| e.visit(f)),
            Self::Mix { terms } => terms.iter().for_each(|(.., e)| e.visit(f)),
        }
    }

    /// The same expression over other parts: each expression directly inside it is replaced by what
    /// `f` gives for it. Values and outputs have no parts and stay as they are.
    ///
    /// # Errors
    /// The first error that `f` gives.
    pub fn try_map_parts<E>(&self, f: &mut dyn FnMut(&Expr) -> Result<Expr, E>) -> Result<Expr, E> {
        let mut boxed = |e: &Expr| f(e).map(Box::new);
        Ok(match self {
            Self::Value { .. } | Self::Output { .. } => self.clone(),
            Self::Field { of, name } => Self::Field { of: boxed(of)?, name: name.clone() },
            Self::Not { of } => Self::Not { of: boxed(of)? },
            Self::Or { first, second } => Self::Or { first: boxed(first)?, second: boxed(second)? },
            Self::Compare { op, left, right } => {
                Self::Compare { op: *op, left: boxed(left)?, right: boxed(right)? }
            }
            Self::List { items } => {
                let items = items.iter().map(|(key, e)| Ok((key.clone(), f(e)?)));
                Self::List { items: items.collect::<Result<_, E>>()? }
            }
            Self::Mix { terms } => {
                let terms = terms.iter().map(|(weight, name, e)| Ok((*weight, name.clone(), f(e)?)));
                Self::Mix { terms: terms.collect::<Result<_, E>>()? }
            }
        })
    }

    /// As [`Expr::try_map_parts`], where nothing can go wrong.
    pub fn map_parts(&self, f: &mut dyn FnMut(&Expr) -> Expr) -> Expr {
        let mapped: Result<Expr, Infallible> = self.try_map_parts(&mut |e| Ok(f(e)));
        match mapped {
            Ok(expr) => expr,
            Err(never) => match never {},
        }
    }

    /// The expression with every artifact in it replaced by what `f` gives for it.
    ///
    /// # Errors
    /// The first error that `f` gives.
    pub fn try_map_artifacts<E>(
        &self,
        f: &mut dyn FnMut(&ArtifactRef) -> Result<ArtifactRef, E>,
    ) -> Result<Expr, E> {
        match self {
            Self::Value { value } => value.try_map_artifacts(f).map(Self::value),
            _ => self.try_map_parts(&mut |e| e.try_map_artifacts(f)),
        }
    }

    /// Calls `f` with every instance that the expression refers to.
    pub fn each_output(&self, f: &mut impl FnMut(u32)) {
        self.visit(&mut |e| {
            if let Self::Output { instance } = e {
                f(*instance);
            }
        });
    }

    /// Calls `f` with every value in the expression.
    pub fn each_value<'a>(&'a self, f: &mut dyn FnMut(&'a Value)) {
        self.visit(&mut |e| {
            if let Self::Value { value } = e {
                value.visit(f);
            }
        });
    }

    /// Calls `f` with every artifact in the expression.
    pub fn each_artifact(&self, f: &mut impl FnMut(&ArtifactRef)) {
        self.each_value(&mut |v| v.own_artifacts(f));
    }

    /// The expression with every [`Expr::Output`] replaced by what `f` gives for it.
    pub fn substitute(&self, f: &impl Fn(u32) -> Value) -> Expr {
        match self {
            Self::Output { instance } => Self::value(f(*instance)),
            _ => self.map_parts(&mut |e| e.substitute(f)),
        }
    }

    /// Whether any value in it is private to a device.
    pub fn is_private(&self) -> bool {
        let mut private = false;
        self.each_artifact(&mut |a| private |= a.private_to.is_some());
        private
    }
}

impl Value {
    /// Calls `f` with the value and every value inside it, the outer one first.
    pub fn visit<'a>(&'a self, f: &mut dyn FnMut(&'a Value)) {
        f(self);
        if let Self::List(items) = self {
            items.iter().for_each(|(_, v)| v.visit(f));
        }
    }

    /// Calls `f` with every artifact in it.
    pub fn each_artifact(&self, f: &mut impl FnMut(&ArtifactRef)) {
        self.visit(&mut |v| v.own_artifacts(f));
    }

    /// Whether it holds an artifact that is private to a device.
    pub fn is_private(&self) -> bool {
        let mut private = false;
        self.each_artifact(&mut |a| private |= a.private_to.is_some());
        private
    }

    /// The value with every artifact in it replaced by what `f` gives for it.
    ///
    /// # Errors
    /// The first error that `f` gives.
    pub fn try_map_artifacts<E>(
        &self,
        f: &mut dyn FnMut(&ArtifactRef) -> Result<ArtifactRef, E>,
    ) -> Result<Value, E> {
        Ok(match self {
            Self::Artifact(a) => Self::Artifact(f(a)?),
            Self::List(items) => {
                let items = items.iter().map(|(key, v)| Ok((key.clone(), v.try_map_artifacts(f)?)));
                Self::List(items.collect::<Result<_, E>>()?)
            }
            Self::Mix(terms) => {
                let terms = terms.iter().map(|t| Ok(MixTerm { pllm: f(&t.pllm)?, ..t.clone() }));
                Self::Mix(terms.collect::<Result<_, E>>()?)
            }
            other => other.clone(),
        })
    }

    /// Artifacts of the value itself, not of values inside it.
    fn own_artifacts(&self, f: &mut impl FnMut(&ArtifactRef)) {
        match self {
            Self::Artifact(a) => f(a),
            Self::Mix(terms) => terms.iter().for_each(|t| f(&t.pllm)),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::CompareOp;
    use super::*;
    use crate::artifact::ArtifactType;
    use crate::digest::Digest;

    fn artifact(name: &str, private_to: Option<&str>) -> ArtifactRef {
        ArtifactRef {
            id: Digest::of(name.as_bytes()),
            ty: ArtifactType::Pllm,
            private_to: private_to.map(str::to_owned),
        }
    }

    /// One of every form, around an output, an artifact, a list and a mix.
    fn every_form() -> Expr {
        let out = |instance| Expr::Output { instance };
        let boxed = Box::new;
        let term = MixTerm { weight: 0.5, pllm: artifact("mixed", None), name: "mixed".into() };
        let listed = Value::List(vec![
            ("a".into(), Value::Artifact(artifact("listed", None))),
            ("m".into(), Value::Mix(vec![term])),
        ]);
        let field = Expr::Field { of: boxed(out(1)), name: "x".into() };
        let or = Expr::Or { first: boxed(field), second: boxed(Expr::value(listed)) };
        let not = Expr::Not { of: boxed(out(2)) };
        let compare = Expr::Compare { op: CompareOp::Lt, left: boxed(or), right: boxed(not) };
        let private = Expr::value(Value::Artifact(artifact("private", Some("phone"))));
        let mix = Expr::Mix { terms: vec![(1.0, "p".into(), private), (2.0, "o".into(), out(3))] };
        Expr::List { items: vec![("c".into(), compare), ("x".into(), mix)] }
    }

    #[test]
    fn every_part_is_visited_once_from_left_to_right() {
        let expr = every_form();
        let mut outputs = Vec::new();
        expr.each_output(&mut |i| outputs.push(i));
        assert_eq!(outputs, [1, 2, 3]);
        let mut artifacts = Vec::new();
        expr.each_artifact(&mut |a| artifacts.push(a.id));
        assert_eq!(artifacts, ["listed", "mixed", "private"].map(|n| Digest::of(n.as_bytes())));
        assert!(expr.is_private());
        let mut parts = 0;
        expr.visit(&mut |_| parts += 1);
        assert_eq!(parts, 11);
    }

    #[test]
    fn mapping_changes_what_it_is_asked_to_and_nothing_else() {
        let expr = every_form();
        assert_eq!(expr.map_parts(&mut Expr::clone), expr);
        let same: Result<Expr, Infallible> = expr.try_map_artifacts(&mut |a| Ok(a.clone()));
        assert_eq!(same.expect("nothing fails"), expr);

        let public: Result<Expr, Infallible> =
            expr.try_map_artifacts(&mut |a| Ok(ArtifactRef { private_to: None, ..a.clone() }));
        assert!(!public.expect("nothing fails").is_private());
        let refused = expr
            .try_map_artifacts(&mut |a| if a.private_to.is_some() { Err("private") } else { Ok(a.clone()) });
        assert_eq!(refused, Err("private"));

        let known = expr.substitute(&|i| Value::Int(i64::from(i)));
        known.each_output(&mut |i| panic!("output {i} is left"));
        let mut numbers = Vec::new();
        known.each_value(&mut |v| {
            if let Value::Int(i) = v {
                numbers.push(*i);
            }
        });
        assert_eq!(numbers, [1, 2, 3]);
    }
}
