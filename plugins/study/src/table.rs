//! Tables: what a study ends in, for people in Markdown and for programs in JSON.

use std::collections::{BTreeMap, BTreeSet};

use headstart_disk::files;
use headstart_protocol::artifacts::{Artifact, Metrics};
pub use headstart_protocol::artifacts::{Cell, Table};
use headstart_protocol::{Args, Context, Failure, Output, Stage, Type};
use headstart_stats::{bootstrap_interval, mean};

/// Name of the file for people.
pub const MARKDOWN_FILE: &str = "table.md";
/// Name of the file for programs.
pub const JSON_FILE: &str = "table.json";

/// Draws behind an interval of a mean.
const DRAWS: usize = 2000;

/// What tables of studies do beside holding cells.
pub trait TableExt {
    /// An empty table with these columns.
    fn with_columns<S: Into<String>>(columns: impl IntoIterator<Item = S>) -> Self;
    /// The table in Markdown.
    fn markdown(&self) -> String;
    /// Metrics that hold the table, with a few numbers beside it, and its two files.
    ///
    /// # Errors
    /// If the files cannot be written.
    fn output(self, ctx: &dyn Context, numbers: Metrics) -> Result<Output, Failure>;
}

/// A cell as people read it.
pub fn cell_text(cell: &Cell) -> String {
    match cell {
        Cell::Text(t) => t.clone(),
        Cell::Number(x) => number(*x),
        Cell::Estimate { value, low, high } => {
            format!("{} ({}–{})", number(*value), number(*low), number(*high))
        }
        Cell::Nothing(()) => String::new(),
    }
}

/// A number in as many digits as tell something: whole ones whole, shares in three decimals, large
/// ones without decimals.
pub fn number(x: f64) -> String {
    let size = x.abs();
    if !x.is_finite() {
        "–".to_owned()
    } else if x == x.trunc() || size >= 1000.0 {
        format!("{x:.0}")
    } else if size >= 10.0 {
        format!("{x:.1}")
    } else if size >= 0.001 {
        format!("{x:.3}")
    } else {
        format!("{x:.1e}")
    }
}

impl TableExt for Table {
    fn with_columns<S: Into<String>>(columns: impl IntoIterator<Item = S>) -> Self {
        Self { columns: columns.into_iter().map(Into::into).collect(), rows: Vec::new() }
    }

    fn markdown(&self) -> String {
        let line = |cells: Vec<String>| format!("| {} |\n", cells.join(" | "));
        let mut out = line(self.columns.clone());
        out.push_str(&line(vec!["---".to_owned(); self.columns.len()]));
        for row in &self.rows {
            out.push_str(&line(row.iter().map(|c| cell_text(c).replace('|', "\\|")).collect()));
        }
        out
    }

    fn output(mut self, ctx: &dyn Context, numbers: Metrics) -> Result<Output, Failure> {
        // JSON has no number for what could not be measured.
        for cell in self.rows.iter_mut().flatten() {
            let finite = match cell {
                Cell::Number(x) => x.is_finite(),
                Cell::Estimate { value, low, high } => [*value, *low, *high].iter().all(|x| x.is_finite()),
                Cell::Text(_) | Cell::Nothing(()) => true,
            };
            if !finite {
                *cell = Cell::Nothing(());
            }
        }
        let markdown = self.markdown();
        let json = serde_json::to_value(&self).expect("a table always serializes");
        let metrics = Metrics { table: Some(self), ..numbers };
        let mut output = Output::of(Type::Metrics, &metrics)?;
        for (name, text) in [(MARKDOWN_FILE, markdown), (JSON_FILE, format!("{json:#}\n"))] {
            let at = ctx.scratch().join(name);
            files::write(ctx.disk(), &at, text.as_bytes())?;
            output = output.file(name, at);
        }
        Ok(output)
    }
}

/// The stage kind `table`.
///
/// Metrics that hold a table of their own give its rows, the key in front; the others give a row of
/// their numbers. `NAME_low` and `NAME_high` (or `low` and `high` of `accuracy`) are the interval of
/// `NAME`.
pub struct TableStage;

impl Stage for TableStage {
    fn kind(&self) -> &'static str {
        "table"
    }

    fn run(&self, args: &Args, ctx: &dyn Context) -> Result<Output, Failure> {
        let mut rows = Vec::new();
        for (key, metrics) in args.artifacts("rows")? {
            rows.push((key.to_owned(), Metrics::of(&ctx.manifest(metrics)?)?));
        }
        if rows.is_empty() {
            return Err(Failure::input("`rows` is empty: there is nothing to put into a table"));
        }
        let table = if args.bool("pool")? { pooled(&rows) } else { stacked(&rows) };
        table.output(ctx, Metrics::default())
    }
}

/// Rows below one another, in the order in which they were given.
fn stacked(rows: &[(String, Metrics)]) -> Table {
    let mut columns: Vec<String> = Vec::new();
    let mut all: Vec<(String, BTreeMap<String, Cell>)> = Vec::new();
    let mut note = |name: &str| {
        if !columns.iter().any(|c| c == name) {
            columns.push(name.to_owned());
        }
    };
    for (key, value) in rows {
        match &value.table {
            Some(table) => {
                table.columns.iter().for_each(|c| note(c));
                let row = |cells: Vec<Cell>| table.columns.iter().cloned().zip(cells).collect();
                all.extend(table.rows.clone().into_iter().map(|cells| (key.clone(), row(cells))));
            }
            None => {
                let cells = cells(value);
                cells.keys().for_each(|c| note(c));
                all.push((key.clone(), cells));
            }
        }
    }
    let mut out = Table::with_columns(["".to_owned()].into_iter().chain(columns.iter().cloned()));
    for (key, mut cells) in all {
        let found = columns.iter().map(|c| cells.remove(c).unwrap_or(Cell::Nothing(())));
        out.rows.push([Cell::Text(key)].into_iter().chain(found).collect());
    }
    out
}

/// The numbers of metrics as cells, intervals with their estimates.
fn cells(metrics: &Metrics) -> BTreeMap<String, Cell> {
    let numbers = numbers(metrics);
    let end = |name: &str, end: &str| {
        let own = numbers.get(&format!("{name}_{end}"));
        own.or_else(|| if name == "accuracy" { numbers.get(end) } else { None }).copied()
    };
    let is_end = |name: &str| {
        let bare = |end: &str| name == end && numbers.contains_key("accuracy");
        let of = |end: &str| name.strip_suffix(end).is_some_and(|n| numbers.contains_key(n));
        bare("low") || bare("high") || of("_low") || of("_high")
    };
    let cell = |(name, x): (&String, &f64)| {
        let cell = match (end(name, "low"), end(name, "high")) {
            (Some(low), Some(high)) => Cell::estimate(*x, (low, high)),
            _ => Cell::Number(*x),
        };
        (name.clone(), cell)
    };
    // Numbers of groups have names with a slash; they would be a column each.
    numbers.iter().filter(|(name, _)| !is_end(name) && !name.contains('/')).map(cell).collect()
}

fn numbers(metrics: &Metrics) -> BTreeMap<String, f64> {
    metrics.all().map(|(name, x)| (name.to_owned(), x)).collect()
}

/// Means over rows whose keys agree behind the first comma.
fn pooled(rows: &[(String, Metrics)]) -> Table {
    let mut order: Vec<&str> = Vec::new();
    let mut groups: BTreeMap<&str, Vec<BTreeMap<String, f64>>> = BTreeMap::new();
    for (key, value) in rows {
        let group = key.split_once(',').map_or("all", |(_, rest)| rest);
        if !order.contains(&group) {
            order.push(group);
        }
        groups.entry(group).or_default().push(numbers(value));
    }
    let names: BTreeSet<String> = groups.values().flatten().flat_map(|n| n.keys().cloned()).collect();
    let is_end = |n: &str| n.ends_with("_low") || n.ends_with("_high");
    let names: Vec<String> = names.into_iter().filter(|n| !is_end(n)).collect();
    let mut out =
        Table::with_columns(["".to_owned(), "n".to_owned()].into_iter().chain(names.iter().cloned()));
    for group in order {
        let members = &groups[group];
        let mean = |name: &String| {
            let all: Vec<f64> = members.iter().filter_map(|m| m.get(name).copied()).collect();
            mean_cell(&all)
        };
        let head = [Cell::from(group), Cell::Number(members.len() as f64)];
        out.rows.push(head.into_iter().chain(names.iter().map(mean)).collect());
    }
    out
}

/// The mean, with its bootstrap interval where there are two or more.
fn mean_cell(all: &[f64]) -> Cell {
    match all.len() {
        0 => Cell::Nothing(()),
        1 => Cell::Number(all[0]),
        _ => Cell::estimate(mean(all), interval(all, &mean, 0)),
    }
}

/// The 95% bootstrap interval of a statistic over `all`.
pub fn interval(all: &[f64], statistic: &dyn Fn(&[f64]) -> f64, seed: u64) -> (f64, f64) {
    bootstrap_interval(all, statistic, DRAWS, seed)
}

/// Metrics of these numbers.
pub fn metrics(numbers: &[(&str, f64)]) -> Metrics {
    numbers.iter().fold(Metrics::default(), |m, (name, x)| m.with(*name, *x))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_become_rows_and_ends_become_intervals() {
        let rows = [
            (
                "a".to_owned(),
                metrics(&[("accuracy", 0.5), ("low", 0.25), ("high", 0.75), ("n", 8.0), ("n/0.3", 4.0)]),
            ),
            ("b".to_owned(), metrics(&[("loss", 1.25), ("loss_low", 1.0), ("loss_high", 1.5), ("n", 9.0)])),
        ];
        let text = stacked(&rows).markdown();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "|  | accuracy | n | loss |");
        assert_eq!(lines[2], "| a | 0.500 (0.250–0.750) | 8 |  |");
        assert_eq!(lines[3], "| b |  | 9 | 1.250 (1–1.500) |");
    }

    #[test]
    fn tables_of_metrics_are_put_below_one_another() {
        let mut inner = Table::with_columns(["texts", "right"]);
        inner.rows.push(vec![5.0.into(), Cell::estimate(0.5, (0.25, 0.75))]);
        let value = Metrics { table: Some(inner), ..Metrics::default() };
        let rows = [("ours".to_owned(), value.clone()), ("paper".to_owned(), value)];
        let text = stacked(&rows).markdown();
        assert!(
            text.ends_with("| ours | 5 | 0.500 (0.250–0.750) |\n| paper | 5 | 0.500 (0.250–0.750) |\n"),
            "{text}"
        );
    }

    #[test]
    fn groups_are_averaged() {
        let loss = |i: u32| metrics(&[("loss", f64::from(i))]);
        let rows: Vec<(String, Metrics)> = (0..4).map(|i| (format!("u{i},0.{}", i % 2), loss(i))).collect();
        let table = pooled(&rows);
        assert_eq!(table.columns, ["", "n", "loss"]);
        let Cell::Estimate { value, low, high } = table.rows[1][2] else { panic!("{table:?}") };
        assert!(value == 2.0 && low == 1.0 && high == 3.0, "{table:?}");
    }
}
