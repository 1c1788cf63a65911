//! A run to be shown, as the server sees it and as a device's owner does.

#![allow(dead_code, reason = "each test binary uses a part")]

use headstart_report::{Fate, OwnerReport, RunReport, Sent};

/// The server's view.
pub fn sample() -> RunReport {
    serde_json::from_str(include_str!("../sample.json")).expect("the sample is a report")
}

/// The owner's.
pub fn owner() -> OwnerReport {
    let mut report = sample();
    report.stages.retain(|s| s.place != "server");
    let fate = |i: usize| Fate {
        left: i % 3 == 2,
        what: if i % 3 == 2 { "stays here; released: its numbers and names" } else { "stays here" }.into(),
    };
    let sent = |what: &str, messages, bytes| Sent { what: what.into(), messages, bytes };
    OwnerReport {
        device: "phone".into(),
        fates: (0..report.stages.len()).map(fate).collect(),
        sent: vec![
            sent("joined: name, threads, memory, conditions that hold", 1, 412),
            sent("asked for work", 38, 5_320),
            sent("asked for a file of a public artifact", 42, 0),
            sent("a stage ended: its handle, and what was released", 9, 4_871),
        ],
        report,
    }
}
