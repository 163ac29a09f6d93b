//! Owns who is connected: how many may be, and how long each may take over one message. Refuses to let those who say nothing keep
//! others out.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use socket2::{SockRef, TcpKeepalive};

use super::Activity;
use super::channel::is_late;

/// Connections at once. Each has a thread.
const MOST: usize = 64;

/// Within this a client has said who it is.
const GREETING: Duration = Duration::from_secs(10);

/// A client that has said nothing for so long gives way: it connects again, and sends all anew.
const FORGOTTEN: Duration = Duration::from_secs(600);

/// A client that has begun a message, or is being answered, does not stop for so long.
const STANDSTILL: Duration = Duration::from_secs(60);

#[derive(Default)]
pub(super) struct Peers(Mutex<Seats>);

#[derive(Default)]
struct Seats {
    next: u64,
    taken: BTreeMap<u64, Seat>,
}

struct Seat {
    stream: TcpStream,
    activity: Arc<Activity>,
}

/// A seat, until it is dropped.
pub(super) struct Guest<'p> {
    peers: &'p Peers,
    number: u64,
    activity: Arc<Activity>,
}

impl Peers {
    /// A seat for a connection. Where all are taken, one that holds no memory or was forgotten gives way: the one that has been
    /// silent the longest.
    pub(super) fn admit(&self, stream: &TcpStream) -> Option<Guest<'_>> {
        let stream = stream.try_clone().ok()?;
        let mut seats = self.lock();
        if seats.taken.len() >= MOST {
            let may_go =
                |seat: &Seat| seat.activity.held.load(Ordering::Relaxed) == 0 || seat.activity.idle() > FORGOTTEN;
            let silent = seats.taken.iter().filter(|(_, seat)| may_go(seat));
            let (&number, _) = silent.max_by_key(|(_, seat)| seat.activity.idle())?;
            seats.taken.remove(&number).iter().for_each(Seat::end);
        }
        let (number, activity) = (seats.next, Arc::new(Activity::new()));
        seats.next += 1;
        seats.taken.insert(number, Seat { stream, activity: activity.clone() });
        Some(Guest { peers: self, number, activity })
    }

    fn lock(&self) -> MutexGuard<'_, Seats> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Seat {
    /// Ends the connection, for whoever holds it: its thread finds the end of it, and so does the client.
    fn end(&self) {
        // One that is lost already has nothing to be shut.
        let _ = self.stream.shutdown(Shutdown::Both);
    }
}

impl Guest<'_> {
    pub(super) fn activity(&self) -> &Activity {
        &self.activity
    }
}

impl Drop for Guest<'_> {
    fn drop(&mut self) {
        let seat = self.peers.lock().taken.remove(&self.number);
        seat.iter().for_each(Seat::end);
    }
}

/// Whether an error of `accept` is of one connection, or of a lack that passes.
pub(super) fn is_passing(error: &io::Error) -> bool {
    const EMFILE: i32 = 24;
    const ENFILE: i32 = 23;
    let kinds =
        [ErrorKind::ConnectionAborted, ErrorKind::ConnectionReset, ErrorKind::Interrupted, ErrorKind::OutOfMemory];
    kinds.contains(&error.kind()) || [Some(EMFILE), Some(ENFILE)].contains(&error.raw_os_error())
}

/// A connection whose reads and writes end when the other side stands still.
pub(super) struct TimedStream<'s> {
    stream: &'s TcpStream,
    /// When the greeting must be over.
    deadline: Cell<Option<Instant>>,
}

impl<'s> TimedStream<'s> {
    pub(super) fn new(stream: &'s TcpStream) -> io::Result<TimedStream<'s>> {
        stream.set_nodelay(true)?;
        // A client may think for days, and its machine may lose its power: only the latter stops answering probes.
        let keepalive = TcpKeepalive::new().with_time(Duration::from_secs(60)).with_interval(Duration::from_secs(10));
        SockRef::from(stream).set_tcp_keepalive(&keepalive)?;
        stream.set_write_timeout(Some(STANDSTILL))?;
        Ok(TimedStream { stream, deadline: Cell::new(Some(Instant::now() + GREETING)) })
    }

    pub(super) fn has_greeted(&self) {
        self.deadline.set(None);
        // An error here would show at the next read.
        let _ = self.stream.set_read_timeout(Some(STANDSTILL));
    }
}

impl Read for &TimedStream<'_> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        if let Some(deadline) = self.deadline.get() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(io::Error::new(ErrorKind::TimedOut, "it did not greet in time"));
            }
            self.stream.set_read_timeout(Some(left))?;
        }
        let mut stream = self.stream;
        stream.read(bytes).map_err(standstill)
    }
}

impl Write for &TimedStream<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut stream = self.stream;
        stream.write(bytes).map_err(standstill)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Says what a system's "try again" means here.
fn standstill(error: io::Error) -> io::Error {
    if is_late(&error) { io::Error::new(ErrorKind::TimedOut, "it stands still") } else { error }
}
