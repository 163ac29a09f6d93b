//! Workers that say nonsense, or nothing: each is an error with the worker's address, within a time.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use super::wire::*;
use crate::common::curtail;
use crate::common::tiny::Tiny;
use crate::common::watched::{Ended, run_within};

/// What a fake worker does instead of a right answer.
#[derive(Clone)]
enum Says {
    Bytes(Vec<u8>),
    Nothing,
    /// A byte at a time, for ever.
    Drip,
    Closes,
}

fn numbers(numbers: &[u64]) -> Says {
    Says::Bytes(numbers.iter().flat_map(|n| n.to_le_bytes()).collect())
}

/// A worker that answers as one should, but for some commands.
struct Fake {
    address: String,
}

impl Fake {
    fn new(instead: &[(u8, Says)]) -> Fake {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        let instead: HashMap<u8, Says> = instead.iter().cloned().collect();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let instead = instead.clone();
                std::thread::spawn(move || serve(stream, &instead));
            }
        });
        Fake { address }
    }
}

/// Until the client leaves.
fn serve(mut stream: TcpStream, instead: &HashMap<u8, Says>) -> Option<()> {
    let mut buffers = 1u64;
    loop {
        let mut header = [0; 9];
        stream.read_exact(&mut header).ok()?;
        let command = header[0];
        let mut body = vec![0; u64::from_le_bytes(header[1..].try_into().expect("eight bytes")) as usize];
        stream.read_exact(&mut body).ok()?;
        let right = |buffers: &mut u64| match command {
            HELLO => Some([vec![7, 0, 0, 0], vec![0; 24]].concat()),
            DEVICE_COUNT => Some(vec![1, 0, 0, 0]),
            GET_ALIGNMENT => Some(64u64.to_le_bytes().to_vec()),
            GET_MAX_SIZE => Some((1u64 << 62).to_le_bytes().to_vec()),
            GET_DEVICE_MEMORY => Some((8u64 << 30).to_le_bytes().repeat(2)),
            ALLOC_BUFFER => {
                *buffers += 1;
                Some([&buffers.to_le_bytes()[..], &body[4..12]].concat())
            }
            BUFFER_GET_BASE => Some((1u64 << 40).to_le_bytes().to_vec()),
            GET_ALLOC_SIZE => Some((1u64 << 20).to_le_bytes().to_vec()),
            GET_TENSOR => {
                let (_, len) = body.split_last_chunk::<8>().expect("a length");
                Some(vec![0; u64::from_le_bytes(*len) as usize])
            }
            _ => None,
        };
        let answer = match instead.get(&command) {
            Some(Says::Bytes(bytes)) => Some(bytes.clone()),
            Some(Says::Nothing) => None,
            Some(Says::Closes) => return None,
            Some(Says::Drip) => {
                for byte in (8u64.to_le_bytes()).into_iter().chain(std::iter::repeat(0)) {
                    std::thread::sleep(Duration::from_millis(900));
                    stream.write_all(&[byte]).ok()?;
                }
                None
            }
            None => right(&mut buffers),
        };
        if let Some(answer) = answer {
            stream.write_all(&(answer.len() as u64).to_le_bytes()).ok()?;
            stream.write_all(&answer).ok()?;
        }
    }
}

const LIMIT: Duration = Duration::from_secs(15);

/// Runs a model on a worker.
fn run_on(address: &str) -> Ended {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("tiny.gguf");
    Tiny::new().write(&path);
    let model = path.to_str().expect("UTF-8");
    let more = ["--rpc", address, "-ngl", "all", "-p", "hi", "-n", "2"];
    let mut command = curtail(&[&["run", "-m", model, "-t", "1"], &more[..]].concat());
    run_within(&mut command, b"", LIMIT)
}

/// Each case beside the others: most of the time they wait.
fn each_is_an_error(cases: &[(&str, u8, Says, &str)]) {
    std::thread::scope(|scope| {
        for (what, command, says, said) in cases {
            scope.spawn(move || {
                let fake = Fake::new(&[(*command, says.clone())]);
                let start = Instant::now();
                let ended = run_on(&fake.address);
                assert!(!ended.timed_out, "{what}: {:?}", start.elapsed());
                let told = format!("{what}: {ended:?}");
                assert!(ended.code == Some(1) && ended.stderr.contains(&fake.address), "{told}");
                assert!(ended.stderr.contains(said), "{said:?} is not in {told}");
            });
        }
    });
}

#[test]
fn numbers_that_no_worker_means_are_errors() {
    each_is_an_error(&[
        ("an alignment of 0", GET_ALIGNMENT, numbers(&[0]), "alignment"),
        ("an alignment of 3", GET_ALIGNMENT, numbers(&[3]), "alignment"),
        ("an alignment of 2^63", GET_ALIGNMENT, numbers(&[1 << 63]), "alignment"),
        ("a largest buffer of nothing", GET_MAX_SIZE, numbers(&[0]), "largest buffer"),
        ("a tensor of 2^62 bytes", GET_ALLOC_SIZE, numbers(&[1 << 62]), "bytes of a tensor"),
        ("a tensor of 2^64 - 1 bytes", GET_ALLOC_SIZE, numbers(&[u64::MAX]), "bytes of a tensor"),
        ("a buffer smaller than asked for", ALLOC_BUFFER, numbers(&[7, 1]), "bytes of a buffer"),
        ("a buffer at the end of memory", BUFFER_GET_BASE, numbers(&[u64::MAX]), "address of a buffer"),
        ("no device", DEVICE_COUNT, Says::Bytes(vec![0; 4]), "devices"),
        ("2^32 - 1 devices", DEVICE_COUNT, Says::Bytes(vec![0xff; 4]), "devices"),
        ("100,000 devices", DEVICE_COUNT, Says::Bytes(100_000u32.to_le_bytes().to_vec()), "devices"),
        ("an answer of another length", DEVICE_COUNT, Says::Bytes(vec![0; 400]), "expected an answer of 4 bytes"),
        ("another version", HELLO, Says::Bytes(vec![6; 28]), "expected RPC protocol 7"),
        ("the end, in the middle", ALLOC_BUFFER, Says::Closes, "closed the connection"),
        ("no memory", ALLOC_BUFFER, numbers(&[0, 0]), ""),
    ]);
}

#[test]
fn workers_that_stand_still_are_errors_in_time() {
    each_is_an_error(&[
        ("no greeting", HELLO, Says::Nothing, "does not answer"),
        ("no number of devices", DEVICE_COUNT, Says::Nothing, "stands still"),
        ("no alignment", GET_ALIGNMENT, Says::Drip, "stands still"),
        ("no memory's size", GET_DEVICE_MEMORY, Says::Nothing, "stands still"),
        ("no buffer", ALLOC_BUFFER, Says::Nothing, "stands still"),
        ("no result", GET_TENSOR, Says::Nothing, "stands still"),
        ("a result without end", GET_TENSOR, Says::Drip, ""),
    ]);
}
