//! The summary for a terminal.

use std::collections::BTreeMap;
use std::fmt::Write;

use headstart_protocol::text::plural;

use crate::compare::{self, Pair};
use crate::run::{Output, OutputView, RunReport, StageState};
use crate::text::{
    bar, coefficient, counted, cut, fold, grouped, metric, metrics, minus, pad, pad_left, percent, seconds,
    spaced, sureness, width, wrap,
};
use crate::view::{Catalog, Numbers, Selection, Share, Style, Word, shares};

/// Words of a style that are shown at most.
const WORDS: usize = 3;
/// pLLMs that are shown at most, beside the chosen.
const ROWS: usize = 40;
/// Sample answers that are shown at most.
const SAMPLES: usize = 3;

/// Columns for which tables are laid out at least; for fewer, their lines are broken.
const LAID_OUT: usize = 48;

/// A summary of at most `width` columns; with `color`, bars and headings are coloured by ANSI codes.
pub fn terminal(report: &RunReport, width: usize, color: bool) -> String {
    let text = lines(report, width.clamp(LAID_OUT, 160), color);
    if width < LAID_OUT { fold(&text, width) } else { text }
}

fn lines(report: &RunReport, width: usize, color: bool) -> String {
    let mut page = Page { out: String::new(), width, color };
    page.head(report);
    page.failures(report);
    let selection = report.outputs.iter().find_map(|o| Selection::of(&o.view));
    for catalog in report.outputs.iter().filter_map(|o| Catalog::of(&o.view)) {
        page.catalog(&catalog, selection.as_ref());
    }
    if let Some(selection) = &selection {
        page.selection(selection);
    }
    let (head_start, before_after) = (compare::head_start(report), compare::before_after(report));
    if let Some(pair) = &head_start {
        page.head_start(pair);
    }
    if let Some(pair) = &before_after {
        page.before_after(pair);
    }
    let paired = |name: &str| {
        [&head_start, &before_after].into_iter().flatten().any(|p| p.names.0 == name || p.names.1 == name)
    };
    for output in report.outputs.iter().filter(|o| !paired(&o.name)) {
        page.other(output);
    }
    page.time(report);
    page.out
}

/// Widths of the catalog's columns, and the coefficient of a full bar.
struct Columns {
    name: usize,
    word: usize,
    scale: f64,
}

struct Page {
    out: String,
    width: usize,
    color: bool,
}

/// ANSI colours by what they mean here.
#[derive(Clone, Copy)]
enum Ink {
    Heading,
    Good,
    Bad,
    Bar,
    Opposite,
    Quiet,
}

impl Page {
    fn ink(&self, ink: Ink, text: &str) -> String {
        let code = match ink {
            Ink::Heading => "1",
            Ink::Good => "1;32",
            Ink::Bad => "1;31",
            Ink::Bar => "36",
            Ink::Opposite => "33",
            Ink::Quiet => "2",
        };
        if self.color && !text.is_empty() { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    fn line(&mut self, text: &str) {
        let _ = writeln!(self.out, "{}", text.trim_end());
    }

    fn heading(&mut self, text: &str, note: &str) {
        let line = format!("{}  {}", self.ink(Ink::Heading, text), self.ink(Ink::Quiet, note));
        self.line("");
        self.line(&line);
    }

    fn head(&mut self, report: &RunReport) {
        let left = format!("Headstart · {}", report.pipeline);
        let outcome =
            if report.outcome.is_empty() { String::new() } else { format!("{} · ", report.outcome) };
        let right = format!("{outcome}{} · run {}", seconds(report.seconds), cut(&report.run, 13));
        let left = cut(&left, self.width.saturating_sub(width(&right) + 2).max(12));
        let gap = self.width.saturating_sub(width(&left) + width(&right)).max(2);
        let line =
            format!("{}{}{}", self.ink(Ink::Heading, &left), " ".repeat(gap), self.ink(Ink::Quiet, &right));
        self.line(&line);
        self.line(&self.ink(Ink::Quiet, &"─".repeat(self.width)));
    }

    fn failures(&mut self, report: &RunReport) {
        if report.failures.is_empty() {
            return;
        }
        let width = self.width - 4;
        self.heading("Why it failed", &counted(report.failures.len() as u64, "failed stage instance"));
        for f in report.failures.iter().take(ROWS) {
            let blocks = match f.blocks {
                0 => String::new(),
                n => format!("; blocks {}", counted(n as u64, "stage instance")),
            };
            let head = format!(
                "  {} {}{}",
                self.ink(Ink::Bad, f.state.word()),
                f.name,
                self.ink(Ink::Quiet, &blocks)
            );
            self.line(&head);
            for line in wrap(&f.message, width, 12) {
                self.line(&format!("    {line}"));
            }
            for line in f.help.iter().flat_map(|h| wrap(&format!("help: {h}"), width, 6)) {
                self.line(&format!("    {line}"));
            }
        }
        if report.failures.len() > ROWS {
            let more = format!("  and {} more", report.failures.len() - ROWS);
            self.line(&more);
        }
    }

    fn catalog(&mut self, catalog: &Catalog, selection: Option<&Selection>) {
        let n = catalog.pllms.len();
        let note = format!("{}; last column: share explained", counted(n as u64, "pLLM"));
        self.heading("The catalog in words", &note);
        let styles = || catalog.pllms.iter().map(|(_, s)| s).chain(selection.map(|s| &s.user));
        let words = styles().flat_map(|s| s.words.iter().take(WORDS)).map(|w| width(&w.said()));
        let names = catalog.pllms.iter().map(|(n, _)| width(n));
        let columns = Columns {
            name: names.max().unwrap_or(0).clamp(3, self.width / 3),
            word: words.max().unwrap_or(0).clamp(4, 14),
            scale: scale(styles()),
        };
        let mut left_out = 0;
        for (i, (name, style)) in catalog.pllms.iter().enumerate() {
            let chosen = selection.is_some_and(|s| s.chosen(name));
            if i >= ROWS && !chosen {
                left_out += 1;
                continue;
            }
            let mark = if chosen { "▸ " } else { "  " };
            let name = pad(&cut(name, columns.name), columns.name);
            let name = if chosen { self.ink(Ink::Good, &name) } else { name };
            let line = format!("{mark}{name}  {}", self.words(style, &columns));
            self.line(&line);
        }
        if left_out > 0 {
            let line = format!("  {}", self.ink(Ink::Quiet, &format!("and {left_out} more")));
            self.line(&line);
        }
        if let Some(user) = selection.map(|s| &s.user).filter(|u| !u.words.is_empty()) {
            let name = self.ink(Ink::Heading, &pad("you", columns.name));
            let line = format!("  {name}  {}", self.words(user, &columns));
            self.line(&line);
        }
    }

    /// Words of a style with little bars, as many as fit beside the name.
    fn words(&self, style: &Style, columns: &Columns) -> String {
        const BAR: usize = 5;
        if style.words.is_empty() {
            return self.ink(Ink::Quiet, "no word describes it");
        }
        let cell = columns.word + BAR + 8;
        let shown = (self.width.saturating_sub(columns.name + 10) / cell).clamp(1, WORDS);
        let one = |w: &Word| {
            let ink = if w.coefficient < 0.0 { Ink::Opposite } else { Ink::Bar };
            let bar = pad(&bar(w.coefficient.abs() / columns.scale, BAR), BAR);
            let word = pad(&cut(&w.said(), columns.word), columns.word);
            format!("{word} {} {}", self.ink(ink, &bar), coefficient(w.coefficient.abs()))
        };
        let mut line = style.words.iter().take(shown).map(one).collect::<Vec<_>>().join("  ");
        if let Some(explained) = style.explained {
            let missing = " ".repeat(shown.saturating_sub(style.words.len()) * cell);
            let _ = write!(line, "{missing}  {}", self.ink(Ink::Quiet, &pad_left(&percent(explained), 5)));
        }
        line
    }

    fn selection(&mut self, s: &Selection) {
        let sure = s.confidence.map(|c| format!("{} ({})", sureness(c), percent(c))).unwrap_or_default();
        self.heading("The choice", &sure);
        let choice = format!("  {}", self.ink(Ink::Good, &s.choice()));
        self.line(&choice);
        for sentence in [&s.sentence, &s.expected].into_iter().flatten() {
            for line in wrap(sentence, self.width - 2, 4) {
                self.line(&format!("  {line}"));
            }
        }
        if !s.user.words.is_empty() {
            let scale = scale([&s.user].into_iter());
            self.line("");
            for w in &s.user.words {
                let interval = w.interval.map(|(l, h)| format!("{} to {}", coefficient(l), coefficient(h)));
                let ink = if w.coefficient < 0.0 { Ink::Opposite } else { Ink::Bar };
                let line = format!(
                    "  {} {} {}  {}",
                    pad(&cut(&format!("you: {}", w.said()), 22), 22),
                    self.ink(ink, &pad(&bar(w.coefficient.abs() / scale, 16), 16)),
                    pad_left(&coefficient(w.coefficient), 5),
                    self.ink(Ink::Quiet, &interval.unwrap_or_default()),
                );
                self.line(&line);
            }
        }
        if s.distances.len() > 1 {
            let near = |(n, d): &(String, f64)| format!("{n} {d:.2}");
            let list = s.distances.iter().take(5).map(near).collect::<Vec<_>>().join(" · ");
            let line = cut(&format!("  nearest: {list}"), self.width);
            self.line(&self.ink(Ink::Quiet, &line));
        }
    }

    fn head_start(&mut self, pair: &Pair) {
        self.heading("The head start", "fine-tuning to the same goal");
        let most = |name: &str| {
            [&pair.with, &pair.without].into_iter().filter_map(|n| n.get(name)).fold(0.0, f64::max)
        };
        for (label, n, ink) in [("with", &pair.with, Ink::Good), ("without", &pair.without, Ink::Quiet)] {
            let mut line = format!("  {}", pad(label, 8));
            if let Some(steps) = n.get("steps") {
                let bar = bar(steps / most("steps").max(1.0), 24);
                let _ = write!(
                    line,
                    "{} {} {}",
                    self.ink(ink, &pad(&bar, 24)),
                    pad_left(&metric(steps), 5),
                    plural(steps as u64, "step")
                );
            }
            if let Some(s) = n.get("seconds") {
                let _ = write!(line, "  {}", pad_left(&seconds(s), 8));
            }
            match (n.get("start_loss"), n.get("loss")) {
                (Some(start), Some(end)) => {
                    let _ = write!(line, "   loss {}", metrics(start, end).join(" → "));
                }
                (None, Some(end)) => drop(write!(line, "   loss {}", metric(end))),
                _ => {}
            }
            self.line(&line);
        }
        let said = saved_sentence(pair);
        if !said.is_empty() {
            let line = format!("  {}", self.ink(Ink::Good, &said));
            self.line(&line);
        }
    }

    fn before_after(&mut self, pair: &Pair) {
        self.heading("Before and after", "on rows held back");
        for (key, label, down) in SHOWN {
            let (Some(before), Some(after)) = (pair.without.get(key), pair.with.get(key)) else { continue };
            let better = if *down { after < before } else { after > before };
            let [before, after] = metrics(before, after);
            let after_text = pad_left(&after, 8);
            let after_text = if better { self.ink(Ink::Good, &after_text) } else { after_text };
            let line = format!("  {} {} → {after_text}", pad(label, 20), pad_left(&before, 8));
            self.line(&line);
        }
        for (prompt, reference, before, after) in pair.samples.iter().take(SAMPLES) {
            self.line("");
            self.quoted("asked", prompt, Ink::Heading, 2);
            self.quoted("before", before, Ink::Quiet, 4);
            self.quoted("after", after, Ink::Good, 4);
            if !reference.is_empty() {
                self.quoted("yours", reference, Ink::Quiet, 4);
            }
        }
    }

    fn quoted(&mut self, label: &str, text: &str, ink: Ink, lines: usize) {
        for (i, part) in wrap(text, self.width - 11, lines).iter().enumerate() {
            let label = pad(if i == 0 { label } else { "" }, 8);
            let line = format!("  {}{part}", self.ink(ink, &label));
            self.line(&line);
        }
    }

    fn other(&mut self, output: &Output) {
        match &output.view {
            OutputView::Catalog { .. } | OutputView::Selection { .. } => {}
            OutputView::Pllm { .. } => self.numbers(output, &Numbers::of(&output.view).unwrap_or_default()),
            OutputView::Metrics { samples, .. } => {
                let shares = shares(&output.view);
                if shares.is_empty() {
                    self.numbers(output, &Numbers::of(&output.view).unwrap_or_default());
                } else {
                    self.shares(output, &shares);
                }
                for s in samples.iter().take(SAMPLES) {
                    self.line("");
                    self.quoted("asked", &s.prompt, Ink::Heading, 2);
                    self.quoted("answer", &s.answer, Ink::Quiet, 4);
                }
            }
            OutputView::Rows { rows, samples } => {
                let note = [counted(*rows, "row"), first_line(&output.doc)];
                let note = note.iter().filter(|n| !n.is_empty()).map(String::as_str).collect::<Vec<_>>();
                self.heading(&output.name, &note.join("; "));
                for s in samples.iter().take(SAMPLES) {
                    self.quoted("asked", &s.prompt, Ink::Heading, 2);
                    self.quoted("answer", &s.answer, Ink::Quiet, 4);
                }
            }
            OutputView::Text { value } => {
                self.heading(&output.name, &first_line(&output.doc));
                for line in value.lines() {
                    self.line(&format!("  {line}"));
                }
            }
        }
    }

    fn numbers(&mut self, output: &Output, numbers: &Numbers) {
        self.heading(&output.name, &first_line(&output.doc));
        let shown = |(k, x): (&String, &f64)| {
            let value = if k == "seconds" { seconds(*x) } else { metric(*x) };
            format!("{} {value}", spaced(k))
        };
        let list = numbers.all.iter().map(shown).collect::<Vec<_>>().join(" · ");
        for line in wrap(&list, self.width - 2, 8) {
            self.line(&format!("  {line}"));
        }
    }

    fn shares(&mut self, output: &Output, shares: &[Share]) {
        self.heading(&output.name, &first_line(&output.doc));
        let names = shares.iter().map(|s| width(&s.group)).max().unwrap_or(0).clamp(3, 18);
        for s in shares {
            let name = if s.group.is_empty() { "all" } else { &s.group };
            let interval =
                s.interval.map(|(l, h)| format!("{} to {}", percent(l), percent(h))).unwrap_or_default();
            let of = s.n.map(|n| format!("of {n:.0}")).unwrap_or_default();
            let top2 = s.top2.map(|t| format!("top two {}", percent(t))).unwrap_or_default();
            let line = format!(
                "  {} {} {}  {}  {}  {}",
                pad(&cut(name, names), names),
                self.ink(Ink::Bar, &pad(&bar(s.share, 20), 20)),
                pad_left(&percent(s.share), 5),
                pad(&interval, 14),
                pad(&of, 6),
                top2,
            );
            self.line(&line);
        }
    }

    fn time(&mut self, report: &RunReport) {
        if report.stages.is_empty() && report.counters.is_empty() {
            return;
        }
        let count = |state| report.stages.iter().filter(|s| s.state == state).count();
        let states = StageState::ALL.map(|s| (count(s), s)).into_iter().filter(|(n, _)| *n > 0);
        let states = states.map(|(n, s)| format!("{n} {}", s.word())).collect::<Vec<_>>().join(", ");
        let places = by_place(report);
        self.heading(if places.is_empty() { "Stage instances" } else { "Where the time went" }, &states);
        for (place, total, kinds) in places {
            let kinds = kinds.iter().take(4).map(|(k, s)| format!("{k} {}", seconds(*s))).collect::<Vec<_>>();
            let line = format!(
                "  {} {}  {}",
                pad(&cut(&place, 12), 12),
                pad_left(&seconds(total), 9),
                kinds.join(" · ")
            );
            let line = cut(&line, self.width);
            self.line(&line);
        }
        if !report.counters.is_empty() {
            let shown = report.counters.iter().map(|(k, n)| format!("{} {}", grouped(*n), spaced(k)));
            let list = shown.collect::<Vec<_>>().join(" · ");
            for line in wrap(&list, self.width - 2, 3) {
                let line = format!("  {}", self.ink(Ink::Quiet, &line));
                self.line(&line);
            }
        }
    }
}

/// Metrics that are compared before and after: key, label, whether less is better.
pub(crate) const SHOWN: &[(&str, &str, bool)] = &[
    ("loss", "loss, nats per token", true),
    ("perplexity", "perplexity", true),
    ("bits_per_byte", "bits per byte", true),
    ("bleu", "BLEU", false),
    ("rouge1", "ROUGE-1", false),
    ("rouge2", "ROUGE-2", false),
    ("rougeL", "ROUGE-L", false),
];

/// What the head start saved, as a sentence; empty where it is unknown.
pub(crate) fn saved_sentence(pair: &Pair) -> String {
    let part = |name: &str, unit: &str| {
        let saved = pair.saved(name)?;
        let word = if saved >= 0.0 { if unit == "steps" { "fewer" } else { "less" } } else { "more" };
        Some(format!("{} {word} {unit}", minus(&percent(saved.abs()))))
    };
    let parts: Vec<_> = [part("steps", "steps"), part("seconds", "time")].into_iter().flatten().collect();
    if parts.is_empty() { String::new() } else { format!("{} with the head start.", parts.join(" and ")) }
}

/// Seconds by name, the most first.
type Seconds = Vec<(String, f64)>;

/// Seconds of stages by place, and within it by kind; the most first.
fn by_place(report: &RunReport) -> Vec<(String, f64, Seconds)> {
    let mut places: BTreeMap<&str, BTreeMap<&str, f64>> = BTreeMap::new();
    for s in report
        .stages
        .iter()
        .filter(|s| matches!(s.state, StageState::Succeeded | StageState::Delivered) || s.state.is_failure())
    {
        *places.entry(&s.place).or_default().entry(&s.kind).or_default() += s.seconds;
    }
    let sorted = |kinds: BTreeMap<&str, f64>| {
        let mut kinds: Vec<_> = kinds.into_iter().map(|(k, s)| (k.to_owned(), s)).collect();
        kinds.sort_by(|a, b| b.1.total_cmp(&a.1));
        kinds
    };
    let mut places: Vec<_> =
        places.into_iter().map(|(p, kinds)| (p.to_owned(), kinds.values().sum(), sorted(kinds))).collect();
    places.sort_by(|a: &(String, f64, _), b| b.1.total_cmp(&a.1));
    places
}

/// The largest coefficient, as the length of a full bar.
fn scale<'a>(styles: impl Iterator<Item = &'a Style>) -> f64 {
    styles.flat_map(|s| &s.words).map(|w| w.coefficient.abs()).fold(0.0, f64::max).max(1e-9)
}

fn first_line(doc: &str) -> String {
    doc.lines().next().unwrap_or("").trim_end_matches('.').to_owned()
}
