//! Owns the connection to one worker: requests and answers of ggml's RPC protocol. Refuses protocols of another major
//! version, and to wait for ever: a worker gets as long as what it was given to do takes on a slow machine.
//!
//! A request is a command byte, the length of its body (u64), the body; an answer is its length (u64) and a body. All
//! numbers are little-endian. Requests without an answer are collected until somebody waits for one.

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

use socket2::{SockRef, TcpKeepalive};

use super::token::{self, Token};
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
    SetTensorHash = 7,
    GetTensor = 8,
    CopyTensor = 9,
    GraphCompute = 10,
    GetDeviceMemory = 11,
    InitTensor = 12,
    GetAllocSize = 13,
    Hello = 14,
    DeviceCount = 15,
    GraphRecompute = 16,
    MemsetTensor = 17,
}

impl Command {
    /// The command with this number.
    pub(super) fn from_number(number: u8) -> Option<Command> {
        use Command::*;
        const ALL: [Command; 18] = [
            AllocBuffer,
            GetAlignment,
            GetMaxSize,
            BufferGetBase,
            FreeBuffer,
            BufferClear,
            SetTensor,
            SetTensorHash,
            GetTensor,
            CopyTensor,
            GraphCompute,
            GetDeviceMemory,
            InitTensor,
            GetAllocSize,
            Hello,
            DeviceCount,
            GraphRecompute,
            MemsetTensor,
        ];
        ALL.into_iter().find(|command| *command as u8 == number)
    }
}

/// The version whose commands and layouts are spelled here.
pub(super) const MAJOR_VERSION: u8 = 7;
pub(super) const MINOR_VERSION: u8 = 0;
pub(super) const PATCH_VERSION: u8 = 0;
const _: () = assert!(sys::RPC_PROTO_MAJOR_VERSION == MAJOR_VERSION as u32, "ggml speaks another protocol");

/// Both hello messages carry so many bytes about transports other than TCP; zero means none.
pub(super) const CAPABILITIES: usize = 24;

/// A worker that is there answers a greeting at once, unless it serves somebody else.
const GREETING: Duration = Duration::from_secs(5);

/// How long a worker may say nothing that has nothing to do, or take nothing of what is sent.
const SILENCE: Duration = Duration::from_secs(8);

/// Bytes per second of the slowest line and the slowest memory, multiplications per second of the slowest machine. All three
/// are far below what anybody would use.
const SLOW_LINE: u64 = 1 << 20;
const SLOW_MEMORY: u64 = 256 << 20;
const SLOW_MACHINE: u64 = 500_000_000;

/// Bytes that systems keep between sender and receiver, at most: the rest has arrived when a send ends.
const ON_THE_LINE: u64 = 16 << 20;

/// Bytes collected before they are sent anyway.
const COLLECT: usize = 1 << 20;

/// A connection that works.
pub(super) struct Link {
    stream: TcpStream,
    out: Vec<u8>,
    /// Bytes sent, and time that the worker may take for what it was asked to do, since its last answer.
    sent: u64,
    owed: Duration,
    /// When the answers to come must be there, whatever they take.
    until: Option<Instant>,
}

impl Link {
    /// Connects and greets. With a token, both sides prove first that they have it.
    pub(super) fn open(endpoint: &str, token: Option<&Token>) -> io::Result<Link> {
        let stream = connect(endpoint)?;
        stream.set_nodelay(true)?;
        // A computation may take minutes, and a machine may lose its power: only the latter stops answering probes, or
        // takes no data for so long.
        let keepalive = TcpKeepalive::new().with_time(Duration::from_secs(10)).with_interval(Duration::from_secs(5));
        SockRef::from(&stream).set_tcp_keepalive(&keepalive)?;
        let until = Some(Instant::now() + GREETING);
        let mut link = Link { stream, out: Vec::new(), sent: 0, owed: Duration::ZERO, until };
        if let Some(token) = token {
            link.prove(token).map_err(no_greeting)?;
        }
        let hello = link.request(Command::Hello, &[&[0; CAPABILITIES]], 4 + CAPABILITIES).map_err(no_greeting)?;
        if hello[0] != MAJOR_VERSION {
            let found = format!("protocol {}.{}.{}", hello[0], hello[1], hello[2]);
            return Err(io::Error::other(format!("expected RPC protocol {MAJOR_VERSION}, found {found}")));
        }
        link.until = None;
        Ok(link)
    }

    fn prove(&mut self, token: &Token) -> io::Result<()> {
        let deadline = self.deadline(0);
        self.stream.set_write_timeout(Some(GREETING))?;
        let mut input = Timed { stream: &self.stream, deadline };
        match token.answer(&mut input, &mut &self.stream) {
            Ok(true) => Ok(()),
            Ok(false) => Err(io::Error::other("it does not have the token")),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                Err(io::Error::other("it does not take the token: its own is another, or it is a worker without one"))
            }
            Err(error) if is_late(&error) => {
                Err(io::Error::other("it asks for no token: it was started without --token-file, or is no worker"))
            }
            Err(error) => Err(error),
        }
    }

    /// All answers until further notice must be there within this time.
    pub(super) fn within(&mut self, limit: Duration) {
        self.until = Some(Instant::now() + limit);
    }

    /// Each answer has its own time again.
    pub(super) fn without_limit(&mut self) {
        self.until = None;
    }

    /// The worker may take so long for what it is asked to do, before its next answer.
    pub(super) fn owe_work(&mut self, multiplications: u64) {
        self.owed = self.owed.saturating_add(Duration::from_secs(multiplications / SLOW_MACHINE));
    }

    /// The same for memory that it sets up.
    pub(super) fn owe_memory(&mut self, bytes: usize) {
        self.owed = self.owed.saturating_add(Duration::from_secs(bytes as u64 / SLOW_MEMORY));
    }

    /// How long the worker may stand still, as what it has been asked to do takes time.
    fn patience(&self) -> Duration {
        SILENCE + self.owed.min(Duration::from_secs(1 << 20))
    }

    /// When an answer of `n` bytes must be there.
    fn deadline(&self, n: usize) -> Instant {
        let bytes = self.sent.min(ON_THE_LINE) + n as u64;
        let own = Instant::now() + self.patience() + Duration::from_secs(bytes / SLOW_LINE);
        self.until.map_or(own, |until| until.min(own))
    }

    /// Sends a request that has no answer, now or later.
    pub(super) fn send(&mut self, command: Command, body: &[&[u8]]) -> io::Result<()> {
        let len: usize = body.iter().map(|part| part.len()).sum();
        self.out.push(command as u8);
        self.out.extend_from_slice(&(len as u64).to_le_bytes());
        for part in body {
            if part.len() >= COLLECT {
                self.flush()?;
                self.sent = self.sent.saturating_add(part.len() as u64);
                self.stream.write_all(part).map_err(|error| self.stands_still(error))?;
            } else {
                self.out.extend_from_slice(part);
            }
        }
        if self.out.len() >= COLLECT { self.flush() } else { Ok(()) }
    }

    /// Sends what was collected.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        self.stream.set_write_timeout(Some(self.patience()))?;
        self.stream.write_all(&self.out).map_err(|error| self.stands_still(error))?;
        self.sent = self.sent.saturating_add(self.out.len() as u64);
        self.out.clear();
        Ok(())
    }

    fn stands_still(&self, error: io::Error) -> io::Error {
        let why = || format!("it took nothing for {} s: it stands still", self.patience().as_secs());
        if is_late(&error) { io::Error::new(io::ErrorKind::TimedOut, why()) } else { closed(error) }
    }

    /// Sends a request and waits for its answer of `n` bytes.
    pub(super) fn request(&mut self, command: Command, body: &[&[u8]], n: usize) -> io::Result<Vec<u8>> {
        let mut answer = vec![0; n];
        self.request_into(command, body, &mut answer)?;
        Ok(answer)
    }

    /// The same, into a place of the answer's length.
    pub(super) fn request_into(&mut self, command: Command, body: &[&[u8]], answer: &mut [u8]) -> io::Result<()> {
        self.send(command, body)?;
        self.flush()?;
        let start = Instant::now();
        let mut input = Timed { stream: &self.stream, deadline: self.deadline(answer.len()) };
        let mut len = [0; 8];
        let silent = |error: io::Error| {
            let why = || format!("it has not answered for {} s: it stands still", start.elapsed().as_secs());
            if is_late(&error) { io::Error::new(io::ErrorKind::TimedOut, why()) } else { closed(error) }
        };
        input.read_exact(&mut len).map_err(silent)?;
        if len == token::GREETING {
            return Err(io::Error::other("it wants a token: --token-file"));
        }
        let len = u64::from_le_bytes(len);
        if len != answer.len() as u64 {
            return Err(io::Error::other(format!("expected an answer of {} bytes, found {len}", answer.len())));
        }
        input.read_exact(answer).map_err(silent)?;
        (self.sent, self.owed) = (0, Duration::ZERO);
        Ok(())
    }

    /// The same for answers that are one number each, one behind the other.
    pub(super) fn request_numbers<const N: usize>(&mut self, command: Command, body: &[&[u8]]) -> io::Result<[u64; N]> {
        let answer = self.request(command, body, 8 * N)?;
        let mut numbers = [0; N];
        for (number, bytes) in numbers.iter_mut().zip(answer.chunks_exact(8)) {
            *number = u64::from_le_bytes(bytes.try_into().expect("eight bytes"));
        }
        Ok(numbers)
    }
}

/// A stream whose reads end at a time.
struct Timed<'s> {
    stream: &'s TcpStream,
    deadline: Instant,
}

impl Read for Timed<'_> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        self.stream.set_read_timeout(Some(left))?;
        let mut stream = self.stream;
        stream.read(bytes)
    }
}

fn is_late(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

/// Says what it means that somebody who takes connections does not greet.
fn no_greeting(error: io::Error) -> io::Error {
    if is_late(&error) {
        io::Error::other("it accepts the connection, but does not answer: it serves another program, or is no worker")
    } else {
        error
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
    use io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
    if matches!(error.kind(), UnexpectedEof | BrokenPipe | ConnectionReset) {
        return io::Error::new(io::ErrorKind::ConnectionAborted, "it closed the connection");
    }
    error
}
