//! Owns one worker's connection, what lies in its memory, and why it was lost. Refuses to go on after a failure until it is
//! revived.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::ops::RangeInclusive;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use super::link::{Command, Link};
use super::token::Token;
use super::wire::{self, Description, Place};
use super::work;
use crate::ggml::{Content, Error, sys};

/// Devices of one worker, at most.
const MOST_DEVICES: u32 = 64;

/// Bytes of one buffer or tensor, at most: what a worker says about sizes is added up and rounded up.
const MOST_BYTES: u64 = 1 << 44;

/// What starts of tensors are multiples of, at most.
const MOST_ALIGNED: u64 = 1 << 16;

/// A worker has told all about itself within this.
const INTRODUCTION: Duration = Duration::from_secs(10);

/// What a program has of another machine that computes, over one connection after the other.
pub(in crate::ggml) struct Session {
    endpoint: String,
    token: Option<Token>,
    /// Alignment and largest buffer of each device.
    sizes: Vec<(usize, usize)>,
    state: Mutex<State>,
}

struct State {
    link: Option<Link>,
    failure: String,
    /// How often everything was given anew.
    generation: u64,
    /// By their first address.
    buffers: BTreeMap<usize, Held>,
    /// The last graph that each device ran, and its multiplications: it keeps it.
    last_graphs: Vec<Option<(u64, u64)>>,
    /// Bytes that tensors of a kind need on a device, as the worker said: ggml asks several times for each of every new graph.
    alloc_sizes: HashMap<Vec<u8>, u64>,
}

/// A buffer on the worker.
struct Held {
    device: u32,
    bytes: usize,
    /// Its name there, and its first address there.
    there: Place,
    /// What must be in it; without any, it begins as zeros.
    contents: Vec<Kept>,
}

/// The content of a tensor.
struct Kept {
    description: Description,
    offset: usize,
    is_padded: bool,
    content: Content,
}

impl Session {
    /// Connects to the worker at `host:port`, which tells what it has.
    pub(super) fn open(endpoint: &str, token: Option<Token>) -> Result<Session, Error> {
        let lost = |error: io::Error| {
            const HINT: &str = "hint: `curtail rpc-server` starts a worker";
            Error::Device(format!("cannot use the worker at `{endpoint}`: {error}\n{HINT}"))
        };
        let mut link = Link::open(endpoint, token.as_ref()).map_err(lost)?;
        let sizes = introduce(&mut link).map_err(lost)?;
        let state = State {
            link: Some(link),
            failure: String::new(),
            generation: 0,
            buffers: BTreeMap::new(),
            last_graphs: vec![None; sizes.len()],
            alloc_sizes: HashMap::new(),
        };
        Ok(Session { endpoint: endpoint.to_owned(), token, sizes, state: Mutex::new(state) })
    }

    /// `host:port`
    pub(in crate::ggml) fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Devices that it offers.
    pub(in crate::ggml) fn n_devices(&self) -> usize {
        self.sizes.len()
    }

    /// Alignment and largest buffer of each device.
    pub(super) fn sizes(&self) -> &[(usize, usize)] {
        &self.sizes
    }

    /// Free and total bytes of a device's memory.
    pub(in crate::ggml) fn memory(&self, device: u32) -> Option<[u64; 2]> {
        self.attempt(|state| state.link().request_numbers(Command::GetDeviceMemory, &[&device.to_le_bytes()]))
    }

    /// Why it was lost, if it was.
    pub(in crate::ggml) fn check(&self) -> Result<(), Error> {
        let state = self.lock();
        if state.link.is_some() {
            return Ok(());
        }
        Err(Error::Lost { worker: self.endpoint.clone(), why: state.failure.clone() })
    }

    pub(in crate::ggml) fn generation(&self) -> u64 {
        self.lock().generation
    }

    /// Connects again if it was lost, and gives it everything anew: memory without content begins as zeros.
    pub(in crate::ggml) fn revive(&self) -> Result<(), Error> {
        let mut state = self.lock();
        if state.link.is_some() {
            return Ok(());
        }
        let lost = |error: io::Error| Error::Lost { worker: self.endpoint.clone(), why: error.to_string() };
        let mut link = Link::open(&self.endpoint, self.token.as_ref()).map_err(lost)?;
        let (expected, found) = (self.n_devices(), device_count(&mut link).map_err(lost)?);
        if expected != found as usize {
            return Err(lost(io::Error::other(format!("expected {expected} devices, found {found}"))));
        }
        for held in state.buffers.values_mut() {
            held.give(&mut link).map_err(lost)?;
        }
        link.flush().map_err(lost)?;
        state.last_graphs.fill(None);
        state.alloc_sizes.clear();
        state.link = Some(link);
        state.generation += 1;
        Ok(())
    }

    /// Takes memory on a device: its first address, one of ours. None without memory, or if the worker is lost.
    pub(super) fn allocate(&self, device: u32, bytes: usize) -> Option<usize> {
        if bytes as u64 > MOST_BYTES {
            return None;
        }
        let mut held = Held { device, bytes, there: Place::default(), contents: Vec::new() };
        let start = self.attempt(|state| {
            let placed = held.allocate(state.link())?;
            let start = placed.then(|| fresh_addresses(bytes));
            state.buffers.extend(start.map(|start| (start, held)));
            Ok(start)
        });
        start.flatten()
    }

    pub(super) fn free(&self, start: usize) {
        let done = self.attempt(|state| {
            state.last_graphs.fill(None); // the server forgets them: they may read this buffer
            let held = state.buffers.remove(&start);
            held.map_or(Ok(()), |held| state.link().send(Command::FreeBuffer, &[&held.there.buffer.to_le_bytes()]))
        });
        if done.is_none() {
            self.lock().buffers.remove(&start); // so that it is not given anew
        }
    }

    /// Bytes that a tensor needs on a device, where that is more than its own.
    pub(super) fn alloc_size(&self, device: u32, tensor: &sys::ggml_tensor) -> Option<u64> {
        let mut kind = device.to_le_bytes().to_vec();
        // SAFETY: sources are null or alive as long as the tensor.
        let sources = tensor.src.iter().filter_map(|&source| unsafe { source.as_ref() });
        [tensor].into_iter().chain(sources).for_each(|tensor| wire::describe_kind(tensor, &mut kind));
        if let Some(&bytes) = self.lock().alloc_sizes.get(&kind) {
            return Some(bytes);
        }
        self.attempt(|state| {
            let mut body = device.to_le_bytes().to_vec();
            body.extend_from_slice(&state.describe(tensor));
            for &source in &tensor.src {
                // SAFETY: sources are null or alive as long as the tensor.
                match unsafe { source.as_ref() } {
                    Some(source) => body.extend_from_slice(&state.describe(source)),
                    None => body.extend_from_slice(&[0; wire::TENSOR_BYTES]),
                }
            }
            let [bytes] = state.link().request_numbers(Command::GetAllocSize, &[&body])?;
            sane("bytes of a tensor", bytes, 0..=MOST_BYTES)?;
            state.alloc_sizes.insert(kind, bytes);
            Ok(bytes)
        })
    }

    /// Sets up a tensor whose data a device may pad.
    pub(super) fn init(&self, tensor: &sys::ggml_tensor) {
        self.attempt(|state| {
            let description = state.describe(tensor);
            state.link().send(Command::InitTensor, &[&description])
        });
    }

    pub(super) fn set(&self, tensor: &sys::ggml_tensor, data: &[u8], offset: usize) {
        self.attempt(|state| {
            let description = state.describe(tensor);
            set(state.link(), &description, data, offset)
        });
    }

    /// Fills a tensor, now and whenever the worker is revived.
    pub(in crate::ggml) fn fill(&self, tensor: &sys::ggml_tensor, content: Content) {
        self.attempt(|state| {
            let mut description = state.describe(tensor);
            let address = tensor.data as usize;
            let (&start, _) = state.buffers.range(..=address).next_back().expect("the tensor lies in a buffer");
            let kept = Kept { description, offset: address - start, is_padded: is_padded(tensor), content };
            let result = kept.send(state.link(), &mut description);
            state.buffers.get_mut(&start).expect("just found").contents.push(kept);
            result
        });
    }

    pub(super) fn memset(&self, tensor: &sys::ggml_tensor, value: u8, offset: usize, len: usize) {
        self.attempt(|state| {
            let description = state.describe(tensor);
            state.link().owe_memory(len);
            let [offset, len] = [offset, len].map(|n| (n as u64).to_le_bytes());
            state.link().send(Command::MemsetTensor, &[&description, &offset, &len, &[value]])
        });
    }

    /// Copies data out of a tensor; zeros if the worker is lost.
    pub(super) fn get(&self, tensor: &sys::ggml_tensor, data: &mut [u8], offset: usize) {
        let done = self.attempt(|state| {
            let description = state.describe(tensor);
            let [offset, len] = [offset, data.len()].map(|n| (n as u64).to_le_bytes());
            state.link().request_into(Command::GetTensor, &[&description, &offset, &len], data)
        });
        if done.is_none() {
            data.fill(0);
        }
    }

    pub(super) fn clear(&self, start: usize, value: u8) {
        self.attempt(|state| {
            let (buffer, bytes) = state.buffers.get(&start).map_or((0, 0), |held| (held.there.buffer, held.bytes));
            state.link().owe_memory(bytes);
            state.link().send(Command::BufferClear, &[&buffer.to_le_bytes(), &[value]])
        });
    }

    /// Runs a graph on a device. `id` is the graph's alone: the one that ran last need not be sent again.
    ///
    /// # Safety
    /// The graph and all that it reads are alive.
    pub(in crate::ggml) unsafe fn compute(&self, device: u32, graph: NonNull<sys::ggml_cgraph>, id: u64) {
        self.attempt(|state| {
            match state.last_graphs[device as usize] {
                Some((last, work)) if last == id => {
                    state.link().owe_work(work);
                    state.link().send(Command::GraphRecompute, &[&device.to_le_bytes()])?;
                }
                _ => {
                    // SAFETY: as promised by the caller.
                    let (bytes, work) = unsafe {
                        (wire::describe_graph(device, graph, |tensor| state.place(tensor)), work::of_graph(graph))
                    };
                    state.last_graphs[device as usize] = Some((id, work));
                    state.link().owe_work(work);
                    state.link().send(Command::GraphCompute, &[&bytes])?;
                }
            }
            state.link().flush()
        });
    }

    /// Does something with the connection. A failure ends the connection; without one nothing is done.
    fn attempt<T>(&self, request: impl FnOnce(&mut State) -> io::Result<T>) -> Option<T> {
        let mut state = self.lock();
        state.link.as_ref()?;
        match request(&mut state) {
            Ok(value) => Some(value),
            Err(error) => {
                state.link = None;
                state.failure = error.to_string();
                None
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl State {
    /// The connection, while a request is attempted.
    fn link(&mut self) -> &mut Link {
        self.link.as_mut().expect("a request is attempted on a connection")
    }

    /// Where the worker finds a tensor; nowhere if it lies in no buffer of it.
    fn place(&self, tensor: &sys::ggml_tensor) -> Place {
        let address = tensor.data as usize;
        match self.buffers.range(..=address).next_back() {
            Some((start, held)) if address - start < held.bytes => {
                Place { buffer: held.there.buffer, data: held.there.data + (address - start) as u64 }
            }
            _ => Place::default(),
        }
    }

    fn describe(&self, tensor: &sys::ggml_tensor) -> Description {
        wire::describe(tensor, self.place(tensor), 0)
    }
}

impl Held {
    /// Takes memory for it; false if there is not enough.
    fn allocate(&mut self, link: &mut Link) -> io::Result<bool> {
        let body = [&self.device.to_le_bytes()[..], &(self.bytes as u64).to_le_bytes()];
        link.owe_memory(self.bytes);
        let [buffer, bytes] = link.request_numbers(Command::AllocBuffer, &body)?;
        if buffer == 0 {
            return Ok(false);
        }
        sane("bytes of a buffer", bytes, self.bytes as u64..=u64::MAX)?;
        let [data] = link.request_numbers(Command::BufferGetBase, &[&buffer.to_le_bytes()])?;
        sane("address of a buffer", data, 0..=u64::MAX - MOST_BYTES)?;
        self.there = Place { buffer, data };
        Ok(true)
    }

    /// Puts it on a worker that knows nothing of it.
    fn give(&mut self, link: &mut Link) -> io::Result<()> {
        if !self.allocate(link)? {
            return Err(io::Error::other(format!("out of memory for {} bytes", self.bytes)));
        }
        if self.contents.is_empty() {
            return link.send(Command::BufferClear, &[&self.there.buffer.to_le_bytes(), &[0]]);
        }
        for kept in &self.contents {
            let mut description = kept.description;
            let data = self.there.data + kept.offset as u64;
            wire::put_at(&mut description, Place { buffer: self.there.buffer, data });
            kept.send(link, &mut description)?;
        }
        Ok(())
    }
}

impl Kept {
    fn send(&self, link: &mut Link, description: &mut Description) -> io::Result<()> {
        if self.is_padded {
            link.send(Command::InitTensor, &[&description[..]])?;
        }
        let (mut offset, mut result) = (0, Ok(()));
        (self.content)(&mut |piece| {
            if result.is_ok() {
                result = set(link, description, piece, offset);
            }
            offset += piece.len();
        });
        result
    }
}

fn set(link: &mut Link, description: &Description, data: &[u8], offset: usize) -> io::Result<()> {
    const DO_NOT_KEEP: u8 = 0; // in a cache on the worker's disk
    link.send(Command::SetTensor, &[&description[..], &[DO_NOT_KEEP], &(offset as u64).to_le_bytes(), data])
}

/// Whether a device may keep more than a tensor's own bytes: the CUDA backend pads rows to 512 elements.
pub(super) fn is_padded(tensor: &sys::ggml_tensor) -> bool {
    // SAFETY: asks a static table.
    let is_quantized = unsafe { (*sys::ggml_get_type_traits(tensor.type_)).is_quantized };
    is_quantized && tensor.ne[0] % 512 != 0 && tensor.view_src.is_null()
}

fn device_count(link: &mut Link) -> io::Result<u32> {
    let answer = link.request(Command::DeviceCount, &[], 4)?;
    let n = u32::from_le_bytes(answer.try_into().expect("four bytes"));
    sane("devices", n.into(), 1..=MOST_DEVICES.into()).map(|()| n)
}

/// Alignment and largest buffer of each device.
fn introduce(link: &mut Link) -> io::Result<Vec<(usize, usize)>> {
    link.within(INTRODUCTION);
    let mut sizes = Vec::new();
    for device in 0..device_count(link)? {
        let body = device.to_le_bytes();
        let [alignment] = link.request_numbers(Command::GetAlignment, &[&body])?;
        sane("alignment", alignment, 1..=MOST_ALIGNED)?;
        if !alignment.is_power_of_two() {
            return Err(io::Error::other(format!("alignment: expected a power of two, found {alignment}")));
        }
        let [most] = link.request_numbers(Command::GetMaxSize, &[&body])?;
        sane("bytes of the largest buffer", most, 1 << 20..=u64::MAX)?;
        sizes.push((alignment as usize, most.min(MOST_BYTES) as usize));
    }
    link.without_limit();
    Ok(sizes)
}

/// Refuses a number that no worker means.
fn sane(what: &str, found: u64, expected: RangeInclusive<u64>) -> io::Result<()> {
    if expected.contains(&found) {
        return Ok(());
    }
    let (least, most) = expected.into_inner();
    Err(io::Error::other(format!("{what}: expected {least} to {most}, found {found}")))
}

/// Addresses that no other buffer has, and this process never reads.
fn fresh_addresses(bytes: usize) -> usize {
    const FIRST: usize = 1 << 44;
    /// More than any alignment.
    const STEP: usize = 1 << 20;
    static NEXT: AtomicUsize = AtomicUsize::new(FIRST);
    NEXT.fetch_add((bytes + 1).next_multiple_of(STEP), Ordering::Relaxed)
}
