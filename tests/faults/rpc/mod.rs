//! Hostile and silent peers of both sides of RPC.

mod catalogue;
mod mutated;
mod peers;
mod sound;
mod wire;
mod workers;

use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};

use crate::common::curtail;

/// A worker of the program, which ends with its owner.
pub(super) struct Served {
    child: Child,
    pub(super) address: String,
}

impl Served {
    pub(super) fn start(more: &[&str]) -> Served {
        let mut command = curtail(&[&["rpc-server", "-p", "0", "-t", "1", "--mem", "1024"], more].concat());
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("it starts");
        let mut lines = BufReader::new(child.stderr.take().expect("a pipe")).lines();
        let line = lines.find(|line| line.as_ref().is_ok_and(|line| line.starts_with("serving "))).expect("it serves");
        let address = line.expect("text").rsplit(' ').next().expect("an address").to_owned();
        std::thread::spawn(move || lines.for_each(drop)); // so that the pipe never fills
        Served { child, address }
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
