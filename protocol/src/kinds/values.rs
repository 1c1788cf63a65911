//! Whether a value is of a type that an argument takes.
//!
//! Stages read an optional argument of another type as one that is not there. So that nothing which was given is
//! dropped, such a value is refused before the stage runs.

use super::Arg;
use crate::expr::Value;
use crate::failure::Failure;
use crate::types::Type;

impl Arg {
    /// Checks a value against what the argument takes, where that is numbers, texts and the like. Whether an
    /// artifact is of the right type, its stage finds out.
    ///
    /// # Errors
    /// [`Failure::input`] for a value of another type.
    pub fn check(&self, value: &Value) -> Result<(), Failure> {
        let takes: Vec<Option<bool>> = self.accepts.iter().map(|a| takes(&a.ty(), value)).collect();
        if value.is_absent() || takes.contains(&None) || takes.contains(&Some(true)) {
            return Ok(());
        }
        let types: Vec<String> = self.accepts.iter().map(|a| a.ty().to_string()).collect();
        let m =
            format!("argument `{}` should be {}, but is {}", self.name, types.join(" or "), value.describe());
        Err(Failure::input(m))
    }
}

/// Whether a type takes a value; `None` for types of artifacts.
fn takes(ty: &Type, value: &Value) -> Option<bool> {
    Some(match (ty, value) {
        (Type::List(of), Value::List(items)) => {
            // Of what an empty list is one, nobody can say.
            return items.iter().map(|(_, v)| takes(of, v)).try_fold(true, |all, one| Some(all && one?));
        }
        (Type::List(of), _) => return takes(of, value).map(|_| false),
        (Type::Optional(of), _) => return takes(of, value),
        (Type::Bool, v) => matches!(v, Value::Bool(_)),
        (Type::Int, v) => matches!(v, Value::Int(_)),
        (Type::Float, v) => matches!(v, Value::Float(_) | Value::Int(_)),
        (Type::Text, v) => matches!(v, Value::Text(_)),
        (Type::Path, v) => matches!(v, Value::Path(_)),
        (Type::Duration, v) => matches!(v, Value::Duration(_)),
        (Type::Bytes, v) => matches!(v, Value::Bytes(_)),
        (Type::Condition, v) => matches!(v, Value::Condition(_)),
        (
            Type::Model
            | Type::Pllm
            | Type::Dataset
            | Type::Responses
            | Type::Divergence
            | Type::Space
            | Type::Catalog
            | Type::Selection
            | Type::Mix
            | Type::Metrics,
            _,
        ) => return None,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::artifact::{ArtifactRef, ArtifactType};
    use crate::digest::Digest;
    use crate::expr::Value;
    use crate::kinds;

    fn check(kind: &str, arg: &str, value: &Value) -> Result<(), String> {
        let kind = kinds::find(kind).expect("built in");
        kind.arg(arg).expect("one of its arguments").check(value).map_err(|f| f.message)
    }

    #[test]
    fn a_value_of_another_type_is_no_argument() {
        let artifact = Value::Artifact(ArtifactRef {
            id: Digest::of(b"x"),
            ty: ArtifactType::Metrics,
            private_to: Some("phone".into()),
        });
        let texts = |v: Value| Value::List(vec![("0".into(), Value::Text("a".into())), ("1".into(), v)]);
        let good = [
            ("jsonl", "take", Value::Int(5)),
            ("jsonl", "take", Value::Absent),
            ("jsonl", "path", Value::Path("me.jsonl".into())),
            ("jsonl", "sort", Value::Bool(true)),
            ("finetune", "learning_rate", Value::Float(0.1)),
            ("finetune", "learning_rate", Value::Int(1)),
            ("scale", "sizes", Value::List(vec![("0".into(), Value::Int(5))])),
            ("scale", "sizes", Value::List(vec![])),
            // What an artifact is, its stage finds out.
            ("evaluate", "data", artifact.clone()),
            ("evaluate", "data", Value::Int(5)),
        ];
        for (kind, arg, value) in good {
            assert_eq!(check(kind, arg, &value), Ok(()), "{kind} {arg}: {value:?}");
        }
        let bad = [
            ("jsonl", "take", Value::Float(5.0)),
            ("jsonl", "take", Value::Json(json!(5))),
            ("jsonl", "take", Value::Text("5".into())),
            ("jsonl", "take", artifact),
            ("jsonl", "take", Value::List(vec![])),
            ("jsonl", "path", Value::Text("me.jsonl".into())),
            ("jsonl", "prompt", Value::Path("prompt".into())),
            ("finetune", "learning_rate", Value::Text("0.1".into())),
            ("finetune", "until", Value::Bool(true)),
            ("scale", "sizes", Value::Int(5)),
            ("scale", "sizes", texts(Value::Int(1))),
        ];
        for (kind, arg, value) in bad {
            let why = check(kind, arg, &value).expect_err("of another type");
            assert!(why.starts_with(&format!("argument `{arg}` should be ")), "{why}");
        }
    }
}
