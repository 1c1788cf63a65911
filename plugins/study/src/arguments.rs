//! Lists of numbers among a stage's arguments.

use headstart_protocol::{Args, Failure, Value};

/// The numbers of an argument; `default` where it was left out.
///
/// # Errors
/// If the list is empty or a number is outside `from ..= to`.
pub fn numbers(args: &Args, name: &str, default: &[f64], from: f64, to: f64) -> Result<Vec<f64>, Failure> {
    let Some(Value::List(items)) = args.get(name) else { return Ok(default.to_vec()) };
    let number = |(_, v): &(String, Value)| match v {
        Value::Int(i) => Some(*i as f64),
        Value::Float(x) => Some(*x),
        _ => None,
    };
    let found: Vec<f64> = items.iter().filter_map(number).collect();
    if found.is_empty() {
        return Err(Failure::input(format!("argument `{name}` is an empty list")));
    }
    match found.iter().find(|x| !(from..=to).contains(*x)) {
        Some(x) => {
            Err(Failure::input(format!("argument `{name}` holds {x}, but must lie between {from} and {to}")))
        }
        None => Ok(found),
    }
}

/// The same for whole numbers from 1 up.
///
/// # Errors
/// As [`numbers`].
pub fn counts(args: &Args, name: &str, default: &[usize]) -> Result<Vec<usize>, Failure> {
    let default: Vec<f64> = default.iter().map(|&n| n as f64).collect();
    let found = numbers(args, name, &default, 1.0, 1e9)?;
    Ok(found.into_iter().map(|x| x as usize).collect())
}
