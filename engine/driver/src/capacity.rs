//! Which stage starts next on this machine: as many as jobs, processors, memory and groups allow, with a fair share
//! for each run. Pure: nothing here runs anything, and no clock is read.
//!
//! Of the runs that have something to start, the one goes first of which the fewest stages run, and among equals the one
//! that began to wait first. So a run of three stages is not behind the thousand of another. Within a run the order is
//! that in which stages became ready, among those that fit. A stage that does not fit while others are started in its
//! place is passed over a bounded number of times; then nothing starts until it fits.

use std::cmp::Reverse;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use headstart_dsl::plan::Group;

/// How often a stage that does not fit is passed over.
const PATIENCE: u64 = 16;

/// What a machine gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Machine {
    /// Stages that run at once.
    pub jobs: usize,
    /// Processors.
    pub threads: u32,
    /// Bytes, where they are bounded.
    pub memory: Option<u64>,
}

/// What a stage needs while it runs.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Need {
    pub threads: u32,
    pub memory: u64,
    pub group: Option<Group>,
}

/// The place that a running stage takes up.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Place(u64);

/// Stages that wait and run. `J` is what is started.
#[derive(Debug)]
pub(crate) struct Queue<J> {
    machine: Machine,
    runs: BTreeMap<Arc<str>, Waiting<J>>,
    running: BTreeMap<u64, (Arc<str>, Need)>,
    threads: u32,
    memory: u64,
    groups: BTreeMap<String, u32>,
    /// Stages that did not fit when they were to be next, with how many had been started by then.
    refused: BTreeMap<u64, u64>,
    started: u64,
    next: u64,
}

/// The stages of a run.
#[derive(Debug)]
struct Waiting<J> {
    running: usize,
    /// When it was served last, or came.
    served: u64,
    /// By what they need, each in order: so that a thousand stages of a full group are one look.
    by_need: BTreeMap<Need, VecDeque<(u64, J)>>,
}

enum Fits {
    Yes,
    /// A stage of its group has to end.
    GroupFull,
    No,
}

impl<J> Queue<J> {
    pub(crate) fn new(machine: Machine) -> Self {
        Self {
            machine,
            runs: BTreeMap::new(),
            running: BTreeMap::new(),
            threads: 0,
            memory: 0,
            groups: BTreeMap::new(),
            refused: BTreeMap::new(),
            started: 0,
            next: 0,
        }
    }

    /// Adds a stage of a run. One that needs more than there is gets all of it, and runs alone.
    pub(crate) fn push(&mut self, run: &Arc<str>, need: Need, job: J) {
        let Machine { threads, memory, .. } = self.machine;
        let need = Need {
            threads: need.threads.min(threads),
            memory: memory.map_or(need.memory, |most| need.memory.min(most)),
            ..need
        };
        self.next += 1;
        // It comes behind the runs that are there, so that new ones do not hold them up.
        let served = self.next;
        let waiting = self.runs.entry(Arc::clone(run));
        let waiting = waiting.or_insert_with(|| Waiting { running: 0, served, by_need: BTreeMap::new() });
        waiting.by_need.entry(need).or_default().push_back((self.next, job));
    }

    /// The next stage to start, and the place that it takes up.
    pub(crate) fn start(&mut self) -> Option<(Place, J)> {
        if self.running.len() >= self.machine.jobs {
            return None;
        }
        let mut order: Vec<(usize, u64, Arc<str>)> = self
            .runs
            .iter()
            .filter(|(_, w)| !w.by_need.is_empty())
            .map(|(run, w)| (w.running, w.served, Arc::clone(run)))
            .collect();
        order.sort_unstable();
        let mut misfits = Vec::new();
        let mut chosen = None;
        'runs: for (_, _, run) in order {
            let Some(waiting) = self.runs.get(&run) else { continue };
            let mut heads: Vec<(u64, &Need)> =
                waiting.by_need.iter().filter_map(|(need, jobs)| Some((jobs.front()?.0, need))).collect();
            heads.sort_unstable_by_key(|(number, _)| Reverse(*number));
            while let Some((number, need)) = heads.pop() {
                match self.fits(need) {
                    Fits::Yes => {
                        chosen = Some((run.clone(), need.clone()));
                        break 'runs;
                    }
                    Fits::GroupFull => {}
                    Fits::No => misfits.push(number),
                }
            }
        }
        // What was passed over often enough is next, as soon as it fits.
        for number in misfits {
            let since = *self.refused.entry(number).or_insert(self.started);
            if self.started - since >= PATIENCE {
                return None;
            }
        }
        let (run, need) = chosen?;
        self.take(run, need)
    }

    fn take(&mut self, run: Arc<str>, need: Need) -> Option<(Place, J)> {
        self.next += 1;
        let waiting = self.runs.get_mut(&run)?;
        let jobs = waiting.by_need.get_mut(&need)?;
        let (number, job) = jobs.pop_front()?;
        if jobs.is_empty() {
            waiting.by_need.remove(&need);
        }
        waiting.running += 1;
        waiting.served = self.next;
        self.refused.remove(&number);
        self.started += 1;
        self.threads += need.threads;
        self.memory += need.memory;
        if let Some(group) = &need.group {
            *self.groups.entry(group.name.clone()).or_default() += 1;
        }
        self.running.insert(number, (run, need));
        Some((Place(number), job))
    }

    /// A stage has ended.
    pub(crate) fn end(&mut self, place: &Place) {
        let Some((run, need)) = self.running.remove(&place.0) else { return };
        self.threads -= need.threads;
        self.memory -= need.memory;
        if let Some(group) = need.group
            && let Some(running) = self.groups.get_mut(&group.name)
        {
            *running -= 1;
            if *running == 0 {
                self.groups.remove(&group.name);
            }
        }
        if let Some(waiting) = self.runs.get_mut(&run) {
            waiting.running -= 1;
            if waiting.running == 0 && waiting.by_need.is_empty() {
                self.runs.remove(&run);
            }
        }
    }

    fn fits(&self, need: &Need) -> Fits {
        if let Some(group) = &need.group
            && self.groups.get(&group.name).is_some_and(|running| *running >= group.size)
        {
            return Fits::GroupFull;
        }
        let memory = self.machine.memory.is_none_or(|most| self.memory + need.memory <= most);
        if memory && self.threads + need.threads <= self.machine.threads { Fits::Yes } else { Fits::No }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MACHINE: Machine = Machine { jobs: 4, threads: 8, memory: Some(100) };

    fn need(threads: u32, memory: u64) -> Need {
        Need { threads, memory, group: None }
    }

    fn of(group: &str, size: u32) -> Need {
        Need { threads: 1, memory: 0, group: Some(Group { name: group.into(), size }) }
    }

    fn run(name: &str) -> Arc<str> {
        name.into()
    }

    /// What starts now.
    fn started<J>(queue: &mut Queue<J>) -> Vec<(Place, J)> {
        std::iter::from_fn(|| queue.start()).collect()
    }

    fn jobs<J: Copy>(started: &[(Place, J)]) -> Vec<J> {
        started.iter().map(|(_, job)| *job).collect()
    }

    #[test]
    fn jobs_threads_and_memory_bound_what_runs() {
        let mut queue = Queue::new(MACHINE);
        (0..6).for_each(|i| queue.push(&run("a"), need(1, 1), i));
        assert_eq!(jobs(&started(&mut queue)), [0, 1, 2, 3], "four jobs");
        let mut queue = Queue::new(MACHINE);
        (0..4).for_each(|i| queue.push(&run("a"), need(3, 1), i));
        assert_eq!(jobs(&started(&mut queue)), [0, 1], "eight threads");
        let mut queue = Queue::new(MACHINE);
        (0..4).for_each(|i| queue.push(&run("a"), need(1, 40), i));
        assert_eq!(jobs(&started(&mut queue)), [0, 1], "100 bytes");
        let mut queue = Queue::new(MACHINE);
        queue.push(&run("a"), need(100, 1000), 0);
        queue.push(&run("a"), need(1, 0), 1);
        let alone = started(&mut queue);
        assert_eq!(jobs(&alone), [0], "what needs more than there is runs alone");
        queue.end(&alone[0].0);
        assert_eq!(jobs(&started(&mut queue)), [1]);
    }

    #[test]
    fn a_group_bounds_its_stages_over_all_runs_and_holds_up_no_other() {
        let mut queue = Queue::new(MACHINE);
        (0..3).for_each(|i| queue.push(&run("a"), of("gpu", 1), i));
        queue.push(&run("b"), of("gpu", 1), 10);
        queue.push(&run("a"), need(1, 0), 20);
        let first = started(&mut queue);
        assert_eq!(jobs(&first), [0, 20]);
        queue.end(&first[0].0);
        let second = started(&mut queue);
        assert_eq!(jobs(&second), [10], "the other run's turn");
        queue.end(&second[0].0);
        assert_eq!(jobs(&started(&mut queue)), [1]);
    }

    #[test]
    fn a_run_of_three_is_not_behind_the_thousand_of_another() {
        let mut queue = Queue::new(Machine { jobs: 2, ..MACHINE });
        (0..1000).for_each(|_| queue.push(&run("long"), need(1, 0), "long"));
        let mut running: VecDeque<_> = started(&mut queue).into();
        (0..3).for_each(|_| queue.push(&run("short"), need(1, 0), "short"));
        let mut ended = 0;
        let mut left = 3;
        while left > 0 {
            let (place, job) = running.pop_front().expect("something runs");
            queue.end(&place);
            ended += 1;
            left -= u32::from(job == "short");
            running.extend(started(&mut queue));
        }
        // Two ran before it came; then each of them has one of two jobs.
        assert!(ended <= 8, "{ended} stages ended before the short run");
    }

    #[test]
    fn many_short_runs_do_not_hold_up_one_that_waits() {
        let mut queue = Queue::new(Machine { jobs: 1, ..MACHINE });
        queue.push(&run("first"), need(1, 0), usize::MAX);
        queue.push(&run("waits"), need(1, 0), 0);
        let mut place = queue.start().expect("fits").0;
        let mut before = 0;
        loop {
            queue.push(&run(&format!("new {before}")), need(1, 0), 1);
            queue.end(&place);
            let (next, job) = queue.start().expect("fits");
            place = next;
            if job == 0 {
                break;
            }
            before += 1;
        }
        assert_eq!(before, 0, "whoever waited first goes first");
    }

    #[test]
    fn small_stages_pass_a_large_one_a_bounded_number_of_times() {
        let mut queue = Queue::new(MACHINE);
        (0..1000).for_each(|_| queue.push(&run("a"), need(1, 0), "small"));
        let mut running: VecDeque<_> = started(&mut queue).into();
        queue.push(&run("b"), need(8, 0), "large");
        let mut small = 0;
        loop {
            let (place, job) = running.pop_front().expect("never nothing");
            queue.end(&place);
            if job == "large" {
                break;
            }
            small += 1;
            running.extend(started(&mut queue));
        }
        assert!(small as u64 <= PATIENCE + 8, "{small}");
        assert_eq!(jobs(&started(&mut queue)).len(), 4, "and then the small ones again");
    }

    /// Run, threads, memory, and the size of its group.
    type Stage = (usize, u32, u64, u32);

    proptest! {
        #[test]
        fn nothing_is_exceeded_and_everything_starts(
            stages in proptest::collection::vec((0usize..4, 0u32..12, 0u64..150, 0u32..3), 1..60),
            picks in proptest::collection::vec(0usize..8, 200),
        ) {
            let mut queue = Queue::new(MACHINE);
            for (i, (of, threads, memory, group)) in stages.iter().enumerate() {
                let group = (*group > 0).then(|| Group { name: format!("g{group}"), size: *group });
                queue.push(&run(&format!("r{of}")), Need { threads: *threads, memory: *memory, group }, i);
            }
            let mut running: Vec<(Place, usize)> = Vec::new();
            let mut seen = 0;
            for pick in picks.iter().cycle() {
                let new = started(&mut queue);
                seen += new.len();
                running.extend(new);
                let sum = |f: &dyn Fn(&Stage) -> u64| running.iter().map(|(_, i)| f(&stages[*i])).sum::<u64>();
                prop_assert!(running.len() <= 4);
                prop_assert!(sum(&|s| u64::from(s.1.min(8))) <= 8);
                prop_assert!(sum(&|s| s.2.min(100)) <= 100);
                for group in 1..3u32 {
                    prop_assert!(sum(&|s| u64::from(s.3 == group)) <= u64::from(group));
                }
                if running.is_empty() {
                    break;
                }
                let (place, _) = running.swap_remove(pick % running.len());
                queue.end(&place);
            }
            prop_assert_eq!(seen, stages.len());
            prop_assert!(queue.runs.is_empty() && queue.groups.is_empty() && queue.refused.is_empty());
        }
    }
}
