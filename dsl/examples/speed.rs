//! Measures the language: `cargo run --release -p headstart-dsl --example speed`. The best of
//! several rounds, so that what else the machine does counts little.

use std::time::{Duration, Instant};

use headstart_dsl::{FileId, MemoryLoader, analyze, check, format, parse};

// As in the `headstart` command.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// A file of `lines` lines, nearly all of them stages.
fn stages(lines: usize) -> String {
    let mut text = String::from(
        "model base = local(\"m\")\ndataset q = jsonl(\"q\")\nstage s0: Pllm = finetune(base, data: q)\n",
    );
    for n in 1..lines - 3 {
        let before = n - 1;
        text += &format!(
            "stage s{n}: Pllm = finetune(s{before}, data: q, until: loss < 1.9) {{ retry: 2, memory: 1GiB }}\n"
        );
    }
    text += &format!("output o = s{}\n", lines - 4);
    text
}

fn best(mut f: impl FnMut()) -> Duration {
    let round = |f: &mut dyn FnMut()| {
        let start = Instant::now();
        f();
        start.elapsed()
    };
    (0..7).map(|_| round(&mut f)).min().unwrap_or_default()
}

fn main() {
    for lines in [100, 1_000, 10_000] {
        let text = stages(lines);
        let files = MemoryLoader::new().with("p.pllm", &text);
        let none = Default::default();
        let rate = |d: Duration| text.len() as f64 / d.as_secs_f64() / 1e6;
        let show = |what: &str, d: Duration| {
            println!("{lines:>6} lines  {what:<8} {d:>10.2?}  {:>6.1} MB/s", rate(d))
        };
        show("parse", best(|| drop(parse(FileId(0), &text))));
        show("check", best(|| assert!(check("p.pllm", &files, &none).plan.is_some())));
        show("analyze", best(|| assert!(!analyze("p.pllm", &files, &none).0.has_errors())));
        show("format", best(|| assert!(format(&text).is_ok())));
    }
    let many: Vec<String> = (0..100_000).map(|n| format!("\"d/k{n}\"")).collect();
    let text = format!(
        "model base = local(\"m\")\nparam xs: List<Path> = [{}]\nstage p: Pllm = ingest(base: base, source: x) for x in xs\noutput o = p\n",
        many.join(", ")
    );
    let files = MemoryLoader::new().with("p.pllm", &text);
    let time = best(|| assert!(check("p.pllm", &files, &Default::default()).plan.is_some()));
    println!("fan-out of 100,000  check {time:.2?}");
}
