//! What a run waits for, on its devices and of other runs, in words.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use headstart_driver::{DeviceWait, StageWait, WaitReason};
use headstart_env::Clock;
use headstart_protocol::text::quoted;

/// A device that takes its work at once is not worth a line.
const AT_ONCE: Duration = Duration::from_secs(2);
/// Stages that are named in a line.
const NAMED: usize = 3;

/// Remembers since when each device and run is waited for.
pub struct Waits {
    url: Option<String>,
    clock: Arc<dyn Clock>,
    since: BTreeMap<String, Duration>,
}

/// A wait, in words.
pub struct Line {
    /// Stays the same as long as the device and the reason do, whatever waits meanwhile.
    pub key: String,
    /// The device or run.
    pub whom: String,
    /// What it is waited for to do, and for which stages.
    pub what: String,
    /// What to do about it; empty where nothing helps but waiting.
    pub help: String,
}

impl Waits {
    /// Devices may join at `url`.
    pub fn new(url: Option<String>, clock: Arc<dyn Clock>) -> Self {
        Self { url, clock, since: BTreeMap::new() }
    }

    /// The waits that have lasted for a while.
    pub fn lines(&mut self, awaited: &[DeviceWait], runs: &[StageWait]) -> Vec<Line> {
        let now = self.clock.elapsed();
        self.since.retain(|whom, _| {
            awaited.iter().any(|a| a.device == *whom) || runs.iter().any(|r| run_of(r) == *whom)
        });
        let mut lines = Vec::new();
        for a in awaited {
            let since = *self.since.entry(a.device.clone()).or_insert(now);
            if now.saturating_sub(since) >= AT_ONCE {
                lines.push(self.line(a));
            }
        }
        for wait in runs {
            let whom = run_of(wait);
            let since = *self.since.entry(whom.clone()).or_insert(now);
            if now.saturating_sub(since) >= AT_ONCE {
                let reason = wait.reason();
                let what = what(&wait.stages, &reason);
                lines.push(Line { key: whom.clone(), whom, what, help: String::new() });
            }
        }
        lines
    }

    fn line(&self, a: &DeviceWait) -> Line {
        let device = &a.device;
        let reason = match &a.why {
            WaitReason::Pairing => format!("for device {device}, which is not paired"),
            WaitReason::PairAgain => {
                format!("for device {device}, which joined with an earlier version and must pair again")
            }
            WaitReason::Invited => format!("for device {device} to use its invitation"),
            WaitReason::Approval(_) => format!("for device {device} to be approved"),
            WaitReason::Revoked => format!("for device {device}, which was revoked"),
            WaitReason::Join => format!("for device {device} to join"),
            WaitReason::Contact { .. } => format!("for device {device}, which was lost"),
            WaitReason::Conditions(missing) => format!("until device {device} is {}", missing.join(" and ")),
            WaitReason::Contract(_) => format!("for the approval of device {device}'s owner"),
            WaitReason::Unfit(why) => format!("for device {device}, which cannot run it: {why}"),
        };
        let help = a.why.help(device, self.url.as_deref());
        let what = what(&a.stages, &reason);
        Line { key: reason, whom: format!("device {device}"), what, help }
    }
}

/// Which stages wait, and for what.
fn what(stages: &[String], reason: &str) -> String {
    let verb = if stages.len() == 1 { "waits" } else { "wait" };
    format!("{} {verb} {reason}", quoted(stages, NAMED))
}

/// A run that is waited for.
fn run_of(wait: &StageWait) -> String {
    format!("run {}", wait.holder.run)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_says_for_whom_for_what_and_what_to_do() {
        let clock = headstart_env::simulated::SimulatedClock::new();
        let mut waits = Waits::new(Some("https://10.0.0.5:7878".into()), Arc::new(clock.clone()));
        let awaited = |why, stages: &[&str]| DeviceWait {
            device: "phone".into(),
            stages: stages.iter().map(|s| (*s).to_owned()).collect(),
            why,
        };
        assert!(waits.lines(&[awaited(WaitReason::Pairing, &["me"])], &[]).is_empty(), "not at once");
        clock.advance(AT_ONCE);
        assert_eq!(waits.lines(&[awaited(WaitReason::Pairing, &["me"])], &[]).len(), 1);
        let line = waits.line(&awaited(WaitReason::Pairing, &["a", "b", "c", "d"]));
        assert_eq!(line.what, "`a`, `b`, `c` and 1 more wait for device phone, which is not paired");
        assert_eq!(
            line.help,
            "invite it here with `headstart devices invite phone --url https://10.0.0.5:7878`, then run on the \
             device: headstart-device join INVITATION --data FOLDER"
        );
        let line = waits.line(&awaited(WaitReason::Approval(vec!["abcd-efgh".into()]), &["me"]));
        assert_eq!(line.what, "`me` waits for device phone to be approved");
        assert!(line.help.ends_with(": headstart devices approve abcd-efgh"), "{}", line.help);
        let line = waits.line(&awaited(WaitReason::Join, &["me"]));
        assert_eq!(line.help, "on the device, run: headstart-device join --data FOLDER");
        let line = waits.line(&awaited(WaitReason::Conditions(vec!["charging".into()]), &["tuned"]));
        assert_eq!(line.what, "`tuned` waits until device phone is charging");
        assert!(line.help.contains("--holds charging"));
        let digest = headstart_protocol::Digest::of(b"proposal");
        let line = waits.line(&awaited(WaitReason::Contract(digest), &["me"]));
        assert_eq!(line.what, "`me` waits for the approval of device phone's owner");
        assert!(line.help.contains(&format!("headstart-device approve {digest}")), "{}", line.help);
    }

    #[test]
    fn a_stage_that_another_run_computes_says_so() {
        let clock = headstart_env::simulated::SimulatedClock::new();
        let mut waits = Waits::new(None, Arc::new(clock.clone()));
        let holder = headstart_store::cache::Holder { run: "1m8nz8hkf74nd".into(), process: 42 };
        let wait = StageWait { stages: vec!["tuned".into()], holder };
        assert!(waits.lines(&[], std::slice::from_ref(&wait)).is_empty(), "not at once");
        clock.advance(AT_ONCE);
        let lines = waits.lines(&[], &[wait]);
        let [line] = &lines[..] else { panic!("one line") };
        assert_eq!(
            line.what,
            "`tuned` waits for run 1m8nz8hkf74nd (process 42), which computes the same result"
        );
        assert!(waits.lines(&[], &[]).is_empty());
    }
}
