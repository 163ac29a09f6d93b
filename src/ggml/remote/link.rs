//! Owns the connection to one worker: requests and answers of ggml's RPC protocol. Refuses protocols of another major
//! version.
//!
//! A request is a command byte, the length of its body (u64), the body; an answer is its length (u64) and a body. All
//! numbers are little-endian. Requests without an answer are collected until somebody waits for one.

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};

use crate::ggml::sys;

/// Commands of the protocol, by their numbers.
#[derive(Clone, Copy)]
#[repr(u8)]
pub(super) enum Command {
    AllocBuffer = 0,
    GetAlignment = 1,
    GetMaxSize = 2,
    BufferGetBase = 3,
    FreeBuffer = 4,
    BufferClear = 5,
    SetTensor = 6,
    GetTensor = 8,
    GraphCompute = 10,
    GetDeviceMemory = 11,
    InitTensor = 12,
    GetAllocSize = 13,
    Hello = 14,
    DeviceCount = 15,
    GraphRecompute = 16,
    MemsetTensor = 17,
}

/// The version whose commands and layouts are spelled here.
const MAJOR_VERSION: u8 = 7;
const _: () = assert!(sys::RPC_PROTO_MAJOR_VERSION == MAJOR_VERSION as u32, "ggml speaks another protocol");

/// Both hello messages carry so many bytes about transports other than TCP; zero means none.
const CAPABILITIES: usize = 24;

/// A worker that is there answers a greeting at once, unless it serves somebody else.
const GREETING: Duration = Duration::from_secs(5);

/// How long data may lie here that the worker does not take: it takes none while it computes and its room is full.
#[cfg(target_os = "linux")]
const UNTAKEN: Duration = Duration::from_secs(300);

/// Bytes collected before they are sent anyway.
const COLLECT: usize = 1 << 20;

/// A connection that works.
pub(super) struct Link {
    stream: TcpStream,
    out: Vec<u8>,
}

impl Link {
    /// Connects and greets.
    pub(super) fn open(endpoint: &str) -> io::Result<Link> {
        let stream = connect(endpoint)?;
        stream.set_nodelay(true)?;
        // A computation may take minutes, and a machine may lose its power: only the latter stops answering probes, or
        // takes no data for so long.
        let keepalive = TcpKeepalive::new().with_time(Duration::from_secs(10)).with_interval(Duration::from_secs(5));
        SockRef::from(&stream).set_tcp_keepalive(&keepalive)?;
        #[cfg(target_os = "linux")]
        SockRef::from(&stream).set_tcp_user_timeout(Some(UNTAKEN))?;
        stream.set_read_timeout(Some(GREETING))?;
        let mut link = Link { stream, out: Vec::new() };
        let hello = link.ask(Command::Hello, &[&[0; CAPABILITIES]], 4 + CAPABILITIES).map_err(|error| {
            if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) {
                io::Error::other(
                    "it accepts the connection, but does not answer: it serves another program, or is no worker",
                )
            } else {
                error
            }
        })?;
        if hello[0] != MAJOR_VERSION {
            let found = format!("protocol {}.{}.{}", hello[0], hello[1], hello[2]);
            return Err(io::Error::other(format!("expected RPC protocol {MAJOR_VERSION}, found {found}")));
        }
        link.stream.set_read_timeout(None)?;
        Ok(link)
    }

    /// Sends a request that has no answer, now or later.
    pub(super) fn send(&mut self, command: Command, body: &[&[u8]]) -> io::Result<()> {
        let len: usize = body.iter().map(|part| part.len()).sum();
        self.out.push(command as u8);
        self.out.extend_from_slice(&(len as u64).to_le_bytes());
        for part in body {
            if part.len() >= COLLECT {
                self.flush()?;
                self.stream.write_all(part)?;
            } else {
                self.out.extend_from_slice(part);
            }
        }
        if self.out.len() >= COLLECT { self.flush() } else { Ok(()) }
    }

    /// Sends what was collected.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        self.stream.write_all(&self.out)?;
        self.out.clear();
        Ok(())
    }

    /// Sends a request and waits for its answer of `n` bytes.
    pub(super) fn ask(&mut self, command: Command, body: &[&[u8]], n: usize) -> io::Result<Vec<u8>> {
        let mut answer = vec![0; n];
        self.ask_into(command, body, &mut answer)?;
        Ok(answer)
    }

    /// The same, into a place of the answer's length.
    pub(super) fn ask_into(&mut self, command: Command, body: &[&[u8]], answer: &mut [u8]) -> io::Result<()> {
        self.send(command, body)?;
        self.flush()?;
        let mut len = [0; 8];
        self.stream.read_exact(&mut len).map_err(closed)?;
        let len = u64::from_le_bytes(len);
        if len != answer.len() as u64 {
            return Err(io::Error::other(format!("expected an answer of {} bytes, found {len}", answer.len())));
        }
        self.stream.read_exact(answer).map_err(closed)
    }

    /// The same for answers that are one number each, one behind the other.
    pub(super) fn ask_numbers<const N: usize>(&mut self, command: Command, body: &[&[u8]]) -> io::Result<[u64; N]> {
        let answer = self.ask(command, body, 8 * N)?;
        let mut numbers = [0; N];
        for (number, bytes) in numbers.iter_mut().zip(answer.chunks_exact(8)) {
            *number = u64::from_le_bytes(bytes.try_into().expect("eight bytes"));
        }
        Ok(numbers)
    }
}

fn connect(endpoint: &str) -> io::Result<TcpStream> {
    let mut last = io::Error::other("no address");
    for address in endpoint.to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, GREETING) {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// A worker that cannot carry out a command ends the connection, as one that dies does.
fn closed(error: io::Error) -> io::Error {
    if error.kind() == io::ErrorKind::UnexpectedEof {
        return io::Error::new(io::ErrorKind::ConnectionAborted, "it closed the connection");
    }
    error
}
