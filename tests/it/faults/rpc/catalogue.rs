//! Faults of ggml's RPC server, as records and threads describe them: each message ends its own connection, and nothing else.

use super::Served;
use super::wire::*;

/// A client with two buffers, ready to say something.
struct Attacker {
    client: Client,
    a: Buffer,
    b: Buffer,
}

const BYTES: u64 = 1 << 16;

impl Attacker {
    fn tensor(&self, id: u64, dtype: u32, ne: [u32; 4], offset: u64) -> Tensor {
        Tensor::new(id, dtype, ne, self.a.handle, self.a.base.wrapping_add(offset))
    }

    fn f32(&self, id: u64, ne: [u32; 4], offset: u64) -> Tensor {
        self.tensor(id, F32, ne, offset)
    }

    fn compute(&mut self, nodes: &[u64], tensors: &[Tensor]) {
        let _ = self.client.send(GRAPH_COMPUTE, &graph(nodes, tensors).0);
    }

    /// Computes one node of these sources.
    fn one(&mut self, result: Tensor, sources: Vec<Tensor>) {
        let nodes = [result.id];
        self.compute(&nodes, &[sources, vec![result]].concat());
    }

    fn announce(&mut self, command: u8, len: u64) {
        let _ = self.client.announce(command, len, &[0; 16]);
    }

    fn say(&mut self, command: u8, parts: &[&[u8]]) {
        let _ = self.client.send(command, &body(parts));
    }
}

/// A client whose work must come out right whatever others do.
struct Bystander {
    client: Client,
    result: Tensor,
}

impl Bystander {
    fn new(served: &Served) -> Bystander {
        let mut client = Client::greet(&served.address).expect("it serves");
        let buffer = client.allocate(4096);
        let at = |id, ne, offset| Tensor::new(id, F32, ne, buffer.handle, buffer.base + offset);
        let (a, x) = (at(1, [2, 2, 1, 1], 0), at(2, [2, 1, 1, 1], 64));
        client.set(&a, &floats(&[1.0, 2.0, 3.0, 4.0])).expect("sent");
        client.set(&x, &floats(&[10.0, 1.0])).expect("sent");
        let result = at(3, [2, 1, 1, 1], 128).node(op::MUL_MAT, &[1, 2], &[]);
        client.send(GRAPH_COMPUTE, &graph(&[3], &[a, x, result.clone()]).0).expect("sent");
        Bystander { client, result }
    }

    #[track_caller]
    fn assert_served(&mut self, after: &str) {
        let zero = body(&[&self.result.raw().0, &[0; 8], &8u64.to_le_bytes(), &[0]]);
        self.client.send(MEMSET_TENSOR, &zero).expect("sent");
        self.client.send(GRAPH_RECOMPUTE, &[0; 4]).expect("sent");
        let found = self.client.get(&self.result).unwrap_or_else(|error| panic!("after {after}: {error}"));
        assert_eq!(found, floats(&[12.0, 34.0]), "after {after}");
    }
}

/// What it is, why it is refused, and what does it.
type Attack = (&'static str, &'static str, fn(&mut Attacker));

/// Each attack on one worker, one after the other.
fn each_ends_its_connection(attacks: &[Attack]) {
    let mut served = Served::start(&[]);
    let mut bystander = Bystander::new(&served);
    for (name, why, attack) in attacks {
        let mut client = Client::greet(&served.address).expect("it serves");
        let (a, b) = (client.allocate(BYTES), client.allocate(BYTES));
        let who = client.0.local_addr().expect("an address").to_string();
        let mut attacker = Attacker { client, a, b };
        attack(&mut attacker);
        let closed = attacker.client.is_closed();
        served.assert_alive(name);
        assert!(closed, "{name}: the client is still served");
        let said = served.said_of(&who);
        assert!(said.contains("was sent away") && said.contains(why), "{name}: {said}");
        bystander.assert_served(name);
    }
}

const ON_MEMORY: &[Attack] = &[
    ("CVE-2024-42477: a type that is none, in SET_TENSOR", "type 999", |a| {
        let tensor = a.tensor(1, 999, [4, 1, 1, 1], 0);
        a.say(SET_TENSOR, &[&tensor.raw().0, &[0; 9], &[1; 4]]);
    }),
    ("CVE-2024-42477: a type that was removed, in GET_ALLOC_SIZE", "type 4", |a| {
        let tensor = a.tensor(1, 4, [32, 1, 1, 1], 0).raw().0;
        a.say(GET_ALLOC_SIZE, &[&[0; 4], &tensor, &[0; 2960]]);
    }),
    ("CVE-2024-42478: GET_TENSOR of any address", "outside its buffer", |a| {
        let mut tensor = a.f32(1, [4, 1, 1, 1], 0);
        tensor.data = 0x4141_4141_0000;
        a.say(GET_TENSOR, &[&tensor.raw().0, &[0; 8], &16u64.to_le_bytes()]);
    }),
    ("CVE-2024-42478: GET_TENSOR of an offset that wraps", "16 bytes at 18446744073709551615", |a| {
        let tensor = a.f32(1, [4, 1, 1, 1], 0).raw().0;
        a.say(GET_TENSOR, &[&tensor, &u64::MAX.to_le_bytes(), &16u64.to_le_bytes()]);
    }),
    ("CVE-2024-42478: GET_TENSOR of more than there is", "of a tensor of 16", |a| {
        let tensor = a.f32(1, [4, 1, 1, 1], 0).raw().0;
        a.say(GET_TENSOR, &[&tensor, &[0; 8], &(1u64 << 62).to_le_bytes()]);
    }),
    ("CVE-2024-42479: SET_TENSOR to any address", "outside its buffer", |a| {
        let mut tensor = a.f32(1, [4, 1, 1, 1], 0);
        tensor.data = 0x4141_4141_0000;
        a.say(SET_TENSOR, &[&tensor.raw().0, &[0; 9], &[0x41; 8]]);
    }),
    ("CVE-2024-42479: SET_TENSOR right behind the buffer", "outside its buffer", |a| {
        let tensor = a.f32(1, [1, 1, 1, 1], BYTES).raw().0;
        a.say(SET_TENSOR, &[&tensor, &[0; 9], &[0x41; 4]]);
    }),
    ("CVE-2024-42479: SET_TENSOR before the buffer, by an offset", "outside its buffer", |a| {
        let tensor = a.f32(1, [4, 1, 1, 1], 0u64.wrapping_sub(64)).raw().0;
        a.say(SET_TENSOR, &[&tensor, &[0], &64u64.to_le_bytes(), &[0x41; 4]]);
    }),
    ("CVE-2024-42479: MEMSET_TENSOR past the tensor", "9 bytes at 8", |a| {
        let tensor = a.f32(1, [4, 1, 1, 1], 0).raw().0;
        a.say(MEMSET_TENSOR, &[&tensor, &8u64.to_le_bytes(), &9u64.to_le_bytes(), &[0x41]]);
    }),
    ("ggml PR 1103: COPY_TENSOR into less", "different shapes", |a| {
        let (from, mut to) = (a.f32(1, [1024, 1, 1, 1], 0), a.f32(2, [1, 1, 1, 1], 0));
        (to.buffer, to.data) = (a.b.handle, a.b.base + BYTES - 4);
        a.say(COPY_TENSOR, &[&from.raw().0, &to.raw().0]);
    }),
    ("CVE-2026-34159: a graph whose tensor has no buffer", "buffer 0 is not there", |a| {
        let mut x = a.f32(1, [4, 1, 1, 1], 0);
        (x.buffer, x.data) = (0, 0x4141_4141_0000);
        let y = a.f32(2, [4, 1, 1, 1], 1024).node(op::UNARY, &[1], &[6]);
        a.one(y, vec![x]);
    }),
    ("CVE-2026-34159: a graph whose tensor lies nowhere", "buffer 0 is not there", |a| {
        let mut x = a.f32(1, [4, 1, 1, 1], 0);
        (x.buffer, x.data) = (0, 0);
        let y = a.f32(2, [4, 1, 1, 1], 1024).node(op::UNARY, &[1], &[6]);
        a.one(y, vec![x]);
    }),
    ("CVE-2026-137567: COPY_TENSOR to nothing below the buffer", "outside its buffer", |a| {
        let from = a.f32(1, [0, 1, 1, 1], 0).raw().0;
        let to = a.f32(2, [0, 1, 1, 1], 0u64.wrapping_sub(4096)).raw().0;
        a.say(COPY_TENSOR, &[&from, &to]);
    }),
    ("CVE-2026-137567: COPY_TENSOR of something to nothing", "different shapes", |a| {
        let from = a.f32(1, [16, 1, 1, 1], 0).raw().0;
        let to = a.f32(2, [0, 1, 1, 1], 0).raw().0;
        a.say(COPY_TENSOR, &[&from, &to]);
    }),
    ("a buffer of another client", "buffer 77 is not there", |a| {
        let mut tensor = a.f32(1, [4, 1, 1, 1], 0);
        tensor.buffer = 77;
        a.say(GET_TENSOR, &[&tensor.raw().0, &[0; 8], &16u64.to_le_bytes()]);
    }),
    ("a buffer that was freed", "is not there", |a| {
        let tensor = a.f32(1, [4, 1, 1, 1], 0).raw().0;
        let handle = a.a.handle.to_le_bytes();
        a.say(FREE_BUFFER, &[&handle]);
        a.say(GET_TENSOR, &[&tensor, &[0; 8], &16u64.to_le_bytes()]);
    }),
    ("a buffer that is freed twice", "is not there", |a| {
        let handle = a.a.handle.to_le_bytes();
        a.say(FREE_BUFFER, &[&handle]);
        a.say(FREE_BUFFER, &[&handle]);
    }),
    ("a graph whose buffer was freed", "no graph to compute again", |a| {
        let (x, y) = (a.f32(1, [4, 1, 1, 1], 0), a.f32(2, [4, 1, 1, 1], 64).node(op::UNARY, &[1], &[6]));
        a.one(y, vec![x]);
        let handle = a.a.handle.to_le_bytes();
        a.say(FREE_BUFFER, &[&handle]);
        a.say(GRAPH_RECOMPUTE, &[&[0; 4]]);
    }),
    ("a buffer cleared that is none", "is not there", |a| {
        a.say(BUFFER_CLEAR, &[&0x4141_4141_4141u64.to_le_bytes(), &[0]])
    }),
    ("the base of a buffer that is none", "buffer 0 is not there", |a| a.say(BUFFER_GET_BASE, &[&0u64.to_le_bytes()])),
];

#[test]
fn memory_outside_a_buffer_is_neither_read_nor_written() {
    each_ends_its_connection(ON_MEMORY);
}

const ON_MESSAGES: &[Attack] = &[
    ("SET_TENSOR of 2^63 bytes", "expected up to 131072 bytes", |a| a.announce(SET_TENSOR, 1 << 63)),
    ("GRAPH_COMPUTE of 2 GB", "found 2147483648", |a| a.announce(GRAPH_COMPUTE, 2 << 30)),
    ("SET_TENSOR of 2 GB into 16 bytes", "expected up to 131072 bytes", |a| {
        let header = body(&[&a.f32(1, [4, 1, 1, 1], 0).raw().0, &[0; 9]]);
        let _ = a.client.announce(SET_TENSOR, 2 << 30, &header);
    }),
    ("SET_TENSOR of 4 KB into 16 bytes", "4096 bytes at 0 of a tensor of 16", |a| {
        let tensor = a.f32(1, [4, 1, 1, 1], 0).raw().0;
        a.say(SET_TENSOR, &[&tensor, &[0; 9], &[0x41; 4096]]);
    }),
    ("SET_TENSOR of less than its header", "a message of 100 bytes", |a| a.say(SET_TENSOR, &[&[0; 100]])),
    ("GRAPH_COMPUTE of nothing", "ends in a field", |a| a.say(GRAPH_COMPUTE, &[])),
    ("a graph of 2^32 - 1 nodes", "4294967295 nodes", |a| {
        a.say(GRAPH_COMPUTE, &[&[0; 4], &u32::MAX.to_le_bytes(), &[0; 64]])
    }),
    ("a graph of 2^32 - 1 tensors", "4294967295 tensors", |a| {
        a.say(GRAPH_COMPUTE, &[&[0; 8], &u32::MAX.to_le_bytes(), &[0; 296]])
    }),
    ("a graph with bytes behind it", "0 tensors in 1 bytes", |a| {
        let mut raw = graph(&[], &[]).0;
        raw.push(0);
        a.say(GRAPH_COMPUTE, &[&raw]);
    }),
    ("a command that is none", "no such command", |a| a.say(200, &[])),
    ("ggml's command for nothing", "no such command", |a| a.say(18, &[])),
    ("a second greeting", "a second greeting", |a| a.say(HELLO, &[&[0; 24]])),
    ("DEVICE_COUNT with a body", "expected a message of 0 bytes, found 5", |a| a.say(DEVICE_COUNT, &[&[0; 5]])),
    ("a device that is none, in ALLOC_BUFFER", "device 151587081 of 1", |a| {
        a.say(ALLOC_BUFFER, &[&[9; 4], &16u64.to_le_bytes()])
    }),
    ("a device that is none, in GET_ALIGNMENT", "device 4294967295 of 1", |a| {
        a.say(GET_ALIGNMENT, &[&u32::MAX.to_le_bytes()])
    }),
    ("a device that is none, in GET_MAX_SIZE", "device 1 of 1", |a| a.say(GET_MAX_SIZE, &[&1u32.to_le_bytes()])),
    ("a device that is none, in GET_DEVICE_MEMORY", "device 1 of 1", |a| {
        a.say(GET_DEVICE_MEMORY, &[&1u32.to_le_bytes()])
    }),
    ("a device that is none, in a graph", "device 117901063 of 1", |a| a.say(GRAPH_COMPUTE, &[&[7; 4], &[0; 8]])),
    ("a graph again that was none", "no graph to compute again", |a| a.say(GRAPH_RECOMPUTE, &[&[0; 4]])),
    ("INIT_TENSOR without a buffer", "buffer 0 is not there", |a| a.say(INIT_TENSOR, &[&[0; 296]])),
    ("SET_TENSOR_HASH of another length", "expected a message of 312 bytes", |a| a.say(SET_TENSOR_HASH, &[&[0; 300]])),
];

#[test]
fn lengths_and_commands_that_are_none_end_the_connection() {
    each_ends_its_connection(ON_MESSAGES);
}

const ON_GRAPHS: &[Attack] = &[
    ("#25289: MAP_CUSTOM1 calls an address", "none that graphs", |a| {
        let x = a.f32(1, [4, 1, 1, 1], 0);
        let y = a.f32(2, [4, 1, 1, 1], 128).node(op::MAP_CUSTOM1, &[1], &[0x4141_4141, 0x4141, 1]);
        a.one(y, vec![x]);
    }),
    ("#25289: CUSTOM calls an address", "none that graphs", |a| {
        let y = a.f32(2, [4, 1, 1, 1], 128).node(op::CUSTOM, &[], &[0x4141_4141, 0x4141, 1]);
        a.one(y, vec![]);
    }),
    ("an operation that is none", "operation 101", |a| {
        let x = a.f32(1, [4, 1, 1, 1], 0);
        let y = a.f32(2, [4, 1, 1, 1], 128).node(op::COUNT, &[1], &[]);
        a.one(y, vec![x]);
    }),
    ("an operation of 2^32 - 1", "operation 4294967295", |a| {
        let x = a.f32(1, [4, 1, 1, 1], 0);
        let y = a.f32(2, [4, 1, 1, 1], 128).node(u32::MAX, &[1], &[]);
        a.one(y, vec![x]);
    }),
    ("#25288: a row that is no whole number of blocks", "[33, 2, 1, 1] elements of q8_0", |a| {
        let mut w = a.tensor(1, Q8_0, [32, 2, 1, 1], 0);
        w.ne[0] = 33;
        let x = a.f32(2, [33, 1, 1, 1], 1024);
        let y = a.f32(3, [2, 1, 1, 1], 2048).node(op::MUL_MAT, &[1, 2], &[]);
        a.one(y, vec![w, x]);
    }),
    ("#13067: a type of matrix that has no product", "a matrix that cannot be multiplied by", |a| {
        let (w, x) = (a.tensor(1, I32, [32, 2, 1, 1], 0), a.f32(2, [32, 1, 1, 1], 1024));
        let y = a.f32(3, [2, 1, 1, 1], 2048).node(op::MUL_MAT, &[1, 2], &[]);
        a.one(y, vec![w, x]);
    }),
    ("#26825: GET_ROWS of a row that is none", "none of the 4", |a| {
        let (table, rows) = (a.f32(1, [4, 4, 1, 1], 0), a.tensor(2, I32, [2, 1, 1, 1], 256));
        a.client.set(&rows, &[3, 0, 0, 0, 4, 0, 0, 0]).expect("sent");
        let y = a.f32(3, [4, 2, 1, 1], 512).node(op::GET_ROWS, &[1, 2], &[]);
        a.one(y, vec![table, rows]);
    }),
    ("#26825: GET_ROWS of a row below zero, the second time", "none of the 4", |a| {
        let (table, rows) = (a.f32(1, [4, 4, 1, 1], 0), a.tensor(2, I32, [1, 1, 1, 1], 256));
        a.client.set(&rows, &[0; 4]).expect("sent");
        let y = a.f32(3, [4, 1, 1, 1], 512).node(op::GET_ROWS, &[1, 2], &[]);
        a.one(y.clone(), vec![table, rows.clone()]);
        assert_eq!(a.client.get(&y).expect("the first is right"), [0; 16]);
        a.client.set(&rows, &[0xff; 4]).expect("sent");
        a.say(GRAPH_RECOMPUTE, &[&[0; 4]]);
    }),
    ("#26912: SET_ROWS at a row that is none", "none of the 4", |a| {
        let (table, x) = (a.f32(1, [4, 4, 1, 1], 0), a.f32(2, [4, 1, 1, 1], 256));
        let rows = a.tensor(3, I64, [1, 1, 1, 1], 512);
        a.client.set(&rows, &(1u64 << 40).to_le_bytes()).expect("sent");
        let mut y = a.f32(4, [4, 4, 1, 1], 0).node(op::SET_ROWS, &[2, 3, 1], &[]);
        y.view_src = 1;
        a.one(y, vec![table, x, rows]);
    }),
    ("#26912: SET_ROWS at rows that the graph computes", "its rows are computed", |a| {
        let (table, x) = (a.f32(1, [4, 4, 1, 1], 0), a.f32(2, [4, 1, 1, 1], 256));
        let (rows, noise) = (a.tensor(3, I64, [1, 1, 1, 1], 512), a.f32(5, [2, 1, 1, 1], 1024));
        a.client.set(&noise, &[0x41; 8]).expect("sent");
        let over = a.f32(6, [2, 1, 1, 1], 512).node(op::UNARY, &[5], &[6]);
        let mut y = a.f32(4, [4, 4, 1, 1], 0).node(op::SET_ROWS, &[2, 3, 1], &[]);
        y.view_src = 1;
        a.compute(&[6, 4], &[table, x, rows, noise, over, y]);
    }),
    ("#25542: SET_ROWS of another shape", "rows that do not fit", |a| {
        let (table, x) = (a.f32(1, [4, 4, 1, 1], 0), a.f32(2, [8, 1, 1, 1], 256));
        let rows = a.tensor(3, I64, [1, 1, 1, 1], 512);
        let mut y = a.f32(4, [4, 4, 1, 1], 0).node(op::SET_ROWS, &[2, 3, 1], &[]);
        y.view_src = 1;
        a.one(y, vec![table, x, rows]);
    }),
    ("#25542: GET_ROWS into less", "another type or shape", |a| {
        let (table, rows) = (a.f32(1, [4, 4, 1, 1], 0), a.tensor(2, I32, [8, 1, 1, 1], 256));
        let y = a.f32(3, [4, 1, 1, 1], BYTES - 32).node(op::GET_ROWS, &[1, 2], &[]);
        a.one(y, vec![table, rows]);
    }),
    ("a node that is null", "tensor 0 is not there", |a| a.compute(&[0], &[])),
    ("a node that is not described", "tensor 5 is not there", |a| a.compute(&[5], &[])),
    ("an operand that is not described", "tensor 9 is not there", |a| {
        let y = a.f32(2, [4, 1, 1, 1], 64).node(op::UNARY, &[9], &[6]);
        a.one(y, vec![]);
    }),
    ("an operand that is missing", "an operand is missing", |a| {
        let y = a.f32(2, [4, 1, 1, 1], 64).node(op::MUL_MAT, &[], &[]);
        a.one(y, vec![]);
    }),
    ("a tensor without a name", "without a name", |a| {
        let x = a.f32(0, [4, 1, 1, 1], 0);
        a.compute(&[], &[x]);
    }),
    ("two tensors of one name", "without a name of its own (1)", |a| {
        let x = a.f32(1, [4, 1, 1, 1], 0);
        a.compute(&[], &[x.clone(), x]);
    }),
    ("a node twice", "a node twice", |a| {
        let (x, y) = (a.f32(1, [4, 1, 1, 1], 0), a.f32(2, [4, 1, 1, 1], 64).node(op::UNARY, &[1], &[6]));
        a.compute(&[2, 2], &[x, y]);
    }),
    ("a node of itself", "computed later", |a| {
        let y = a.f32(2, [4, 1, 1, 1], 64).node(op::UNARY, &[2], &[6]);
        a.one(y, vec![]);
    }),
    ("nodes in a circle", "computed later", |a| {
        let x = a.f32(1, [4, 1, 1, 1], 0).node(op::UNARY, &[2], &[6]);
        let y = a.f32(2, [4, 1, 1, 1], 64).node(op::UNARY, &[1], &[6]);
        a.compute(&[1, 2], &[x, y]);
    }),
    ("a view of itself", "computed later", |a| {
        let mut y = a.f32(2, [4, 1, 1, 1], 64).node(op::VIEW, &[2], &[]);
        y.view_src = 2;
        a.one(y, vec![]);
    }),
    ("a chain of views of views", "a view of a view", |a| {
        let mut tensors = vec![a.f32(1, [4, 1, 1, 1], 0)];
        for id in 2..50_000 {
            let mut view = a.f32(id, [4, 1, 1, 1], 0).node(op::VIEW, &[id - 1], &[]);
            view.view_src = id - 1;
            tensors.push(view);
        }
        a.compute(&[49_999], &tensors);
    }),
    ("a view that is larger than what it shows", "outside what it is a view of", |a| {
        let (x, mut y) = (a.f32(1, [4, 1, 1, 1], 0), a.f32(2, [64, 1, 1, 1], 0).node(op::VIEW, &[1], &[]));
        y.view_src = 1;
        a.one(y, vec![x]);
    }),
    ("elements in each other", "strides [4, 0, 0, 0]", |a| {
        let mut x = a.f32(1, [4, 1 << 20, 1, 1], 0);
        x.nb = [4, 0, 0, 0];
        let y = a.f32(2, [4, 1, 1, 1], 64).node(op::UNARY, &[1], &[6]);
        a.one(y, vec![x]);
    }),
    ("an odd address", "no multiple of 32", |a| {
        let x = a.f32(1, [4, 1, 1, 1], 2);
        let y = a.f32(2, [4, 1, 1, 1], 64).node(op::UNARY, &[1], &[6]);
        a.one(y, vec![x]);
    }),
    ("operands that do not multiply", "do not multiply", |a| {
        let (w, x) = (a.f32(1, [4, 4, 1, 1], 0), a.f32(2, [5, 1, 1, 1], 256));
        let y = a.f32(3, [4, 1, 1, 1], 512).node(op::MUL_MAT, &[1, 2], &[]);
        a.one(y, vec![w, x]);
    }),
    ("a product into less", "another type or shape", |a| {
        let (w, x) = (a.f32(1, [4, 64, 1, 1], 0), a.f32(2, [4, 1, 1, 1], 2048));
        let y = a.f32(3, [4, 1, 1, 1], BYTES - 32).node(op::MUL_MAT, &[1, 2], &[]);
        a.one(y, vec![w, x]);
    }),
    ("a sum of different shapes", "does not repeat", |a| {
        let (x, z) = (a.f32(1, [4, 1, 1, 1], 0), a.f32(2, [3, 1, 1, 1], 64));
        let y = a.f32(3, [4, 1, 1, 1], 128).node(op::ADD, &[1, 2], &[]);
        a.one(y, vec![x, z]);
    }),
    ("a norm with an epsilon below zero", "an epsilon", |a| {
        let x = a.f32(1, [4, 1, 1, 1], 0);
        let y = a.f32(2, [4, 1, 1, 1], 64).node(op::RMS_NORM, &[1], &[(-1f32).to_bits() as i32]);
        a.one(y, vec![x]);
    }),
    ("a norm with an epsilon that is no number", "an epsilon", |a| {
        let x = a.f32(1, [4, 1, 1, 1], 0);
        let y = a.f32(2, [4, 1, 1, 1], 64).node(op::NORM, &[1], &[f32::NAN.to_bits() as i32]);
        a.one(y, vec![x]);
    }),
    ("a rotation of nothing, which never ends", "a rotation that does not fit", |a| {
        let (x, at) = (a.f32(1, [4, 1, 1, 1], 0), a.tensor(2, I32, [1, 1, 1, 1], 64));
        let y = a.f32(3, [4, 1, 1, 1], 128).node(op::ROPE, &[1, 2], &[0, 0, 0]);
        a.one(y, vec![x, at]);
    }),
    ("a rotation of an odd head", "a rotation that does not fit", |a| {
        let (x, at) = (a.f32(1, [5, 1, 1, 1], 0), a.tensor(2, I32, [1, 1, 1, 1], 64));
        let y = a.f32(3, [5, 1, 1, 1], BYTES - 32).node(op::ROPE, &[1, 2], &[0, 4, 0]);
        a.one(y, vec![x, at]);
    }),
    ("a rotation of a kind that is none", "a kind of rotation", |a| {
        let (x, at) = (a.f32(1, [4, 1, 1, 1], 0), a.tensor(2, I32, [1, 1, 1, 1], 64));
        let y = a.f32(3, [4, 1, 1, 1], 128).node(op::ROPE, &[1, 2], &[0, 4, 24]);
        a.one(y, vec![x, at]);
    }),
    ("a mask that is too small", "a mask that does not fit", |a| {
        let (x, mask) = (a.f32(1, [4, 4, 1, 1], 0), a.tensor(2, F16, [4, 1, 1, 1], 256));
        let y = a.f32(3, [4, 4, 1, 1], 512).node(op::SOFT_MAX, &[1, 2], &[1f32.to_bits() as i32]);
        a.one(y, vec![x, mask]);
    }),
    ("values for fewer keys", "do not fit", |a| {
        let (q, k) = (a.f32(1, [4, 1, 1, 1], 0), a.f32(2, [4, 4, 1, 1], 64));
        let v = a.f32(3, [4, 1, 1, 1], 256);
        let y = a.f32(4, [4, 1, 1, 1], 512).node(op::FLASH_ATTN_EXT, &[1, 2, 3], &[]);
        a.one(y, vec![q, k, v]);
    }),
    ("a function that is none", "a function that is none", |a| {
        let x = a.f32(1, [4, 1, 1, 1], 0);
        let y = a.f32(2, [4, 1, 1, 1], 64).node(op::UNARY, &[1], &[77]);
        a.one(y, vec![x]);
    }),
    ("a gate that is none", "a gate that is none", |a| {
        let x = a.f32(1, [4, 1, 1, 1], 0);
        let y = a.f32(2, [2, 1, 1, 1], 64).node(op::GLU, &[1], &[77]);
        a.one(y, vec![x]);
    }),
    ("a dimension that is none", "a dimension that is none", |a| {
        let (x, z) = (a.f32(1, [4, 1, 1, 1], 0), a.f32(2, [4, 1, 1, 1], 64));
        let y = a.f32(3, [4, 2, 1, 1], 128).node(op::CONCAT, &[1, 2], &[-1]);
        a.one(y, vec![x, z]);
    }),
    ("something of nothing", "computed of nothing", |a| {
        let (w, x) = (a.f32(1, [0, 4, 1, 1], 0), a.f32(2, [0, 1, 1, 1], 64));
        let y = a.f32(3, [4, 1, 1, 1], 128).node(op::MUL_MAT, &[1, 2], &[]);
        a.one(y, vec![w, x]);
    }),
];

#[test]
fn graphs_that_ggml_would_run_into_the_ground_are_refused() {
    each_ends_its_connection(ON_GRAPHS);
}

#[test]
fn what_is_unusual_but_sound_is_served() {
    let mut served = Served::start(&[]);
    // CVE-2026-118375: other transports than TCP are asked for, and not taken.
    let mut client = Client::connect(&served.address).expect("it serves");
    let hello = client.ask(HELLO, &[0xff; 24]).expect("an answer");
    assert_eq!((&hello[..4], &hello[4..]), (&[7, 0, 0, 0][..], &[0; 24][..]));
    for absurd in [1 << 62, u64::MAX, 2 << 40] {
        assert_eq!(client.allocate(absurd).handle, 0, "{absurd} bytes");
    }
    let empty = client.allocate(0);
    assert_ne!(empty.handle, 0);
    let buffer = client.allocate(1 << 20);
    // As deep as the longest graph: nothing recurses.
    let node = |id: u64| {
        let x = Tensor::new(id, F32, [4, 1, 1, 1], buffer.handle, buffer.base + 64 * id);
        if id == 1 { x } else { x.node(op::UNARY, &[id - 1], &[6]) }
    };
    let deep: Vec<Tensor> = (1..=10_000).map(node).collect();
    client.set(&deep[0], &floats(&[1.0, -2.0, 3.0, -0.5])).expect("sent");
    let nodes: Vec<u64> = (2..=10_000).collect();
    client.send(GRAPH_COMPUTE, &graph(&nodes, &deep).0).expect("sent");
    assert_eq!(client.get(deep.last().expect("there are some")).expect("an answer"), floats(&[1.0, 0.0, 3.0, 0.0]));
    // A graph of nothing, and a node of nothing.
    client.send(GRAPH_COMPUTE, &graph(&[], &[]).0).expect("sent");
    let (none, of_none) = (Tensor::new(1, F32, [0, 1, 1, 1], 0, 0), Tensor::new(2, F32, [0, 1, 1, 1], 0, 0));
    client.send(GRAPH_COMPUTE, &graph(&[2], &[none, of_none.node(op::UNARY, &[1], &[6])]).0).expect("sent");
    assert!(!client.is_closed());
    served.assert_alive("all of it");
    let unused = Tensor::new(9, F32, [4, 1, 1, 1], buffer.handle, buffer.base + (3 << 18));
    assert_eq!(client.get(&unused).expect("an answer"), [0; 16], "memory begins as zeros");
}
