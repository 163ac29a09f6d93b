//! Conversations that are sound, changed field by field: an answer or a refusal, never a signal, and never memory that nobody
//! sent. `CURTAIL_FUZZ_INPUTS` sets how many (tests/it/common/fuzz).

use std::io::Write;
use std::net::Shutdown;
use std::sync::Mutex;

use curtail::ggml::{Device, Parting, Server};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::Served;
use super::wire::*;
use crate::common::fuzz;
use crate::common::raw::Raw;

const MEMORY: usize = 64 << 20;
const ROOM: u64 = 1 << 18;

/// A conversation in the making, whose graph grows by sound nodes.
struct Maker {
    rng: ChaCha8Rng,
    raw: Raw,
    /// Where the buffer lies, as the worker says.
    buffer: Buffer,
    used: u64,
    tensors: Vec<Tensor>,
    nodes: Vec<u64>,
}

impl Maker {
    fn new(seed: u64, buffer: Buffer) -> Maker {
        let rng = ChaCha8Rng::seed_from_u64(seed);
        let raw = request(Raw::default(), HELLO, &Raw::of(&[0; 24]));
        let raw = request(raw, ALLOC_BUFFER, &Raw::default().u32(0).u64(ROOM));
        let raw = request(raw, BUFFER_GET_BASE, &Raw::default().u64(buffer.handle));
        Maker { rng, raw, buffer, used: 0, tensors: Vec::new(), nodes: Vec::new() }
    }

    fn say(&mut self, command: u8, body: &Raw) {
        self.raw = request(std::mem::take(&mut self.raw), command, body);
    }

    /// A new tensor at the next free place.
    fn place(&mut self, dtype: u32, ne: [u32; 4]) -> Tensor {
        let id = 1000 + self.tensors.len() as u64;
        let tensor = Tensor::new(id, dtype, ne, self.buffer.handle, self.buffer.base + self.used);
        self.used += u64::from(tensor.bytes()).next_multiple_of(64);
        assert!(self.used <= ROOM, "the conversation needs more room");
        tensor
    }

    /// A tensor that is given, with numbers that are rows of `limit`, or noise.
    fn given(&mut self, dtype: u32, ne: [u32; 4], limit: Option<u32>) -> Tensor {
        let tensor = self.place(dtype, ne);
        let n = tensor.bytes() as usize;
        let bytes: Vec<u8> = match limit {
            Some(limit) => {
                let mut row = || u64::from(self.rng.random_range(0..limit));
                let size = block(dtype).1 as usize;
                (0..n / size).flat_map(|_| row().to_le_bytes()[..size].to_vec()).collect()
            }
            None => (0..n).map(|_| self.rng.random()).collect(),
        };
        let header = tensor.write(Raw::default()).bytes(&[0]).u64(0).bytes(&bytes);
        self.say(SET_TENSOR, &header);
        self.tensors.push(tensor.clone());
        tensor
    }

    fn add(&mut self, tensor: Tensor) -> Tensor {
        self.nodes.push(tensor.id);
        self.tensors.push(tensor.clone());
        tensor
    }

    fn node(&mut self, op: u32, sources: &[&Tensor], params: &[i32], ne: [u32; 4]) -> Tensor {
        let ids: Vec<u64> = sources.iter().map(|tensor| tensor.id).collect();
        let node = self.place(F32, ne).node(op, &ids, params);
        self.add(node)
    }

    /// A node that shows another's memory.
    fn shown(&mut self, op: u32, sources: &[&Tensor], params: &[i32], of: &Tensor, like: Tensor) -> Tensor {
        let ids: Vec<u64> = sources.iter().map(|tensor| tensor.id).collect();
        let like = Tensor { id: 1000 + self.tensors.len() as u64, params: [0; 16], src: [0; 10], ..like };
        let mut node = like.node(op, &ids, params);
        // What is a view in the end, is one of what is none.
        node.view_src = if of.view_src == 0 { of.id } else { of.view_src };
        let root = self.tensors.iter().find(|tensor| tensor.id == node.view_src).expect("it is there");
        node.view_offs = node.data - root.data;
        self.add(node)
    }

    /// A layer of everything that graphs of language models hold.
    fn layer(&mut self) {
        let (n, t) = (32 * self.rng.random_range(1..3u32), self.rng.random_range(1..5u32));
        let float = |x: f32| x.to_bits() as i32;
        let table = self.given(F32, [n, 8, 1, 1], None);
        let ids = self.given(I32, [t, 1, 1, 1], Some(8));
        let x = self.node(op::GET_ROWS, &[&table, &ids], &[], [n, t, 1, 1]);
        let normed = self.node(if n > 32 { op::NORM } else { op::RMS_NORM }, &[&x], &[float(1e-5)], [n, t, 1, 1]);
        let weight = self.given(F32, [n, 1, 1, 1], None);
        let x = self.node(op::MUL, &[&normed, &weight], &[], [n, t, 1, 1]);
        let kind = [F32, F16, Q8_0][self.rng.random_range(0..3)];
        let w = self.given(kind, [n, n, 1, 1], None);
        let y = self.node(op::MUL_MAT, &[&w, &x], &[], [n, t, 1, 1]);
        let heads = Tensor { ne: [n / 2, 2, t, 1], nb: [4, 2 * n, 4 * n, 4 * n * t], ..y.clone() };
        let heads = self.shown(op::RESHAPE, &[&y], &[], &y, heads);
        let positions = self.given(I32, [t, 1, 1, 1], Some(100));
        let rope = [0, n as i32 / 2, 2, 0, 0, float(1e4), float(1.0), 0, float(1.0), float(32.0), float(1.0)];
        let q = self.node(op::ROPE, &[&heads, &positions], &rope, [n / 2, 2, t, 1]);
        let (ne, nb) = ([n / 2, t, 2, 1], [4, 4 * n, 2 * n, 4 * n * t]);
        let q = self.shown(op::PERMUTE, &[&q], &[0, 2, 1, 3], &q, Tensor { ne, nb, ..q.clone() });
        let cache = self.given(F16, [n, 8, 1, 1], None);
        let rows = self.given(I64, [t, 1, 1, 1], Some(8));
        self.shown(op::SET_ROWS, &[&y, &rows, &cache], &[], &cache, cache.clone());
        let (ne, nb) = ([n / 2, 8, 2, 1], [2, 2 * n, n, 16 * n]);
        let keys = self.shown(op::VIEW, &[&cache], &[], &cache, Tensor { ne, nb, ..cache.clone() });
        let mask = self.given(F16, [8, t, 1, 1], Some(1));
        if self.rng.random() {
            let params = [float(0.25)];
            self.node(op::FLASH_ATTN_EXT, &[&q, &keys, &keys, &mask], &params, [n / 2, 2, t, 1]);
        } else {
            let scores = self.node(op::MUL_MAT, &[&keys, &q], &[10], [8, t, 2, 1]);
            let scores = self.node(op::SOFT_MAX, &[&scores, &mask], &[float(0.25)], [8, t, 2, 1]);
            let swapped = Tensor { ne: [t, 8, 2, 1], nb: [32, 4, 32 * t, 64 * t], ..scores.clone() };
            let swapped = self.shown(op::TRANSPOSE, &[&scores], &[], &scores, swapped);
            self.node(op::CONT, &[&swapped], &[], [t, 8, 2, 1]);
        }
        let gated = self.node(op::GLU, &[&y], &[2, 0], [n / 2, t, 1, 1]);
        let function = [4, 6, 8, 10, 16][self.rng.random_range(0..5)];
        let gated = self.node(op::UNARY, &[&gated], &[function], [n / 2, t, 1, 1]);
        let gated = self.node(op::SCALE, &[&gated], &[float(2.0)], [n / 2, t, 1, 1]);
        let both = self.node(op::CONCAT, &[&gated, &gated], &[0], [n, t, 1, 1]);
        let sum = self.node(op::ADD, &[&both, &y], &[], [n, t, 1, 1]);
        let own = 1000 + self.tensors.len() as u64;
        let converted = self.place(F16, [n, t, 1, 1]).node(op::CPY, &[sum.id, own], &[]);
        self.add(converted);
        let half = self.place(F16, [n, t, 1, 1]);
        self.tensors.push(half.clone());
        self.shown(op::CPY, &[&sum, &half], &[], &half, half.clone());
    }

    fn finish(mut self) -> Raw {
        let graph = graph(&self.nodes, &self.tensors);
        self.say(GRAPH_COMPUTE, &graph);
        self.say(GRAPH_RECOMPUTE, &Raw::default().u32(0));
        let (first, last) = (self.tensors[0].clone(), self.tensors[self.tensors.len() - 1].clone());
        self.say(GET_TENSOR, &last.write(Raw::default()).u64(0).u64(last.bytes().into()));
        self.say(COPY_TENSOR, &first.write(first.raw()));
        self.say(MEMSET_TENSOR, &first.write(Raw::default()).u64(4).u64(8).bytes(&[7]));
        self.say(SET_TENSOR_HASH, &first.write(Raw::default()).u64(0).u64(1));
        self.say(INIT_TENSOR, &first.raw());
        let sources = (0..10).fold(first.write(Raw::default().u32(0)), |raw, _| last.write(raw));
        self.say(GET_ALLOC_SIZE, &sources);
        for command in [GET_ALIGNMENT, GET_MAX_SIZE, GET_DEVICE_MEMORY] {
            self.say(command, &Raw::default().u32(0));
        }
        self.say(BUFFER_CLEAR, &Raw::default().u64(self.buffer.handle).bytes(&[1]));
        self.say(FREE_BUFFER, &Raw::default().u64(self.buffer.handle));
        self.say(DEVICE_COUNT, &Raw::default());
        self.raw
    }
}

/// What the first buffer of every conversation is called.
fn first_buffer(server: &Server) -> Buffer {
    let say = |raw: Raw| {
        let mut answers = Vec::new();
        server.converse(&raw.0[..], &mut answers).expect("it is sound");
        answers
    };
    let raw = request(Raw::default(), HELLO, &Raw::of(&[0; 24]));
    let raw = request(raw, ALLOC_BUFFER, &Raw::default().u32(0).u64(ROOM));
    let handle = number(&say(raw.clone())[36 + 8..]);
    let answers = say(request(raw, BUFFER_GET_BASE, &Raw::default().u64(handle)));
    Buffer { handle, base: number(&answers[36 + 24 + 8..]) }
}

fn seeds(n: u64, buffer: Buffer) -> Vec<Raw> {
    let conversation = |seed| {
        let mut maker = Maker::new(seed, buffer);
        (0..1 + seed % 3).for_each(|_| maker.layer());
        maker.finish()
    };
    (0..n).map(conversation).collect()
}

fn server() -> Server {
    Server::new(vec![Device::cpu(1).expect("a CPU")], Some(MEMORY), None)
}

#[test]
fn mutated_conversations_end_in_an_answer_or_a_refusal() {
    // Conversations run beside each other, as of several clients; each has the memory of a whole server.
    let servers: Vec<Server> = (0..4).map(|_| server()).collect();
    let free = Mutex::new(servers.iter().collect::<Vec<_>>());
    let seeds = seeds(96, first_buffer(&servers[0]));
    for (i, seed) in seeds.iter().enumerate() {
        let mut answers = Vec::new();
        servers[0].converse(&seed.0[..], &mut answers).unwrap_or_else(|why| panic!("seed {i}: {why}"));
    }
    let outcomes = fuzz::run("rpc", 2_000, &seeds, |bytes, _| {
        let server = free.lock().expect("no panic").pop();
        let one;
        let used = match server {
            Some(server) => server,
            None => {
                one = self::server();
                &one
            }
        };
        let mut answers = Vec::new();
        let outcome = match used.converse(bytes, &mut answers) {
            Ok(()) => "served".to_owned(),
            Err(Parting::Lost(error)) => format!("lost: {}", error.kind()),
            Err(Parting::Wrong(why)) => why.split([':', '(']).next_back().unwrap_or("").trim().to_owned(),
        };
        free.lock().expect("no panic").extend(server);
        without_numbers(&outcome)
    });
    let inputs: u64 = outcomes.values().sum();
    let served = outcomes.get("served").copied().unwrap_or(0);
    assert!(served > inputs / 20, "the mutations must leave conversations that are served: {served} of {inputs}");
    assert!(outcomes.len() > 20 || inputs < 1_000, "the mutations must reach most checks: {outcomes:#?}");
}

/// With every number as `#`.
fn without_numbers(text: &str) -> String {
    let mut short = String::new();
    for c in text.chars().map(|c| if c.is_ascii_digit() { '#' } else { c }) {
        if c != '#' || !short.ends_with('#') {
            short.push(c);
        }
    }
    short
}

#[test]
fn a_worker_outlives_mutated_conversations() {
    let mut served = Served::start(&[]);
    let seeds = seeds(32, first_buffer(&server()));
    fuzz::run("rpc-server", 150, &seeds, |bytes, _| {
        let mut client = Client::connect(&served.address).expect("it serves");
        let outcome = client.0.write_all(bytes).and_then(|()| client.0.shutdown(Shutdown::Write));
        let read = std::io::copy(&mut client.0, &mut std::io::sink());
        format!("{:?}, {:?}", outcome.map_err(|e| e.kind()), read.map(|_| ()).map_err(|e| e.kind()))
    });
    served.assert_alive("all of them");
    assert!(!Client::greet(&served.address).expect("it serves").is_closed());
}
