//! How many different rows a stage used.

use std::collections::HashSet;

use headstart_protocol::Context;
use headstart_protocol::rows::{Row, Turn};

/// How many of some rows are different: one that comes twice says no more than once.
pub fn different<'r>(rows: impl IntoIterator<Item = &'r Row>) -> u64 {
    let turn = |t: &'r Turn| (t.role.name(), t.content.as_str());
    let key = |r: &'r Row| (&r.prompt, &r.response, r.history.iter().map(turn).collect::<Vec<_>>());
    rows.into_iter().map(key).collect::<HashSet<_>>().len() as u64
}

/// Counts the different rows that were used for something, one of the counters in
/// [`headstart_protocol::release`]: by them a device decides whether enough rows are behind a number for it to
/// leave. Where nothing is private, nobody asks.
pub fn count_rows(ctx: &dyn Context, counter: &str, rows: impl FnOnce() -> u64) {
    if ctx.is_private() {
        ctx.count(counter, rows());
    }
}

#[cfg(test)]
mod tests {
    use headstart_protocol::rows::Role;

    use super::*;

    #[test]
    fn rows_that_differ_in_anything_are_different() {
        let a = Row::new("a", "b");
        let told = Row { history: vec![Turn::new(Role::User, "hello")], ..a.clone() };
        let rows = [a.clone(), told.clone(), a.clone(), Row::new("a", "c"), told, Row::new("", "ab")];
        assert_eq!(different(&rows), 4);
        assert_eq!(different([]), 0);
    }
}
