//! A running `headstart serve`.

use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use super::{Place, root};

/// A server that hangs ends its test after this long.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// A running `headstart serve`, killed when it is dropped.
pub struct Served {
    pub child: Child,
    said: Arc<(Mutex<String>, Condvar)>,
}

impl Served {
    pub fn start(place: &Place, args: &[&str]) -> Self {
        Self::start_with(place, args, &[])
    }

    /// With variables of the environment.
    pub fn start_with(place: &Place, args: &[&str], variables: &[(&str, &str)]) -> Self {
        let mut all = vec!["serve", "--listen", "127.0.0.1:0"];
        all.extend(args);
        let mut child = place
            .command(&all)
            .envs(variables.iter().copied())
            .stderr(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .expect("starts");
        let said = Arc::new((Mutex::new(String::new()), Condvar::new()));
        let (lines, sink) = (BufReader::new(child.stderr.take().expect("piped")), Arc::clone(&said));
        std::thread::spawn(move || {
            for line in lines.lines().map_while(Result::ok) {
                let mut text = sink.0.lock().expect("no panic");
                text.push_str(&line);
                text.push('\n');
                sink.1.notify_all();
            }
        });
        Self { child, said }
    }

    /// Waits until it has said something so many times; gives all that it said.
    #[track_caller]
    pub fn says_times(&self, text: &str, times: usize) -> String {
        let said = self.said.0.lock().expect("no panic");
        let silent = |said: &mut String| said.matches(text).count() < times;
        let (said, wait) = self.said.1.wait_timeout_while(said, PATIENCE, silent).expect("no panic");
        assert!(!wait.timed_out(), "it does not say {text:?} {times} times:\n{said}");
        said.clone()
    }

    #[track_caller]
    pub fn says(&self, text: &str) -> String {
        self.says_times(text, 1)
    }

    pub fn kill(mut self) {
        self.child.kill().expect("it runs");
        self.child.wait().expect("it ends");
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A dataset of one row.
pub const ROWS: &str = "{\"prompt\":\"q\",\"response\":\"a\"}\n";

/// A program whose stage waits until a file is there.
pub fn waiting_program(place: &Place) {
    let sdk = std::fs::read_to_string(root().join("examples/03-custom-stage/stages/headstart.py"));
    place.write("stages/headstart.py", &sdk.expect("the SDK"));
    let program = place.write(
        "stages/wait.py",
        "#!/usr/bin/env python3\nimport os, time\nimport headstart\nfrom headstart import Metrics, Dataset\n\n\
         @headstart.stage(version=1, cached=False)\n\
         def gate(rows: Dataset, file: str) -> Metrics:\n    \"\"\"Waits for a file.\n\n    \
         rows: rows\n    file: the file\n    \"\"\"\n    while not os.path.exists(file):\n        time.sleep(0.02)\n    \
         return Metrics(n=1)\n\nif __name__ == \"__main__\":\n    headstart.main()\n",
    );
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).expect("writable");
    }
    place.headstart(&["describe", program.to_str().expect("a plain path")]).code(0);
    place.write("rows.jsonl", ROWS);
}
