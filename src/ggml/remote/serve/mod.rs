//! Owns the worker's side: serves devices to programs on other machines by ggml's RPC protocol. Refuses whatever is not sound in
//! a message, and then the client: ggml's own server trusts its clients with its process.
//!
//! Every connection has a thread, buffers and graphs of its own; only the devices are shared, in turns. What a client sends is
//! taken apart (`message`), found sound (`shape`, `memory`, `rules`), and made anew (`graph`) before ggml sees any of it.

mod channel;
mod conversation;
mod graph;
mod memory;
mod message;
mod peers;
mod rules;
mod shape;
mod turn;

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use self::conversation::Conversation;
use self::memory::Budget;
use self::peers::{Peers, TimedStream};
use self::turn::Turns;
use super::token::Token;
use crate::ggml::{Device, Error};

/// Why a connection ended before the client left.
#[derive(Debug, thiserror::Error)]
pub enum Parting {
    /// The client sent something that is not sound.
    #[error("{0}")]
    Wrong(String),
    /// The connection failed.
    #[error("{0}")]
    Lost(#[from] io::Error),
}

impl Parting {
    /// Says where it was.
    fn of(self, place: impl FnOnce() -> String) -> Parting {
        match self {
            Parting::Wrong(why) => Parting::Wrong(format!("{}: {why}", place())),
            lost => lost,
        }
    }
}

fn wrong(why: impl Into<String>) -> Parting {
    Parting::Wrong(why.into())
}

/// A worker.
pub struct Server {
    stations: Vec<Station>,
    budget: Arc<Budget>,
    token: Option<Token>,
}

/// A device, and whose turn it is.
struct Station {
    device: Arc<Device>,
    turns: Turns,
}

/// What a connection holds, and when it was last heard of.
struct Activity {
    start: Instant,
    /// Milliseconds after the start.
    last: AtomicU64,
    /// Bytes of memory.
    held: AtomicUsize,
}

impl Activity {
    fn new() -> Activity {
        Activity { start: Instant::now(), last: AtomicU64::new(0), held: AtomicUsize::new(0) }
    }

    fn touch(&self) {
        self.last.store(self.start.elapsed().as_millis() as u64, Ordering::Relaxed);
    }

    /// How long nothing came.
    fn idle(&self) -> Duration {
        self.start.elapsed().saturating_sub(Duration::from_millis(self.last.load(Ordering::Relaxed)))
    }
}

/// What happens on a worker.
pub enum Event {
    /// A client came.
    Came(SocketAddr),
    /// A client left.
    Left(SocketAddr),
    /// A client was sent away.
    Refused(SocketAddr, String),
}

impl Server {
    /// A worker that offers these devices, and so many bytes of this machine's own memory: most of what is free, if nothing is
    /// said. With a token, only to those who have it too.
    pub fn new(devices: Vec<Arc<Device>>, memory: Option<usize>, token: Option<Token>) -> Server {
        let total = devices.iter().find(|device| device.is_cpu()).and_then(|device| device.memory());
        let budget = match memory {
            Some(bytes) => Budget::of(bytes),
            None => Budget::of_this_machine(total.map_or(usize::MAX, |memory| memory.total as usize)),
        };
        let station = |device| Station { device, turns: Turns::default() };
        Server { stations: devices.into_iter().map(station).collect(), budget, token }
    }

    /// Serves whoever connects. Comes back only where the listener fails.
    pub fn serve(&self, listener: &TcpListener, tell: &(dyn Fn(Event) + Sync)) -> Error {
        let peers = Peers::default();
        std::thread::scope(|scope| {
            loop {
                let (stream, address) = match listener.accept() {
                    Ok(accepted) => accepted,
                    Err(error) if peers::is_passing(&error) => {
                        std::thread::sleep(Duration::from_millis(50));
                        continue;
                    }
                    Err(error) => return Error::Device(format!("cannot serve: {error}")),
                };
                let Some(guest) = peers.admit(&stream) else {
                    tell(Event::Refused(address, "there are too many connections".to_owned()));
                    continue;
                };
                let attend = move || {
                    tell(Event::Came(address));
                    // A panic would be this program's fault; even so it is no reason to leave the other clients.
                    let talk = std::panic::AssertUnwindSafe(|| self.attend(&stream, guest.activity()));
                    match std::panic::catch_unwind(talk) {
                        Ok(Ok(())) => tell(Event::Left(address)),
                        Ok(Err(why)) => tell(Event::Refused(address, why.to_string())),
                        Err(_) => tell(Event::Refused(address, "the request cannot be carried out".to_owned())),
                    }
                };
                if std::thread::Builder::new().spawn_scoped(scope, attend).is_err() {
                    tell(Event::Refused(address, "there are too many threads".to_owned()));
                }
            }
        })
    }

    /// Serves one connection, whatever it is made of, until the client leaves.
    ///
    /// # Errors
    /// If the client sends something that is not sound, or the connection fails.
    pub fn converse(&self, input: impl Read, output: impl Write) -> Result<(), Parting> {
        let activity = Activity::new();
        Conversation::open(self, &activity, input, output)?.serve()
    }

    fn attend(&self, stream: &std::net::TcpStream, activity: &Activity) -> Result<(), Parting> {
        let timed = TimedStream::new(stream)?;
        let mut conversation = Conversation::open(self, activity, &timed, &timed)?;
        timed.has_greeted();
        conversation.serve()
    }

    fn station(&self, index: u32) -> Result<&Station, Parting> {
        self.stations.get(index as usize).ok_or_else(|| wrong(format!("device {index} of {}", self.stations.len())))
    }

    /// Free and total bytes of a device.
    fn memory(&self, station: &Station) -> [u64; 2] {
        let memory = station.device.memory();
        let total = memory.map_or(0, |memory| memory.total);
        if station.device.is_cpu() {
            return [(self.budget.left() as u64).min(total), total];
        }
        [memory.map_or(0, |memory| memory.free), total]
    }
}
