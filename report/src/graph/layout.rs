//! A layered layout, left to right, in lanes.
//!
//! Layers are longest paths; long edges pass through separate cells, so that no line runs
//! under a node; cells are ordered by barycentres, the order with the fewest crossings kept, and
//! moved towards their neighbours by isotonic regression, which is the least-squares answer under
//! minimal distances. Nothing here is random: the same graph gives the same picture.
//!
//! Why not a library: `rust-sugiyama` gives places of nodes only, no routes around them; ports of
//! dagre know clusters, which are boxes somewhere in the picture, but no lanes that all groups share.

use std::collections::{BTreeMap, BTreeSet};

/// A node to be placed.
pub struct Node {
    /// Its lane; lanes lie below each other.
    pub lane: usize,
    pub width: f64,
    pub height: f64,
}

/// Where everything is.
pub struct Layout {
    /// Left upper corners of the nodes.
    pub at: Vec<(f64, f64)>,
    /// For each edge, the horizontal pieces that it passes through: start and end, and height.
    pub routes: Vec<Vec<(f64, f64, f64)>>,
    /// Top and height of each lane.
    pub lanes: Vec<(f64, f64)>,
    pub width: f64,
    pub height: f64,
}

/// Between columns.
const GAP: f64 = 46.0;
/// Between cells of a column.
const SPACE: f64 = 18.0;
/// The height that a passing edge takes.
const PASSING: f64 = 4.0;
/// Inside a lane: above, below, left and right.
const LANE_TOP: f64 = 34.0;
const LANE_PAD: f64 = 16.0;
/// Between lanes.
const LANE_GAP: f64 = 14.0;
/// How often the order of cells is improved.
const SWEEPS: usize = 16;

/// A node, or a place where an edge passes a column.
struct Cell {
    lane: usize,
    layer: usize,
    height: f64,
    before: Vec<usize>,
    after: Vec<usize>,
    /// Its middle, from the top of its lane.
    y: f64,
}

struct Grid {
    cells: Vec<Cell>,
    /// Cells of each layer, from top to bottom, lanes in order.
    layers: Vec<Vec<usize>>,
    /// For each edge, the cells from source to target.
    paths: Vec<Vec<usize>>,
}

/// Lays out an acyclic graph.
pub fn layout(nodes: &[Node], edges: &[(usize, usize)], lanes: usize) -> Layout {
    let layer = layers(nodes.len(), edges);
    let mut grid = Grid::new(nodes, edges, &layer);
    grid.order();
    grid.align();
    let heights = grid.lane_heights(lanes);
    let mut tops = Vec::with_capacity(lanes);
    let mut y = 0.0;
    for h in &heights {
        tops.push((y, *h));
        y += h + LANE_GAP;
    }
    let count = grid.layers.len();
    let mut widths = vec![0.0f64; count];
    for (n, node) in nodes.iter().enumerate() {
        widths[layer[n]] = widths[layer[n]].max(node.width);
    }
    let mut columns = Vec::with_capacity(count);
    let mut x = LANE_PAD;
    for w in &widths {
        columns.push(x);
        x += w + GAP;
    }
    let middle = |c: usize| tops[grid.cells[c].lane].0 + LANE_TOP + grid.cells[c].y;
    let at = nodes.iter().enumerate().map(|(n, node)| (columns[layer[n]], middle(n) - node.height / 2.0));
    let routes = grid.paths.iter().map(|path| {
        let piece = |c: &usize| {
            let l = grid.cells[*c].layer;
            let width = nodes.get(*c).map_or(widths[l], |n| n.width);
            (columns[l], columns[l] + width, middle(*c))
        };
        path.iter().map(piece).collect()
    });
    Layout {
        at: at.collect(),
        routes: routes.collect(),
        width: (x - GAP).max(LANE_PAD) + LANE_PAD,
        height: (y - LANE_GAP).max(0.0),
        lanes: tops,
    }
}

/// The longest path that leads to each node; sources stand right before what uses them first.
fn layers(count: usize, edges: &[(usize, usize)]) -> Vec<usize> {
    let mut layer = vec![0usize; count];
    let mut open = vec![0usize; count];
    edges.iter().for_each(|(_, to)| open[*to] += 1);
    let source: Vec<bool> = open.iter().map(|n| *n == 0).collect();
    let mut ready: Vec<usize> = (0..count).filter(|n| open[*n] == 0).collect();
    while let Some(n) = ready.pop() {
        for (_, to) in edges.iter().filter(|(from, _)| *from == n) {
            layer[*to] = layer[*to].max(layer[n] + 1);
            open[*to] -= 1;
            if open[*to] == 0 {
                ready.push(*to);
            }
        }
    }
    for n in (0..count).filter(|n| source[*n]) {
        let users = edges.iter().filter(|(from, _)| *from == n).map(|(_, to)| layer[*to]);
        layer[n] = users.min().map_or(0, |l| l.saturating_sub(1));
    }
    layer
}

impl Grid {
    fn new(nodes: &[Node], edges: &[(usize, usize)], layer: &[usize]) -> Self {
        let cell = |lane, layer, height| Cell { lane, layer, height, before: vec![], after: vec![], y: 0.0 };
        let mut cells: Vec<Cell> = nodes.iter().zip(layer).map(|(n, l)| cell(n.lane, *l, n.height)).collect();
        let mut paths = Vec::with_capacity(edges.len());
        // Edges of one source share their way until they part.
        let mut shared: BTreeMap<(usize, usize), usize> = BTreeMap::new();
        let mut joined: BTreeSet<(usize, usize)> = BTreeSet::new();
        for (from, to) in edges {
            let mut path = vec![*from];
            for l in layer[*from] + 1..layer[*to] {
                let next = cells.len();
                let passing = *shared.entry((*from, l)).or_insert(next);
                if passing == next {
                    cells.push(cell(nodes[*from].lane, l, PASSING));
                }
                path.push(passing);
            }
            path.push(*to);
            for pair in path.windows(2).filter(|p| joined.insert((p[0], p[1]))) {
                cells[pair[0]].after.push(pair[1]);
                cells[pair[1]].before.push(pair[0]);
            }
            paths.push(path);
        }
        let count = layer.iter().max().map_or(0, |l| l + 1);
        let mut layers = vec![Vec::new(); count];
        for (n, c) in cells.iter().enumerate() {
            layers[c.layer].push(n);
        }
        layers.iter_mut().for_each(|l| l.sort_by_key(|c| cells[*c].lane));
        Self { cells, layers, paths }
    }

    fn places(&self) -> Vec<f64> {
        let mut place = vec![0.0; self.cells.len()];
        for l in &self.layers {
            l.iter().enumerate().for_each(|(n, c)| place[*c] = n as f64);
        }
        place
    }

    /// Sorts cells by the mean place of their neighbours, back and forth.
    fn order(&mut self) {
        let mut best = (self.crossings(), self.layers.clone());
        for sweep in 0..SWEEPS {
            let forward = sweep % 2 == 0;
            let count = self.layers.len();
            for step in 1..count {
                let l = if forward { step } else { count - 1 - step };
                let place = self.places();
                let mean = |c: usize| {
                    let near = if forward { &self.cells[c].before } else { &self.cells[c].after };
                    match near.len() {
                        0 => place[c],
                        n => near.iter().map(|o| place[*o]).sum::<f64>() / n as f64,
                    }
                };
                let mut keyed: Vec<(usize, f64, usize)> =
                    self.layers[l].iter().map(|c| (self.cells[*c].lane, mean(*c), *c)).collect();
                keyed.sort_by(|a, b| a.0.cmp(&b.0).then(a.1.total_cmp(&b.1)));
                self.layers[l] = keyed.into_iter().map(|(.., c)| c).collect();
            }
            let crossings = self.crossings();
            if crossings < best.0 {
                best = (crossings, self.layers.clone());
            }
        }
        self.layers = best.1;
    }

    fn crossings(&self) -> usize {
        let place = self.places();
        let mut count = 0;
        for l in &self.layers {
            let edges: Vec<(f64, f64)> = l
                .iter()
                .flat_map(|c| self.cells[*c].after.iter().map(|to| (place[*c], place[*to])))
                .collect();
            for (n, a) in edges.iter().enumerate() {
                count += edges[n + 1..].iter().filter(|b| (a.0 - b.0) * (a.1 - b.1) < 0.0).count();
            }
        }
        count
    }

    /// The cells of one lane and layer, from top to bottom.
    fn stacks(&self) -> Vec<Vec<usize>> {
        let mut out = Vec::new();
        for l in &self.layers {
            for stack in l.chunk_by(|a, b| self.cells[*a].lane == self.cells[*b].lane) {
                out.push(stack.to_vec());
            }
        }
        out
    }

    fn align(&mut self) {
        let stacks = self.stacks();
        for stack in &stacks {
            let mut y = 0.0;
            for c in stack {
                self.cells[*c].y = y + self.cells[*c].height / 2.0;
                y += self.cells[*c].height + SPACE;
            }
        }
        for round in 0..SWEEPS {
            // From left to right and back, so that neither side wins.
            let each: Box<dyn Iterator<Item = &Vec<usize>>> =
                if round % 2 == 0 { Box::new(stacks.iter()) } else { Box::new(stacks.iter().rev()) };
            for stack in each {
                self.relax(stack);
            }
        }
    }

    /// Moves the cells of a stack towards the mean of their neighbours in the same lane.
    fn relax(&mut self, stack: &[usize]) {
        let mut offset = 0.0;
        let mut blocks: Vec<(f64, f64, usize)> = Vec::new();
        let mut offsets = Vec::with_capacity(stack.len());
        for (n, c) in stack.iter().enumerate() {
            let cell = &self.cells[*c];
            if n > 0 {
                offset += (self.cells[stack[n - 1]].height + cell.height) / 2.0 + SPACE;
            }
            offsets.push(offset);
            let near: Vec<f64> = cell
                .before
                .iter()
                .chain(&cell.after)
                .filter(|o| self.cells[**o].lane == cell.lane)
                .map(|o| self.cells[*o].y)
                .collect();
            let wish = if near.is_empty() { cell.y } else { near.iter().sum::<f64>() / near.len() as f64 };
            // Pool adjacent violators: blocks of (sum of wishes, weight, cells).
            blocks.push((wish - offset, 1.0, 1));
            while let [.., a, b] = blocks.as_slice() {
                if a.0 / a.1 <= b.0 / b.1 {
                    break;
                }
                let merged = (a.0 + b.0, a.1 + b.1, a.2 + b.2);
                blocks.truncate(blocks.len() - 2);
                blocks.push(merged);
            }
        }
        let mut n = 0;
        for (sum, weight, cells) in blocks {
            for _ in 0..cells {
                self.cells[stack[n]].y = sum / weight + offsets[n];
                n += 1;
            }
        }
    }

    /// Heights of the lanes; moves the cells of each so that the highest touches its top.
    fn lane_heights(&mut self, lanes: usize) -> Vec<f64> {
        let mut range = vec![(f64::INFINITY, f64::NEG_INFINITY); lanes];
        for c in &self.cells {
            let r = &mut range[c.lane];
            *r = (r.0.min(c.y - c.height / 2.0), r.1.max(c.y + c.height / 2.0));
        }
        self.cells.iter_mut().for_each(|c| c.y -= range[c.lane].0);
        range.iter().map(|(top, end)| (end - top).max(0.0) + LANE_TOP + LANE_PAD).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(lane: usize) -> Node {
        Node { lane, width: 100.0, height: 40.0 }
    }

    #[test]
    fn nodes_of_a_column_keep_their_distance_and_edges_go_right() {
        let nodes: Vec<Node> = (0..9).map(|n| node(n % 2)).collect();
        let edges = [(0, 2), (1, 2), (2, 3), (2, 4), (3, 5), (4, 5), (5, 6), (0, 6), (6, 8), (7, 8)];
        let l = layout(&nodes, &edges, 2);
        for (a, (ax, ay)) in l.at.iter().enumerate() {
            for (bx, by) in &l.at[a + 1..] {
                assert!((ax - bx).abs() > 99.0 || (ay - by).abs() >= 40.0 + SPACE - 1e-6);
            }
        }
        for ((from, to), route) in edges.iter().zip(&l.routes) {
            assert!(l.at[*from].0 < l.at[*to].0);
            assert!(route.windows(2).all(|w| w[0].1 < w[1].0), "pieces do not overlap");
        }
        assert!(l.lanes[0].0 + l.lanes[0].1 < l.lanes[1].0);
    }

    #[test]
    fn nothing_is_laid_out_as_nothing() {
        assert_eq!(layout(&[], &[], 0).height, 0.0);
    }
}
