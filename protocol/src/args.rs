//! The arguments of a stage.

use std::collections::BTreeMap;

use crate::artifact::ArtifactRef;
use crate::expr::{Condition, MixTerm, Value};
use crate::failure::Failure;

/// The resolved arguments of a stage, with typed access. The checker has verified names and types,
/// so a wrong type here is a defect and reported as such.
#[derive(Clone, Debug, Default)]
pub struct Args(pub BTreeMap<String, Value>);

impl Args {
    /// The argument, unless it is missing or absent.
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.0.get(name).filter(|v| !v.is_absent())
    }

    fn need<T>(&self, name: &str, found: Option<T>, what: &str) -> Result<T, Failure> {
        found.ok_or_else(|| {
            let got = self.0.get(name).map_or("nothing".to_owned(), Value::describe);
            Failure::input(format!("argument `{name}` should be {what}, but is {got}"))
        })
    }

    /// An artifact argument.
    ///
    /// # Errors
    /// [`FailureClass::Input`](crate::FailureClass::Input) where it is missing or of another type.
    pub fn artifact(&self, name: &str) -> Result<&ArtifactRef, Failure> {
        self.need(name, self.artifact_opt(name), "an artifact")
    }

    /// An optional artifact argument.
    pub fn artifact_opt(&self, name: &str) -> Option<&ArtifactRef> {
        match self.get(name) {
            Some(Value::Artifact(a)) => Some(a),
            _ => None,
        }
    }

    /// A keyed list of artifacts.
    ///
    /// # Errors
    /// As [`Args::artifact`].
    pub fn artifacts(&self, name: &str) -> Result<Vec<(&str, &ArtifactRef)>, Failure> {
        let list = match self.get(name) {
            Some(Value::List(items)) => items
                .iter()
                .map(|(k, v)| match v {
                    Value::Artifact(a) => Some((k.as_str(), a)),
                    _ => None,
                })
                .collect(),
            _ => None,
        };
        self.need(name, list, "a list of artifacts")
    }

    /// A text argument.
    ///
    /// # Errors
    /// As [`Args::artifact`].
    pub fn text(&self, name: &str) -> Result<&str, Failure> {
        self.need(name, self.text_opt(name), "text")
    }

    /// An optional text argument.
    pub fn text_opt(&self, name: &str) -> Option<&str> {
        match self.get(name) {
            Some(Value::Text(t) | Value::Path(t)) => Some(t),
            _ => None,
        }
    }

    /// One text or a list of texts, as a list.
    pub fn texts(&self, name: &str) -> Vec<&str> {
        match self.get(name) {
            Some(Value::Text(t) | Value::Path(t)) => vec![t],
            Some(Value::List(items)) => items
                .iter()
                .filter_map(|(_, v)| match v {
                    Value::Text(t) | Value::Path(t) => Some(t.as_str()),
                    _ => None,
                })
                .collect(),
            _ => Vec::new(),
        }
    }

    /// An integer argument.
    ///
    /// # Errors
    /// As [`Args::artifact`].
    pub fn int(&self, name: &str) -> Result<i64, Failure> {
        self.need(name, self.int_opt(name), "an integer")
    }

    /// An optional integer argument.
    pub fn int_opt(&self, name: &str) -> Option<i64> {
        match self.get(name) {
            Some(Value::Int(i)) => Some(*i),
            _ => None,
        }
    }

    /// An integer argument that counts something.
    ///
    /// # Errors
    /// As [`Args::artifact`], and for a negative number.
    pub fn count(&self, name: &str) -> Result<usize, Failure> {
        let n = self.int(name)?;
        usize::try_from(n)
            .map_err(|_| Failure::input(format!("argument `{name}` is {n}, but must not be negative")))
    }

    /// An integer argument that counts something of which there must be at least one.
    ///
    /// # Errors
    /// As [`Args::artifact`], and for a number below 1.
    pub fn positive(&self, name: &str) -> Result<usize, Failure> {
        match self.count(name)? {
            0 => Err(Failure::input(format!("argument `{name}` is 0, but must be at least 1"))),
            n => Ok(n),
        }
    }

    /// The same, where it may be left out.
    ///
    /// # Errors
    /// As [`Args::positive`].
    pub fn positive_opt(&self, name: &str) -> Result<Option<usize>, Failure> {
        self.int_opt(name).map(|_| self.positive(name)).transpose()
    }

    /// A number argument; integers count as floats.
    ///
    /// # Errors
    /// As [`Args::artifact`].
    pub fn float(&self, name: &str) -> Result<f64, Failure> {
        self.need(name, self.float_opt(name), "a number")
    }

    /// An optional number argument.
    pub fn float_opt(&self, name: &str) -> Option<f64> {
        match self.get(name) {
            Some(Value::Float(x)) => Some(*x),
            Some(Value::Int(i)) => Some(*i as f64),
            _ => None,
        }
    }

    /// A truth value.
    ///
    /// # Errors
    /// As [`Args::artifact`].
    pub fn bool(&self, name: &str) -> Result<bool, Failure> {
        let found = match self.get(name) {
            Some(Value::Bool(b)) => Some(*b),
            _ => None,
        };
        self.need(name, found, "true or false")
    }

    /// A condition over metrics.
    pub fn condition(&self, name: &str) -> Option<&Condition> {
        match self.get(name) {
            Some(Value::Condition(c)) => Some(c),
            _ => None,
        }
    }

    /// Weights over pLLMs.
    ///
    /// # Errors
    /// As [`Args::artifact`].
    pub fn mix(&self, name: &str) -> Result<&[MixTerm], Failure> {
        let found = match self.get(name) {
            Some(Value::Mix(terms)) => Some(terms.as_slice()),
            _ => None,
        };
        self.need(name, found, "a mix")
    }
}
