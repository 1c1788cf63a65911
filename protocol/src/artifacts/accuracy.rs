//! The metrics of the stage `accuracy`.

use std::collections::BTreeMap;

use super::Metrics;

/// Shares of right selections, in all and by group.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Accuracy {
    /// Over all selections.
    pub all: Share,
    /// Selections that started from the base.
    pub abstained: Option<usize>,
    /// By group.
    pub groups: BTreeMap<String, Share>,
    /// What choosing took on average, where the selections say so.
    pub cost: Option<MeanCost>,
}

/// A share of right selections with its 95% interval.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Share {
    /// The share, 0 to 1.
    pub accuracy: f64,
    /// Its 95% interval (Wilson).
    pub interval: Option<(f64, f64)>,
    /// Selections that it is over.
    pub n: Option<usize>,
    /// Share in which the right pLLM was the nearest or second nearest, where distances are known.
    pub top2: Option<f64>,
}

/// Means of what selections took.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[expect(missing_docs, reason = "as in Cost")]
pub struct MeanCost {
    pub forward_passes: f64,
    pub bytes: f64,
    pub seconds: f64,
}

impl Accuracy {
    /// As metrics: `accuracy`, `low`, `high`, `n`, `top2`, the same with `/GROUP` behind for each group,
    /// `abstained`, and the means `forward_passes`, `bytes` and `seconds`.
    pub fn metrics(&self) -> Metrics {
        let mut m = Metrics::default();
        self.all.write("", &mut m);
        if let Some(n) = self.abstained {
            m.put("abstained", n);
        }
        for (group, share) in &self.groups {
            share.write(&format!("/{group}"), &mut m);
        }
        if let Some(cost) = &self.cost {
            m.put("forward_passes", cost.forward_passes);
            m.put("bytes", cost.bytes);
            m.put("seconds", cost.seconds);
        }
        m
    }

    /// Reads metrics; none where they are not an accuracy.
    pub fn of(m: &Metrics) -> Option<Self> {
        let groups = m.numbers.keys().filter_map(|name| name.strip_prefix("accuracy/"));
        let groups = groups.filter_map(|g| Some((g.to_owned(), Share::read(&format!("/{g}"), m)?)));
        let cost = || {
            Some(MeanCost {
                forward_passes: m.get("forward_passes")?,
                bytes: m.get("bytes")?,
                seconds: m.get("seconds")?,
            })
        };
        Some(Self {
            all: Share::read("", m)?,
            abstained: m.get("abstained").map(|n| n as usize),
            groups: groups.collect(),
            cost: cost(),
        })
    }
}

impl Share {
    fn write(&self, suffix: &str, m: &mut Metrics) {
        m.put(format!("accuracy{suffix}"), self.accuracy);
        if let Some((low, high)) = self.interval {
            m.put(format!("low{suffix}"), low);
            m.put(format!("high{suffix}"), high);
        }
        if let Some(n) = self.n {
            m.put(format!("n{suffix}"), n);
        }
        if let Some(top2) = self.top2 {
            m.put(format!("top2{suffix}"), top2);
        }
    }

    fn read(suffix: &str, m: &Metrics) -> Option<Self> {
        let get = |name: &str| m.get(&format!("{name}{suffix}"));
        Some(Self {
            accuracy: get("accuracy")?,
            interval: get("low").zip(get("high")),
            n: get("n").map(|n| n as usize),
            top2: get("top2"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_accuracy_comes_back_from_its_metrics() {
        let share = |accuracy| Share { accuracy, interval: Some((0.1, 0.9)), n: Some(4), top2: Some(1.0) };
        let accuracy = Accuracy {
            all: share(0.5),
            abstained: Some(1),
            groups: BTreeMap::from([("0.3".to_owned(), Share { top2: None, ..share(0.25) })]),
            cost: Some(MeanCost { forward_passes: 7.5, bytes: 100.0, seconds: 0.25 }),
        };
        assert_eq!(Accuracy::of(&accuracy.metrics()), Some(accuracy));
        assert_eq!(Accuracy::of(&Metrics::default().with("loss", 1.0)), None);
    }
}
