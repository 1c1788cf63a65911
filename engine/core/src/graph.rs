//! The edges of a plan, both ways, in two flat arrays each.

use headstart_dsl::plan::Plan;

/// Who needs whom. Built once a run in O(edges); 100,000 instances are fine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Graph {
    inputs: Edges,
    dependents: Edges,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Edges {
    start: Vec<u32>,
    to: Vec<u32>,
}

impl Edges {
    fn of(&self, i: u32) -> &[u32] {
        let range = self.start[i as usize] as usize..self.start[i as usize + 1] as usize;
        &self.to[range]
    }
}

impl Graph {
    /// The edges of a plan.
    pub fn of(plan: &Plan) -> Self {
        let n = plan.instances.len();
        let mut inputs = Edges { start: Vec::with_capacity(n + 1), to: Vec::new() };
        inputs.start.push(0);
        let mut degree = vec![0u32; n + 1];
        for i in 0..n {
            for input in plan.inputs(i) {
                degree[input as usize + 1] += 1;
                inputs.to.push(input);
            }
            inputs.start.push(inputs.to.len() as u32);
        }
        for i in 0..n {
            degree[i + 1] += degree[i];
        }
        let mut next = degree.clone();
        let mut to = vec![0; inputs.to.len()];
        for i in 0..n as u32 {
            for input in inputs.of(i) {
                let slot = &mut next[*input as usize];
                to[*slot as usize] = i;
                *slot += 1;
            }
        }
        Self { inputs, dependents: Edges { start: degree, to } }
    }

    /// Instances that `i` refers to, each once, ascending.
    pub fn inputs(&self, i: u32) -> &[u32] {
        self.inputs.of(i)
    }

    /// Instances that refer to `i`, each once, ascending.
    pub fn dependents(&self, i: u32) -> &[u32] {
        self.dependents.of(i)
    }

    /// All instances that those of `from` refer to, directly or not, and themselves; ascending.
    pub fn ancestors(&self, from: &[u32]) -> Vec<u32> {
        let mut seen = std::collections::BTreeSet::new();
        let mut stack = from.to_vec();
        while let Some(i) = stack.pop() {
            if seen.insert(i) {
                stack.extend(self.inputs(i));
            }
        }
        seen.into_iter().collect()
    }
}
