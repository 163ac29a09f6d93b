//! Runs the program under a watch: a bound on its time, and a verdict on how it ended.

use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// How a run of the program ended.
#[derive(Debug)]
pub(crate) struct Ended {
    /// The exit code; `None` after a signal.
    pub(crate) code: Option<i32>,
    pub(crate) signal: Option<i32>,
    pub(crate) timed_out: bool,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ended {
    /// Fails unless the program ended by itself, with neither a signal nor a panic.
    #[track_caller]
    pub(crate) fn by_itself(self) -> Ended {
        assert!(!self.timed_out, "it does not come back: {self:?}");
        assert!(self.signal.is_none() && self.code != Some(101), "a signal or a panic: {self:?}");
        self
    }

    /// Fails unless it ended with this exit code and said each of these on stderr.
    #[track_caller]
    pub(crate) fn with(self, code: i32, said: &[&str]) -> Ended {
        let ended = self.by_itself();
        assert_eq!(ended.code, Some(code), "{ended:?}");
        said.iter().for_each(|text| assert!(ended.stderr.contains(text), "{text:?} is not in {ended:?}"));
        ended
    }
}

/// Runs the program with this input on a pipe, for no longer than `limit`.
pub(crate) fn run_within(command: &mut Command, input: &[u8], limit: Duration) -> Ended {
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
    let mut stdin = child.stdin.take().expect("a pipe");
    let (out, err) = (child.stdout.take().expect("a pipe"), child.stderr.take().expect("a pipe"));
    let input = input.to_vec();
    std::thread::spawn(move || {
        let _ = stdin.write_all(&input); // whoever ends early reads no more
    });
    let collect = |mut pipe: Box<dyn Read + Send>| {
        std::thread::spawn(move || {
            let mut bytes = Vec::new();
            let _ = pipe.read_to_end(&mut bytes);
            String::from_utf8_lossy(&bytes).into_owned()
        })
    };
    let stdout = collect(Box::new(out));
    let stderr = collect(Box::new(err));
    let deadline = Instant::now() + limit;
    let (status, timed_out) = loop {
        if let Some(status) = child.try_wait().expect("a child of ours") {
            break (status, false);
        }
        if Instant::now() > deadline {
            child.kill().expect("a child of ours");
            break (child.wait().expect("a child of ours"), true);
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    Ended {
        code: status.code(),
        signal: status.signal(),
        timed_out,
        stdout: stdout.join().expect("no panic"),
        stderr: stderr.join().expect("no panic"),
    }
}

/// As [`run_within`] half a minute.
pub(crate) fn run(command: &mut Command, input: &[u8]) -> Ended {
    run_within(command, input, Duration::from_secs(30))
}
