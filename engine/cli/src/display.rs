//! What a run looks like in the terminal while it is running: from events, on standard error.
//!
//! On a terminal, running stages have a moving line each, and a stage that has ended leaves one line.
//! Elsewhere there are only the lines of what has ended, and for each stage that takes long one every
//! few seconds.

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::sync::Arc;
use std::time::Duration;

use headstart_console::color::{Ink, paint};
use headstart_console::{divert, errln, say};
use headstart_core::{Event, EventKind, LossCause};
use headstart_dsl::plan::{Place, Plan};
use headstart_env::Clock;
use headstart_protocol::FailureClass;
use headstart_protocol::contract::NOT_APPROVED;
use headstart_protocol::text::visible;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use crate::Volume;
use crate::waits::Line;

/// Time between lines about a stage that takes long, where there is no terminal.
const HEARTBEAT: Duration = Duration::from_secs(10);

/// Shows events as they come.
pub struct Display<'a> {
    plan: &'a Plan,
    volume: Volume,
    clock: Arc<dyn Clock>,
    bars: Option<MultiProgress>,
    items: Vec<ItemState>,
    running: BTreeMap<u64, Running>,
    waiting: BTreeMap<String, Waiting>,
}

/// A wait that was shown.
struct Waiting {
    bar: Option<ProgressBar>,
    begun: Duration,
    said: Duration,
}

struct ItemState {
    instances: usize,
    ended: usize,
    cached: usize,
    failed: usize,
    skipped: usize,
    seconds: f64,
    /// When a line about it was printed last.
    said: Duration,
}

struct Running {
    instance: u32,
    bar: Option<ProgressBar>,
}

impl Drop for Display<'_> {
    fn drop(&mut self) {
        if self.bars.is_some() {
            divert(None);
        }
    }
}

impl<'a> Display<'a> {
    /// A display of a run of a plan; on a terminal with moving lines.
    pub fn new(plan: &'a Plan, volume: Volume, clock: Arc<dyn Clock>) -> Self {
        let bars = (!volume.quiet && std::io::stderr().is_terminal()).then(MultiProgress::new);
        if let Some(bars) = bars.clone() {
            // Bars are redrawn below each line.
            divert(Some(Box::new(move |line: &str| drop(bars.println(line)))));
        }
        let mut display = Self::recorded(plan, volume, clock);
        display.bars = bars;
        display
    }

    /// A display without moving lines, as for a run that is over.
    pub fn recorded(plan: &'a Plan, volume: Volume, clock: Arc<dyn Clock>) -> Self {
        let now = clock.elapsed();
        let item = |_| ItemState {
            instances: 0,
            ended: 0,
            cached: 0,
            failed: 0,
            skipped: 0,
            seconds: 0.0,
            said: now,
        };
        let mut items: Vec<ItemState> = plan.items.iter().map(item).collect();
        for i in &plan.instances {
            items[i.item as usize].instances += 1;
        }
        Self { plan, volume, clock, bars: None, items, running: BTreeMap::new(), waiting: BTreeMap::new() }
    }

    /// Shows an event.
    pub fn event(&mut self, event: &Event) {
        match &event.kind {
            EventKind::AttemptStarted { instance, fence, attempt, runner, .. } => {
                self.started(*instance, *fence, *attempt, runner);
            }
            EventKind::Progress { fence, progress, .. } => self.progress(*fence, progress),
            EventKind::CacheHit { instance, .. } => self.ended(*instance, "cached", |s| s.cached += 1),
            EventKind::Committed { instance, fence, usage, output, .. } => {
                self.stop(*fence);
                if usage.unchanged {
                    self.ended(*instance, "cached", |s| s.cached += 1);
                } else {
                    let seconds = usage.seconds;
                    let word = if output.private_to.is_some() { "delivered" } else { "succeeded" };
                    self.ended(*instance, word, |s| s.seconds += seconds);
                }
            }
            EventKind::Skipped { instance, .. } => self.ended(*instance, "skipped", |s| s.skipped += 1),
            EventKind::Failed { instance, fence, failure, retry_at_ms } => {
                if let Some(fence) = fence {
                    self.stop(*fence);
                }
                // What waits for an owner's approval is said among the waits.
                let waits = retry_at_ms.is_some() && failure.message == NOT_APPROVED;
                if failure.class != FailureClass::Cancelled && !waits {
                    self.failed(*instance, failure, retry_at_ms.is_some());
                }
            }
            EventKind::Quarantined { instance, lost } => {
                let name = self.name(*instance);
                let times = headstart_protocol::text::counted(*lost, "time");
                errln!("{} {name}: quarantined: its process was lost {times}", paint(Ink::Error, "✗"));
                self.ended(*instance, "quarantined", |s| s.failed += 1);
            }
            EventKind::LeaseExpired { instance, fence, cause } => {
                self.stop(*fence);
                let name = self.name(*instance);
                let why = match cause {
                    Some(LossCause::Engine) => "was running when the engine ended; retrying",
                    Some(LossCause::Device) => "lost its device; retrying",
                    Some(LossCause::Stage) => "its lease ran out; retrying",
                    None => "lost its runner",
                };
                self.say(&format!("{} {name}: {why}", paint(Ink::Warning, "!")));
            }
            EventKind::DeviceJoined { device, .. } => {
                self.say(&format!("{} device {device} joined", paint(Ink::Help, "◇")));
            }
            _ => {}
        }
    }

    fn name(&self, instance: u32) -> &'a str {
        &self.plan.instances[instance as usize].name
    }

    fn failed(&mut self, instance: u32, failure: &headstart_protocol::Failure, again: bool) {
        let then = if again { "; retrying" } else { "" };
        let mark = if again { paint(Ink::Warning, "!") } else { paint(Ink::Error, "✗") };
        let line = format!("{mark} {}: {}{then}", self.name(instance), failure.message);
        // An error is an error, however little is to be printed.
        if again {
            self.say(&line)
        } else {
            say(&line)
        }
        if let Some(help) = &failure.help {
            let line = format!("  {}: {help}", paint(Ink::Help, "help"));
            if again { self.say(&line) } else { say(&line) }
        }
        if !again {
            self.ended(instance, "failed", |s| s.failed += 1);
        }
    }

    fn started(&mut self, instance: u32, fence: u64, attempt: u32, runner: &str) {
        let place = if runner == "local" { String::new() } else { format!(" on {runner}") };
        let again = if attempt > 1 { format!(" (attempt {attempt})") } else { String::new() };
        let bar = self.spinner(&format!("{}{place}{again}", self.name(instance)));
        self.running.insert(fence, Running { instance, bar });
    }

    fn spinner(&self, prefix: &str) -> Option<ProgressBar> {
        let bar = self.bars.as_ref()?.add(ProgressBar::new_spinner());
        let colored = headstart_console::color::stderr();
        let template =
            if colored { "{spinner:.cyan} {prefix} {wide_msg}" } else { "{spinner} {prefix} {wide_msg}" };
        let style = ProgressStyle::with_template(template);
        bar.set_style(style.expect("the template is well formed"));
        bar.set_prefix(visible(prefix).into_owned());
        bar.enable_steady_tick(Duration::from_millis(120));
        Some(bar)
    }

    /// Shows waits: a line when one begins, and a reminder from time to time.
    pub fn waiting(&mut self, lines: &[Line]) {
        if self.volume.quiet {
            return;
        }
        let now = self.clock.elapsed();
        self.waiting.retain(|key, w| {
            let lasts = lines.iter().any(|l| l.key == *key);
            if let Some(bar) = w.bar.take_if(|_| !lasts) {
                bar.finish_and_clear();
            }
            lasts
        });
        for line in lines {
            if let Some(w) = self.waiting.get_mut(&line.key) {
                let so_far = now.saturating_sub(w.begun).as_secs();
                match &w.bar {
                    Some(bar) => bar.set_message(format!("{so_far} s so far")),
                    None if now.saturating_sub(w.said) >= HEARTBEAT => {
                        w.said = now;
                        errln!("  … {}; {so_far} s so far", line.what);
                    }
                    None => {}
                }
                continue;
            }
            self.say(&format!("{} {}", paint(Ink::Warning, "◇"), line.what));
            if !line.help.is_empty() {
                self.say(&format!("  {}: {}", paint(Ink::Help, "help"), line.help));
            }
            let bar = self.spinner(&format!("waiting for {}", line.whom));
            self.waiting.insert(line.key.clone(), Waiting { bar, begun: now, said: now });
        }
    }

    fn progress(&mut self, fence: u64, progress: &headstart_protocol::Progress) {
        let Some(running) = self.running.get(&fence) else { return };
        let now = self.clock.elapsed();
        let item = &mut self.items[self.plan.instances[running.instance as usize].item as usize];
        let silent = self.volume.quiet || now.saturating_sub(item.said) < HEARTBEAT;
        if running.bar.is_none() && silent {
            return;
        }
        let mut text = match progress.total {
            Some(total) => format!("{}/{total} {}", progress.done, progress.unit),
            None => format!("{} {}", progress.done, progress.unit),
        };
        for (name, value) in &progress.metrics {
            text.push_str(&format!("  {name} {value:.3}"));
        }
        match &running.bar {
            Some(bar) => bar.set_message(visible(&text).into_owned()),
            None => {
                item.said = now;
                errln!("  … {}: {text}", self.plan.instances[running.instance as usize].name);
            }
        }
    }

    fn stop(&mut self, fence: u64) {
        if let Some(Running { bar: Some(bar), .. }) = self.running.remove(&fence) {
            bar.finish_and_clear();
        }
    }

    /// Books the end of an instance; the last one of an item leaves a line.
    fn ended(&mut self, instance: u32, state: &str, book: impl FnOnce(&mut ItemState)) {
        let inst = &self.plan.instances[instance as usize];
        let item = &self.plan.items[inst.item as usize];
        let of_item = &mut self.items[inst.item as usize];
        of_item.ended += 1;
        let before = of_item.seconds;
        book(of_item);
        let (last, took) = (of_item.ended == of_item.instances, of_item.seconds - before);
        if self.volume.verbose && item.keyed {
            let took = if took > 0.0 { format!(" {took:.1} s") } else { String::new() };
            self.say(&format!("  {} {state}{}", inst.name, paint(Ink::Quiet, &took)));
        }
        if last {
            self.item_line(inst.item as usize, &inst.place, inst.private_to.is_some());
        }
    }

    fn item_line(&self, index: usize, place: &Place, private: bool) {
        let (item, state) = (&self.plan.items[index], &self.items[index]);
        let count = if item.keyed { format!(" ×{}", state.instances) } else { String::new() };
        let place = match place {
            Place::Device(d) => format!("  on {d}"),
            Place::Server => String::new(),
        };
        let took = match state {
            ItemState { failed, .. } if *failed > 0 && item.keyed => format!("{failed} failed"),
            ItemState { failed, .. } if *failed > 0 => "failed".to_owned(),
            ItemState { skipped, instances, .. } if skipped == instances => "skipped".to_owned(),
            ItemState { cached, instances, .. } if cached == instances => "cached".to_owned(),
            ItemState { cached: 0, seconds, .. } => format!("{seconds:.1} s"),
            ItemState { cached, seconds, .. } => format!("{seconds:.1} s, {cached} cached"),
        };
        // Only the device knows what came of a private stage.
        let took = if private && state.failed == 0 { format!("delivered, {took}") } else { took };
        let mark = match private {
            _ if state.failed > 0 => paint(Ink::Error, "✗"),
            true => paint(Ink::Help, "◇"),
            false => paint(Ink::Good, "✓"),
        };
        let name = format!("{}{count}", item.name);
        let private = if private { ", private" } else { "" };
        let rest = paint(Ink::Quiet, &format!("{:<10} {took}{place}{private}", item.kind));
        self.say(&format!("{mark} {name:<22} {rest}"));
    }

    fn say(&self, line: &str) {
        if !self.volume.quiet {
            say(line);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Mutex;

    use headstart_env::simulated::SimulatedClock;
    use headstart_protocol::Progress;

    use super::*;
    use crate::loader;

    const PIPELINE: &str = "param names: List<Path> = [\"a\", \"b\", \"c\"]\n\
        model base = local(\"base\")\n\
        stage pllm: Pllm = ingest(base: base, source: n) for n in names\n\
        stage other: Pllm = ingest(base: base, source: \"d\")\n";

    /// Lines about progress, printed while all stages report ten times a second for `seconds`.
    fn printed(quiet: bool, seconds: u64) -> Vec<String> {
        // Where messages go is the same for the whole process.
        static ONE: Mutex<()> = Mutex::new(());
        let _one = ONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let dir = tempfile::tempdir().expect("a folder");
        let file = dir.path().join("p.pllm");
        std::fs::write(&file, PIPELINE).expect("writable");
        let checked = headstart_dsl::check(&file.to_string_lossy(), &loader::Disk, &BTreeMap::new());
        let plan = checked.plan.unwrap_or_else(|| panic!("{:?}", checked.diagnostics));
        let clock = SimulatedClock::new();
        let volume = Volume { quiet, verbose: false };
        let mut display = Display::recorded(&plan, volume, Arc::new(clock.clone()));
        let lines: Arc<Mutex<Vec<String>>> = Arc::default();
        let kept = Arc::clone(&lines);
        divert(Some(Box::new(move |line| kept.lock().expect("not poisoned").push(line.to_owned()))));
        let stages: Vec<u32> =
            (0..).zip(&plan.instances).filter(|(_, i)| i.kind == "ingest").map(|(i, _)| i).collect();
        assert_eq!(stages.len(), 4);
        for &instance in &stages {
            let (fence, attempt, runner) = (u64::from(instance), 1, "local".to_owned());
            let started = EventKind::AttemptStarted {
                instance,
                fence,
                attempt,
                runner,
                key: None,
                lease_until_ms: None,
            };
            display.event(&Event::new(0, started));
        }
        for tick in 0..seconds * 10 {
            for &instance in &stages {
                let progress =
                    Progress { done: tick, total: None, unit: "rows".into(), metrics: BTreeMap::new() };
                let fence = u64::from(instance);
                display.event(&Event::new(0, EventKind::Progress { instance, fence, progress }));
            }
            clock.advance(Duration::from_millis(100));
        }
        divert(None);
        let lines = lines.lock().expect("not poisoned").clone();
        lines.into_iter().filter(|line| line.starts_with("  … ")).collect()
    }

    #[test]
    fn off_a_terminal_a_stage_has_a_line_every_few_seconds_at_most() {
        let lines = printed(false, 65);
        // One line every ten seconds for each of the two stages, however many instances report.
        let of = |name: &str| lines.iter().filter(|line| line.starts_with(&format!("  … {name}"))).count();
        assert_eq!((of("pllm"), of("other"), lines.len()), (6, 6, 12), "{lines:#?}");
        assert!(printed(false, 9).is_empty(), "a stage that ends soon has none");
        assert!(printed(true, 65).is_empty(), "quiet is quiet");
    }
}
