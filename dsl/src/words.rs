//! The words of the language that are no names: for the checker, the editor and the reference.

pub use crate::literal::{DURATIONS, SIZES};

/// A word with its meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Word {
    /// As written.
    pub name: &'static str,
    /// How it is used.
    pub example: &'static str,
    /// What it means.
    pub doc: &'static str,
}

const fn word(name: &'static str, example: &'static str, doc: &'static str) -> Word {
    Word { name, example, doc }
}

/// The words that start an item.
pub const ITEMS: &[Word] = &[
    word("import", "import \"./lib.pllm\" as lib { base: base }", "imports another file under a name"),
    word("param", "param rank: Int = 8", "a value that can be set from outside"),
    word(
        "private",
        "private dataset mine = jsonl(\"me.jsonl\") on device(\"phone\")",
        "the dataset stays on its device",
    ),
    word("model", "model base = local(\"models/tiny\")", "a base language model"),
    word("dataset", "dataset questions = jsonl(\"questions.jsonl\")", "rows of prompt and response"),
    word("space", "space style = pooled(base)", "how text becomes a vector"),
    word(
        "program",
        "program tools = \"stages/tools.py\"",
        "a program with custom stages, which are called as `tools.name(…)`",
    ),
    word("stage", "stage said: Responses = probe(base, prompts: questions)", "a step of the pipeline"),
    word(
        "schedule",
        "schedule nightly { cron: \"0 3 * * *\", timezone: \"UTC\" }",
        "when the pipeline runs by itself",
    ),
    word("output", "output catalog = catalog", "a result of a run"),
];

/// The settings of an item.
pub const SETTINGS: &[Word] = &[
    word("on", "on: device(\"phone\")", "where it runs: `server` (default), or a device by name"),
    word("memory", "memory: 1GiB", "how much memory it may use; runners with less are not chosen"),
    word(
        "threads",
        "threads: 4",
        "how many threads it uses, 1 to 1000: all by default, a stage of a program 1; others run on the rest",
    ),
    word(
        "limit",
        "limit: group(\"gpu\", 1)",
        "a group by name, of which at most this many run at once, over all runs of an engine",
    ),
    word("retry", "retry: 2", "further attempts after a temporary failure, 0 (default) to 1000"),
    word(
        "losses",
        "losses: 5",
        "lost attempts before the stage is quarantined, 1 to 1000, 5 by default: its process was killed",
    ),
    word("backoff", "backoff: 10s", "the pause before the first retry, doubled each time"),
    word("timeout", "timeout: 2h", "how long one attempt may take"),
    word("wait", "wait: 1d", "how long it may wait for a runner"),
    word("only_when", "only_when: charging", "conditions of the device, one or a list; all must hold"),
];

/// Conditions of a device, for `only_when`.
pub const CONDITIONS: &[Word] = &[
    word("charging", "only_when: charging", "the device is on power"),
    word("unmetered", "only_when: unmetered", "its connection costs nothing by volume"),
    word("idle", "only_when: [charging, idle]", "nobody is using it"),
];

/// The entries of a schedule.
pub const ENTRIES: &[Word] = &[
    word("run", "run: catalog", "the items or outputs that a fire updates, one or a list (default: all)"),
    word(
        "cron",
        "cron: \"0 3 * * *\"",
        "when: minute, hour, day of month, month, day of week; 0 and 7 are Sunday",
    ),
    word("timezone", "timezone: \"Europe/London\"", "the time zone of `cron`, as the IANA database names it"),
    word(
        "overlap",
        "overlap: skip",
        "what happens while the previous run is still running (default: `skip`)",
    ),
    word("catchup", "catchup: last", "what happens to missed fires (default: `last`)"),
    word(
        "catchup_window",
        "catchup_window: 12h",
        "fires that were missed longer ago than this are skipped (default: `7d`)",
    ),
    word("catchup_max", "catchup_max: 3", "missed fires that are caught up at most (default: 10)"),
    word(
        "jitter",
        "jitter: 10m",
        "a run starts up to this long after its fire, always equally long for one schedule (default: at once)",
    ),
    word(
        "when_changed",
        "when_changed: \"adapters/*\"",
        "patterns, one or a list: a change of what they match fires",
    ),
    word("after", "after: nightly", "schedules of this file, one or a list: a success of theirs fires"),
    word("webhook", "webhook: \"new-data\"", "names, one or a list: a signed call of `/hooks/NAME` fires"),
];

/// What `overlap` can be; the first is the default.
pub const OVERLAP: &[Word] = &[
    word("skip", "overlap: skip", "the new run is skipped, which is recorded"),
    word("queue", "overlap: queue", "the new run waits for those before it"),
    word("allow", "overlap: allow", "both run at once"),
    word("cancel_other", "overlap: cancel_other", "the old run is cancelled, and the new one follows"),
];

/// What `catchup` can be; `last` is the default.
pub const CATCHUP: &[Word] = &[
    word("none", "catchup: none", "missed fires are skipped"),
    word("last", "catchup: last", "the latest missed fire runs"),
    word("all", "catchup: all", "every missed fire runs, oldest first"),
];

/// What can be called in expressions, beside the kinds.
pub const FUNCTIONS: &[Word] = &[
    word(
        "glob",
        "glob(\"catalog/*\")",
        "the files and folders of the engine's machine that match, sorted, keyed by name",
    ),
    word("device", "device(\"phone\")", "a place: the device of this name"),
    word("release", "release(tuned.metrics)", "lets a private value leave its device, in an output"),
];

/// The words that join the parts of an item, and of expressions.
pub const CLAUSES: &[Word] = &[
    word(
        "for",
        "stage p: Pllm = ingest(base: base, source: a) for a in adapters",
        "one instance for each element",
    ),
    word("in", "for a in adapters", "the list that is looped over"),
    word(
        "when",
        "stage m: Pllm = merge(pick.mix) when pick.is_mix",
        "made only if this is true; then it may be absent",
    ),
    word("on", "on device(\"phone\")", "the device of a private dataset"),
    word("as", "import \"./lib.pllm\" as lib", "the name of an import"),
    word("or", "start or pick.pllm", "the left side where it is there, the right side otherwise"),
    word("not", "not pick.abstained", "true for false, false for true"),
];

/// The names of words.
pub fn names(words: &'static [Word]) -> impl Iterator<Item = &'static str> + Clone {
    words.iter().map(|w| w.name)
}

/// The word of this name.
pub fn find(words: &'static [Word], name: &str) -> Option<&'static Word> {
    words.iter().find(|w| w.name == name)
}
