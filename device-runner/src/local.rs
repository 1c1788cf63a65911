//! `headstart-device run`: one task on local files, for people who write apps and pipelines.

use std::path::Path;
use std::sync::Arc;

use headstart_disk::SystemDisk;
use headstart_protocol::expr::{Expr, Value};
use headstart_protocol::kinds::{self, DefaultValue};
use headstart_protocol::task::{Outcome, Task};
use headstart_protocol::{Failure, FailureClass, Stage};
use serde_json::{Value as Json, json};

use crate::context::Control;
use crate::device::Device;
use crate::error::DeviceError;
use crate::residency::Allowed;
use crate::state::State;

/// Runs the task in `text`: a [`Task`] as JSON, of which only `kind` and `args` must be given. The
/// output is kept as private, and described as JSON: its handle, manifest and folder.
///
/// # Errors
/// [`DeviceError::Input`] for a task that cannot be read or whose input is wrong,
/// [`DeviceError::Run`] for one that fails otherwise.
pub fn run(
    text: &str,
    data: &Path,
    state: &Path,
    stages: Vec<Box<dyn Stage>>,
    limits: (usize, Option<u64>),
) -> Result<Json, DeviceError> {
    let task = read(text).map_err(|why| DeviceError::Input(format!("the task on standard input: {why}")))?;
    let device =
        Device::new("local", data, State::open(state, Arc::new(SystemDisk))?, stages, Allowed::NONE, limits)?;
    let made = device.check(&task).and_then(|()| device.work(&task, &[], &Control::default()));
    let made = made.map_err(|f| failed(&f))?;
    let Outcome::Succeeded { output, .. } = made.outcome else {
        return Err(DeviceError::Internal("a private task was skipped".into()));
    };
    let held = device.store.private.get(&output.id).and_then(|h| h.manifest);
    Ok(match held {
        None => json!({ "handle": output.id, "absent": true }),
        Some(manifest) => {
            let folder = device.store.private.files(&output.id);
            json!({ "handle": output.id, "manifest": manifest, "folder": folder })
        }
    })
}

fn failed(f: &Failure) -> DeviceError {
    let text = match &f.help {
        Some(help) => format!("{}; {help}", f.message),
        None => f.message.clone(),
    };
    match f.class {
        FailureClass::Input | FailureClass::MissingArtifact => DeviceError::Input(text),
        FailureClass::Internal => DeviceError::Internal(text),
        _ => DeviceError::Run(text),
    }
}

fn read(text: &str) -> Result<Task, String> {
    let json: Json = serde_json::from_str(text).map_err(|e| format!("not JSON: {e}"))?;
    let given = json.as_object().ok_or("not a JSON object")?;
    let name = given.get("kind").and_then(Json::as_str).ok_or("`kind` is missing")?;
    let kind = kinds::find(name).ok_or_else(|| format!("there is no stage kind `{name}`"))?;
    let mut whole = json!({
        "run": "local", "instance": 0, "name": name, "attempt": 1, "fence": 0,
        "version": kind.version, "ty": kind.returns, "private": true, "args": {},
    });
    for (key, value) in given {
        whole[key.as_str()] = value.clone();
    }
    // Nothing leaves, whatever the task says.
    whole["release"] = json!([]);
    whole["private"] = json!(true);
    let mut task: Task = serde_json::from_value(whole).map_err(|e| e.to_string())?;
    for arg in &kind.args {
        let value = match &arg.default {
            DefaultValue::Int(i) => Value::Int(*i),
            DefaultValue::Float(x) => Value::Float(*x),
            DefaultValue::Bool(b) => Value::Bool(*b),
            DefaultValue::Text(t) => Value::Text(t.clone()),
            DefaultValue::Absent => continue,
            DefaultValue::Required if task.args.contains_key(&arg.name) => continue,
            DefaultValue::Required => return Err(format!("argument `{}` of `{name}` is missing", arg.name)),
        };
        task.args.entry(arg.name.clone()).or_insert_with(|| Expr::value(value));
    }
    Ok(task)
}
