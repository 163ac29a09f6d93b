//! Clients beside each other: idle, slow, many, and strangers where there is a token.

use std::io::{Read, Write};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::Served;
use super::wire::*;
use crate::common::curtail;
use crate::common::tiny::Tiny;
use crate::common::watched;

#[test]
fn idle_and_slow_connections_keep_nobody_out() {
    let served = Served::start(&[]);
    let _silent = Client::connect(&served.address).expect("it serves");
    let mut slow = Client::connect(&served.address).expect("it serves");
    slow.0.write_all(&[HELLO, 24]).expect("sent");
    let mut in_the_middle = Client::greet(&served.address).expect("it serves");
    in_the_middle.announce(SET_TENSOR, 1 << 20, &[0; 100]).expect("sent");
    let idle: Vec<Client> = (0..8).map(|_| Client::greet(&served.address).expect("it serves")).collect();
    let start = Instant::now();
    assert!(!Client::greet(&served.address).expect("it serves").is_closed());
    assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
    drop(idle);
}

#[test]
fn more_connections_than_there_is_room_for_cost_the_silent_ones() {
    let served = Served::start(&[]);
    let mut working = Client::greet(&served.address).expect("it serves");
    let buffer = working.allocate(4096);
    let crowd: Vec<_> = (0..150).map(|_| Client::connect(&served.address).expect("it serves")).collect();
    let mut last = Client::greet(&served.address).expect("there is room for who speaks");
    assert!(!last.is_closed());
    let tensor = Tensor::new(1, F32, [4, 1, 1, 1], buffer.handle, buffer.base);
    assert_eq!(working.get(&tensor).expect("who holds memory stays"), [0; 16]);
    let mut first = crowd.into_iter().next().expect("there is one");
    assert!(matches!(first.0.read(&mut [0]), Ok(0) | Err(_)), "the one that was silent the longest is gone");
}

#[test]
fn announced_lengths_take_no_memory() {
    let served = Served::start(&[]);
    let clients: Vec<Client> = (0..20)
        .map(|_| {
            let mut client = Client::greet(&served.address).expect("it serves");
            let _ = client.announce(GRAPH_COMPUTE, 30 << 20, &[0; 8]);
            client
        })
        .collect();
    std::thread::sleep(Duration::from_millis(300));
    let resident = resident_bytes(&served);
    assert!(resident < 200 << 20, "{resident} bytes");
    drop(clients);
}

#[test]
fn memory_is_taken_up_to_a_limit_and_given_back() {
    let served = Served::start(&[]); // of 1024 MiB
    let mut client = Client::greet(&served.address).expect("it serves");
    let taken = (0..40).filter(|_| client.allocate(100 << 20).handle != 0).count();
    assert_eq!(taken, 10);
    assert!(resident_bytes(&served) < 200 << 20, "what nobody wrote takes no memory");
    drop(client);
    let start = Instant::now();
    loop {
        let mut client = Client::greet(&served.address).expect("it serves");
        if client.allocate(1000 << 20).handle != 0 {
            break;
        }
        assert!(start.elapsed() < Duration::from_secs(5), "the memory of a client that left is not there again");
    }
}

fn resident_bytes(served: &Served) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{}/status", served.child.id())).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a line");
    line.trim().trim_end_matches(" kB").parse::<usize>().expect("a number") << 10
}

/// Token files and the tiny model.
struct Folder {
    folder: tempfile::TempDir,
    model: String,
}

impl Folder {
    fn new() -> Folder {
        let folder = tempfile::tempdir().expect("a folder");
        let model = folder.path().join("tiny.gguf");
        Tiny::new().write(&model);
        Folder { model: model.to_str().expect("UTF-8").to_owned(), folder }
    }

    fn token(&self, name: &str, secret: &str) -> String {
        let path: PathBuf = self.folder.path().join(name);
        std::fs::write(&path, secret).expect("written");
        path.to_str().expect("UTF-8").to_owned()
    }

    fn run(&self, more: &[&str]) -> watched::Ended {
        let all = [&["run", "-m", &self.model, "-t", "1", "--raw", "-p", "hi", "-n", "4", "--temp", "0"], more];
        watched::run(&mut curtail(&all.concat()), b"")
    }
}

#[test]
fn only_who_has_the_token_is_served() {
    let files = Folder::new();
    let token = files.token("token", "correct horse battery staple\n");
    let wrong = files.token("wrong", "correct horse battery stable\n");
    let mut served = Served::start(&["--token-file", &token]);
    let address = served.address.clone();
    let rpc = ["--rpc", &address, "-ngl", "all"];
    let expected = files.run(&[]).with(0, &[]).stdout;
    let with = |file: &str| files.run(&[&rpc[..], &["--token-file", file]].concat());
    assert_eq!(with(&token).with(0, &["RPC0"]).stdout, expected);
    with(&wrong).with(1, &[&address, "does not take the token"]);
    files.run(&rpc).with(1, &[&address, "wants a token", "--token-file"]);
    // Whoever speaks the protocol at once is not listened to, nor is who proves with another's proof.
    let mut stranger = Client::connect(&served.address).expect("it listens");
    let mut greeting = [0; 40];
    stranger.0.read_exact(&mut greeting).expect("a challenge");
    stranger.0.write_all(&[&greeting[..], &[0; 32]].concat()).expect("sent");
    assert!(matches!(stranger.0.read(&mut [0]), Ok(0) | Err(_)), "a proof of zeros");
    let mut stranger = Client::connect(&served.address).expect("it listens");
    stranger.send(HELLO, &[0; 24]).expect("sent");
    let mut all = Vec::new();
    let _ = stranger.0.read_to_end(&mut all);
    assert!(all.len() <= 40, "nothing but the challenge: {all:?}");
    served.assert_alive("strangers");
    assert_eq!(with(&token).with(0, &[]).stdout, expected);
}

#[test]
fn token_files_that_are_none_are_refused() {
    let files = Folder::new();
    let short = files.token("short", "swordfish\n");
    let long = files.token("long", &"x".repeat(5000));
    let token = files.token("token", "correct horse battery staple");
    let refused = |file: &str, said: &[&str]| {
        watched::run(&mut curtail(&["rpc-server", "-p", "0", "--token-file", file]), b"").with(1, said);
        files.run(&["--rpc", "127.0.0.1:1", "--token-file", file]).with(1, said);
    };
    refused(&short, &[&short, "expected 16 bytes or more, found 9", "hint:"]);
    refused(&long, &[&long, "4096"]);
    refused("/dev/zero", &["/dev/zero", "it is a device"]);
    refused("/nowhere", &["/nowhere"]);
    // A worker without a token does not ask for one.
    let plain = Served::start(&[]);
    files.run(&["--rpc", &plain.address, "--token-file", &token]).with(1, &["asks for no token", &plain.address]);
    files.run(&["--token-file", &token]).with(2, &["--rpc"]);
}
