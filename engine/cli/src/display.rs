//! What a run looks like in the terminal while it goes on: from events, on stderr.
//!
//! Where stderr is a terminal, running stages have a line each that moves; a stage that is done
//! leaves one line. Elsewhere there are only the lines of what is done, and one every few seconds
//! for what takes long.

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::time::{Duration, Instant};

use headstart_core::event::{Event, EventKind};
use headstart_dsl::plan::{Place, Plan};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use crate::waits::Line;

/// Seconds between lines about a stage that takes long, where there is no terminal.
const HEARTBEAT: Duration = Duration::from_secs(10);

/// Shows events as they come.
pub struct Display<'a> {
    plan: &'a Plan,
    bars: Option<MultiProgress>,
    items: Vec<ItemState>,
    running: BTreeMap<u64, Running>,
    waiting: BTreeMap<String, Waiting>,
}

/// A wait that was shown.
struct Waiting {
    bar: Option<ProgressBar>,
    begun: Instant,
    said: Instant,
}

#[derive(Default)]
struct ItemState {
    instances: usize,
    ended: usize,
    cached: usize,
    failed: usize,
    skipped: usize,
    seconds: f64,
}

struct Running {
    instance: u32,
    bar: Option<ProgressBar>,
    said: Instant,
}

impl<'a> Display<'a> {
    /// A display of a run of a plan.
    pub fn new(plan: &'a Plan) -> Self {
        let mut items: Vec<ItemState> = plan.items.iter().map(|_| ItemState::default()).collect();
        for i in &plan.instances {
            items[i.item as usize].instances += 1;
        }
        let bars = std::io::stderr().is_terminal().then(MultiProgress::new);
        Self { plan, bars, items, running: BTreeMap::new(), waiting: BTreeMap::new() }
    }

    /// Shows an event.
    pub fn event(&mut self, event: &Event) {
        match &event.kind {
            EventKind::AttemptStarted { instance, fence, attempt, runner, .. } => {
                self.started(*instance, *fence, *attempt, runner);
            }
            EventKind::Progress { fence, progress, .. } => self.progress(*fence, progress),
            EventKind::CacheHit { instance, .. } => self.ended(*instance, |s| s.cached += 1),
            EventKind::Committed { instance, fence, usage, .. } => {
                self.stop(*fence);
                let seconds = usage.seconds;
                self.ended(*instance, |s| s.seconds += seconds);
            }
            EventKind::Skipped { instance, .. } => self.ended(*instance, |s| s.skipped += 1),
            EventKind::Failed { instance, fence, failure, retry_at_ms } => {
                if let Some(fence) = fence {
                    self.stop(*fence);
                }
                let name = &self.plan.instances[*instance as usize].name;
                let again = if retry_at_ms.is_some() { ", will be tried again" } else { "" };
                self.say(&format!("\x1b[31m✗\x1b[0m {name}: {}{again}", failure.message));
                if let Some(help) = &failure.help {
                    self.say(&format!("  \x1b[36mhelp\x1b[0m: {help}"));
                }
                if retry_at_ms.is_none() {
                    self.ended(*instance, |s| s.failed += 1);
                }
            }
            EventKind::LeaseExpired { instance, fence } => {
                self.stop(*fence);
                let name = &self.plan.instances[*instance as usize].name;
                self.say(&format!("\x1b[33m!\x1b[0m {name}: its runner has gone silent"));
            }
            EventKind::DeviceJoined { device, .. } => {
                self.say(&format!("\x1b[36m◇\x1b[0m device {device} joined"));
            }
            _ => {}
        }
    }

    fn started(&mut self, instance: u32, fence: u64, attempt: u32, runner: &str) {
        let name = &self.plan.instances[instance as usize].name;
        let place = if runner == "local" { String::new() } else { format!(" on {runner}") };
        let again = if attempt > 1 { format!(" (attempt {attempt})") } else { String::new() };
        let bar = self.spinner(&format!("{name}{place}{again}"));
        self.running.insert(fence, Running { instance, bar, said: Instant::now() });
    }

    fn spinner(&self, prefix: &str) -> Option<ProgressBar> {
        let bar = self.bars.as_ref()?.add(ProgressBar::new_spinner());
        let style = ProgressStyle::with_template("{spinner:.cyan} {prefix} {wide_msg}");
        bar.set_style(style.expect("the template is well formed"));
        bar.set_prefix(prefix.to_owned());
        bar.enable_steady_tick(Duration::from_millis(120));
        Some(bar)
    }

    /// Shows what is waited for: a line when a wait begins, and a sign of life from time to time.
    pub fn waiting(&mut self, lines: &[Line]) {
        self.waiting.retain(|what, w| {
            let goes_on = lines.iter().any(|l| l.what == *what);
            if let Some(bar) = w.bar.take_if(|_| !goes_on) {
                bar.finish_and_clear();
            }
            goes_on
        });
        for line in lines {
            if let Some(w) = self.waiting.get_mut(&line.what) {
                let so_far = w.begun.elapsed().as_secs();
                match &w.bar {
                    Some(bar) => bar.set_message(format!("{so_far} s so far")),
                    None if w.said.elapsed() >= HEARTBEAT => {
                        w.said = Instant::now();
                        anstream::eprintln!("  … {}; {so_far} s so far", line.what);
                    }
                    None => {}
                }
                continue;
            }
            self.say(&format!("\x1b[33m◇\x1b[0m {}", line.what));
            if !line.help.is_empty() {
                self.say(&format!("  \x1b[36mhelp\x1b[0m: {}", line.help));
            }
            let (bar, now) = (self.spinner(&format!("waiting for {}", line.device)), Instant::now());
            self.waiting.insert(line.what.clone(), Waiting { bar, begun: now, said: now });
        }
    }

    fn progress(&mut self, fence: u64, progress: &headstart_protocol::Progress) {
        let Some(running) = self.running.get_mut(&fence) else { return };
        let mut text = match progress.total {
            Some(total) => format!("{}/{total} {}", progress.done, progress.unit),
            None => format!("{} {}", progress.done, progress.unit),
        };
        for (name, value) in &progress.metrics {
            text.push_str(&format!("  {name} {value:.3}"));
        }
        match &running.bar {
            Some(bar) => bar.set_message(text),
            None if running.said.elapsed() >= HEARTBEAT => {
                running.said = Instant::now();
                let name = &self.plan.instances[running.instance as usize].name;
                anstream::eprintln!("  … {name}: {text}");
            }
            None => {}
        }
    }

    fn stop(&mut self, fence: u64) {
        if let Some(Running { bar: Some(bar), .. }) = self.running.remove(&fence) {
            bar.finish_and_clear();
        }
    }

    /// Books the end of an instance; the last one of an item leaves a line.
    fn ended(&mut self, instance: u32, book: impl FnOnce(&mut ItemState)) {
        let inst = &self.plan.instances[instance as usize];
        let state = &mut self.items[inst.item as usize];
        state.ended += 1;
        book(state);
        if state.ended != state.instances {
            return;
        }
        let item = &self.plan.items[inst.item as usize];
        let count = if item.keyed { format!(" ×{}", state.instances) } else { String::new() };
        let place = match &inst.place {
            Place::Device(d) => format!("  on {d}"),
            Place::Server => String::new(),
        };
        let private = if inst.private_to.is_some() { ", private" } else { "" };
        let took = match state {
            ItemState { failed, .. } if *failed > 0 => format!("{failed} failed"),
            ItemState { skipped, instances, .. } if skipped == instances => "not needed".to_owned(),
            ItemState { cached, instances, .. } if cached == instances => "cached".to_owned(),
            ItemState { cached: 0, seconds, .. } => format!("{seconds:.1} s"),
            ItemState { cached, seconds, .. } => format!("{seconds:.1} s, {cached} cached"),
        };
        let mark = if state.failed > 0 { "\x1b[31m✗\x1b[0m" } else { "\x1b[32m✓\x1b[0m" };
        let name = format!("{}{count}", item.name);
        let line = format!("{mark} {name:<22} \x1b[2m{:<10} {took}{place}{private}\x1b[0m", item.kind);
        self.say(&line);
    }

    fn say(&self, line: &str) {
        match &self.bars {
            // Bars are redrawn below the line.
            Some(bars) => {
                let _ = bars.println(line);
            }
            None => anstream::eprintln!("{line}"),
        }
    }
}
