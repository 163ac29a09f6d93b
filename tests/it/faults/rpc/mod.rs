//! Hostile and silent peers of both sides of RPC.

mod catalogue;
mod mutated;
mod peers;
mod sound;
mod wire;
mod workers;

use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::common::curtail;

/// A worker of the program, which ends with its owner.
pub(super) struct Served {
    child: Child,
    pub(super) address: String,
    told: Arc<Mutex<Vec<String>>>,
}

impl Served {
    pub(super) fn start(more: &[&str]) -> Served {
        let mut command = curtail(&[&["rpc-server", "-p", "0", "-t", "1", "--mem", "1024"], more].concat());
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("it starts");
        let mut lines = BufReader::new(child.stderr.take().expect("a pipe")).lines();
        let line = lines.find(|line| line.as_ref().is_ok_and(|line| line.starts_with("serving "))).expect("it serves");
        let address = line.expect("text").rsplit(' ').next().expect("an address").to_owned();
        let told = Arc::new(Mutex::new(Vec::new()));
        let all = told.clone();
        std::thread::spawn(move || {
            lines.map_while(Result::ok).for_each(|line| all.lock().expect("no panic").push(line))
        });
        Served { child, address, told }
    }

    /// What the worker says of a client that left, or was sent away.
    pub(super) fn said_of(&self, client: &str) -> String {
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(5) {
            let told = self.told.lock().expect("no panic");
            let end = told.iter().find(|line| line.starts_with(client) && !line.ends_with(" came"));
            if let Some(line) = end {
                return line.clone();
            }
            drop(told);
            std::thread::sleep(Duration::from_millis(5));
        }
        panic!("nothing is said of {client}");
    }

    /// Fails if the worker has ended.
    #[track_caller]
    pub(super) fn assert_alive(&mut self, after: &str) {
        let ended = self.child.try_wait().expect("a child of ours");
        assert!(ended.is_none(), "the worker ended after {after}: {ended:?}");
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
