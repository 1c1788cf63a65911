//! A declared stage as a kind, like those that are built in.

use serde_json::Value as Json;

use super::{DeclarationError, DeclaredArg, DeclaredNumber, DeclaredPlace, DeclaredStage, MAKES};
use crate::kinds::{Accepts, Arg, DefaultValue, Kind, Places, Role};
use crate::release::Number;
use crate::types::Type;

/// Longest name of a metric that a program can declare, in bytes.
const LONGEST_METRIC: usize = 64;
/// Most significant digits of a program's number that leave a device.
const MOST_DIGITS: u8 = 3;

impl DeclaredStage {
    /// The stage as a kind, called `program.name`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn kind(&self, program: &str) -> Result<Kind, DeclarationError> {
        let wrong = |m: String, what: &str| Err(DeclarationError::new(m, &[&self.name, what]));
        if !is_name(&self.name) {
            return wrong(format!("{:?} is no name for a stage: letters, digits and `_`", self.name), "name");
        }
        if self.version == 0 {
            return wrong(format!("versions of `{}` start at 1", self.name), "version");
        }
        let places = match (
            self.places.contains(&DeclaredPlace::Server),
            self.places.contains(&DeclaredPlace::Device),
        ) {
            (true, true) => Places::Anywhere,
            (true, false) => Places::Server,
            (false, true) => Places::Device,
            (false, false) => return wrong(format!("`{}` may run nowhere", self.name), "places"),
        };
        let returns = self.returns()?;
        let mut args: Vec<Arg> = Vec::with_capacity(self.args.len());
        for arg in &self.args {
            if args.iter().any(|a| a.name == arg.name) {
                return wrong(
                    format!("two arguments of `{}` are called `{}`", self.name, arg.name),
                    &arg.name,
                );
            }
            args.push(self.arg(arg)?);
        }
        self.check_rows()?;
        let needed = args.iter().filter(|a| a.default == DefaultValue::Required);
        let call: Vec<String> = needed.map(|a| format!("{}: …", a.name)).collect();
        Ok(Kind {
            name: format!("{program}.{}", self.name),
            version: self.version,
            role: match returns {
                Type::Dataset => Role::Dataset,
                _ => Role::Stage,
            },
            doc: self.doc.clone(),
            args,
            metrics: self.metrics(&returns)?,
            returns,
            places,
            cacheable: self.cacheable(),
            // It computes with what the program brings along; its digest is in the key.
            numeric: false,
            example: format!("{program}.{}({})", self.name, call.join(", ")),
        })
    }

    /// The rows behind what it makes are those of its arguments.
    fn check_rows(&self) -> Result<(), DeclarationError> {
        let bounded = self.metrics.iter().filter_map(|number| match number {
            DeclaredNumber::Bounded(b) => Some(&b.rows),
            DeclaredNumber::Name(_) => None,
        });
        let mut named = self.rows.iter().chain(bounded.flatten());
        match named.find(|name| !self.args.iter().any(|a| a.name == **name)) {
            None => Ok(()),
            Some(name) => {
                let m = format!("`rows` of `{}` names `{name}`, which is no argument of it", self.name);
                Err(DeclarationError::new(m, &[&self.name, "rows", name]))
            }
        }
    }

    /// The declared numbers, whose names are names and not text.
    fn metrics(&self, returns: &Type) -> Result<Vec<Number>, DeclarationError> {
        let wrong = |m: String, what: &str| Err(DeclarationError::new(m, &[&self.name, "metrics", what]));
        if let Some(first) = self.metrics.first()
            && !matches!(returns, Type::Metrics | Type::Pllm)
        {
            return wrong(
                format!("`{}` makes a {returns}, which has no metrics to declare", self.name),
                first.name(),
            );
        }
        for (n, number) in self.metrics.iter().enumerate() {
            let name = number.name();
            if !is_name(name) || name.len() > LONGEST_METRIC {
                let m = format!(
                    "{name:?} is no name for a metric: letters, digits and `_`, {LONGEST_METRIC} at most"
                );
                return wrong(m, name);
            }
            if self.metrics[..n].iter().any(|earlier| earlier.name() == name) {
                return wrong(format!("`{}` declares the metric `{name}` twice", self.name), name);
            }
            if let DeclaredNumber::Bounded(b) = number {
                if !(b.low.is_finite() && b.high.is_finite() && b.low < b.high) {
                    let m = format!(
                        "the metric `{name}` is bounded by {} and {}: the first must be less",
                        b.low, b.high
                    );
                    return wrong(m, name);
                }
                if !(1..=MOST_DIGITS).contains(&b.digits) {
                    let m = format!(
                        "the metric `{name}` has {} digits; it can have 1 to {MOST_DIGITS}",
                        b.digits
                    );
                    return wrong(m, name);
                }
            }
        }
        Ok(self.numbers())
    }

    fn returns(&self) -> Result<Type, DeclarationError> {
        let listed = MAKES.iter().map(Type::to_string).collect::<Vec<_>>().join(", ");
        match Type::from_name(&self.makes) {
            Some(ty) if MAKES.contains(&ty) => Ok(ty),
            Some(ty) => {
                let m = format!("a program's stage cannot make a {ty}; it can make {listed}");
                Err(DeclarationError::new(m, &[&self.name, "makes", &self.makes]))
            }
            None => {
                let m = format!("there is no type `{}`; `{}` can make {listed}", self.makes, self.name);
                let e = DeclarationError::new(m, &[&self.name, "makes", &self.makes]);
                Err(DeclarationError { unknown_type: true, ..e })
            }
        }
    }

    fn arg(&self, arg: &DeclaredArg) -> Result<Arg, DeclarationError> {
        let what = format!("argument `{}` of `{}`", arg.name, self.name);
        let wrong = |m: String, at: &str| Err(DeclarationError::new(m, &[&self.name, &arg.name, at]));
        if !is_name(&arg.name) {
            return wrong(
                format!("{:?} is no name for an argument: letters, digits and `_`", arg.name),
                "name",
            );
        }
        let accepts = match (arg.takes.as_slice(), arg.one_of.as_slice()) {
            ([], []) => return wrong(format!("{what} takes nothing: give it `takes` or `one_of`"), "name"),
            ([], words) => {
                if let Some(w) = words.iter().find(|w| !is_name(w)) {
                    return wrong(format!("{what} takes the word {w:?}, which cannot be written bare"), w);
                }
                vec![Accepts::Word(words.to_vec())]
            }
            (_, [_, ..]) => return wrong(format!("{what} has both `takes` and `one_of`"), "one_of"),
            (types, []) => {
                let accepts = |t: &String| {
                    accepts(t).ok_or_else(|| {
                        let m = format!("{what} takes `{t}`, which is no type that an argument can have");
                        let e = DeclarationError::new(m, &[&self.name, &arg.name, t]);
                        DeclarationError { unknown_type: true, ..e }
                    })
                };
                types.iter().map(accepts).collect::<Result<_, _>>()?
            }
        };
        let default = match (&arg.default, arg.optional) {
            (None, false) => DefaultValue::Required,
            (None, true) => DefaultValue::Absent,
            (Some(_), true) => return wrong(format!("{what} is optional and has a default"), "optional"),
            (Some(value), false) => match default(value, &accepts) {
                Some(default) => default,
                None => return wrong(format!("{what} cannot be {value}, its default"), "default"),
            },
        };
        Ok(Arg { name: arg.name.clone(), accepts, default, doc: arg.doc.clone(), needs: Vec::new() })
    }
}

fn is_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

fn accepts(name: &str) -> Option<Accepts> {
    if let Some(of) = name.strip_prefix("List<").and_then(|t| t.strip_suffix('>')) {
        let of = Type::from_name(of)?;
        return Some(match of {
            Type::Text => Accepts::Texts,
            Type::Path => Accepts::Paths,
            // Weights have their own keys.
            Type::Mix => return None,
            of => Accepts::Listed(of),
        });
    }
    Some(match Type::from_name(name)? {
        Type::Model => Accepts::Model,
        Type::Pllm => Accepts::Pllm,
        Type::Dataset => Accepts::Dataset,
        Type::Responses => Accepts::Responses,
        Type::Divergence => Accepts::Divergence,
        Type::Space => Accepts::Space,
        Type::Catalog => Accepts::Catalog,
        Type::Selection => Accepts::Selection,
        Type::Mix => Accepts::Mix,
        Type::Metrics => Accepts::Metrics,
        Type::Path => Accepts::Path,
        Type::Text => Accepts::Text,
        Type::Int => Accepts::Int,
        Type::Float => Accepts::Float,
        Type::Bool => Accepts::Bool,
        Type::Duration => Accepts::Duration,
        Type::Bytes => Accepts::Bytes,
        Type::Condition | Type::List(_) | Type::Optional(_) => return None,
    })
}

fn default(value: &Json, accepts: &[Accepts]) -> Option<DefaultValue> {
    accepts.iter().find_map(|a| match (a, value) {
        (Accepts::Int, v) => v.as_i64().map(DefaultValue::Int),
        (Accepts::Float, v) => v.as_f64().map(DefaultValue::Float),
        (Accepts::Bool, Json::Bool(b)) => Some(DefaultValue::Bool(*b)),
        (Accepts::Text, Json::String(t)) => Some(DefaultValue::Text(t.clone())),
        (Accepts::Word(words), Json::String(t)) if words.contains(t) => Some(DefaultValue::Text(t.clone())),
        _ => None,
    })
}
