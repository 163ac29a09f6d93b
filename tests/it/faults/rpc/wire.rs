//! A client of ggml's RPC protocol that says anything.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use crate::common::raw::Raw;

pub(super) const ALLOC_BUFFER: u8 = 0;
pub(super) const GET_ALIGNMENT: u8 = 1;
pub(super) const GET_MAX_SIZE: u8 = 2;
pub(super) const BUFFER_GET_BASE: u8 = 3;
pub(super) const FREE_BUFFER: u8 = 4;
pub(super) const BUFFER_CLEAR: u8 = 5;
pub(super) const SET_TENSOR: u8 = 6;
pub(super) const SET_TENSOR_HASH: u8 = 7;
pub(super) const GET_TENSOR: u8 = 8;
pub(super) const COPY_TENSOR: u8 = 9;
pub(super) const GRAPH_COMPUTE: u8 = 10;
pub(super) const GET_DEVICE_MEMORY: u8 = 11;
pub(super) const INIT_TENSOR: u8 = 12;
pub(super) const GET_ALLOC_SIZE: u8 = 13;
pub(super) const HELLO: u8 = 14;
pub(super) const DEVICE_COUNT: u8 = 15;
pub(super) const GRAPH_RECOMPUTE: u8 = 16;
pub(super) const MEMSET_TENSOR: u8 = 17;

pub(super) const F32: u32 = 0;
pub(super) const F16: u32 = 1;
pub(super) const Q8_0: u32 = 8;
pub(super) const I32: u32 = 26;
pub(super) const I64: u32 = 27;

/// Operations, by ggml's numbers.
pub(super) mod op {
    pub(crate) const ADD: u32 = 2;
    pub(crate) const MUL: u32 = 7;
    pub(crate) const CONCAT: u32 = 22;
    pub(crate) const NORM: u32 = 24;
    pub(crate) const RMS_NORM: u32 = 25;
    pub(crate) const MUL_MAT: u32 = 29;
    pub(crate) const SCALE: u32 = 32;
    pub(crate) const CPY: u32 = 34;
    pub(crate) const CONT: u32 = 35;
    pub(crate) const RESHAPE: u32 = 36;
    pub(crate) const VIEW: u32 = 37;
    pub(crate) const PERMUTE: u32 = 38;
    pub(crate) const TRANSPOSE: u32 = 39;
    pub(crate) const GET_ROWS: u32 = 40;
    pub(crate) const SET_ROWS: u32 = 42;
    pub(crate) const SOFT_MAX: u32 = 46;
    pub(crate) const ROPE: u32 = 48;
    pub(crate) const FLASH_ATTN_EXT: u32 = 74;
    pub(crate) const UNARY: u32 = 91;
    pub(crate) const MAP_CUSTOM1: u32 = 92;
    pub(crate) const CUSTOM: u32 = 95;
    pub(crate) const GLU: u32 = 100;
    pub(crate) const COUNT: u32 = 101;
}

/// A tensor on the wire. Every number may be anything.
#[derive(Clone, Debug)]
pub(super) struct Tensor {
    pub(super) id: u64,
    pub(super) dtype: u32,
    pub(super) buffer: u64,
    pub(super) ne: [u32; 4],
    pub(super) nb: [u32; 4],
    pub(super) op: u32,
    pub(super) params: [i32; 16],
    pub(super) flags: i32,
    pub(super) src: [u64; 10],
    pub(super) view_src: u64,
    pub(super) view_offs: u64,
    pub(super) data: u64,
}

/// Elements and bytes of a block.
pub(super) fn block(dtype: u32) -> (u32, u32) {
    match dtype {
        F32 | I32 => (1, 4),
        F16 => (1, 2),
        Q8_0 => (32, 34),
        I64 => (1, 8),
        _ => (1, 1),
    }
}

impl Tensor {
    /// Dense, at an address of a buffer.
    pub(super) fn new(id: u64, dtype: u32, ne: [u32; 4], buffer: u64, data: u64) -> Tensor {
        let (len, bytes) = block(dtype);
        let row = ne[0] / len * bytes;
        let nb = [bytes, row, row * ne[1], row * ne[1] * ne[2]];
        let (params, src) = ([0; 16], [0; 10]);
        Tensor { id, dtype, buffer, ne, nb, op: 0, params, flags: 0, src, view_src: 0, view_offs: 0, data }
    }

    /// As a node that is computed.
    pub(super) fn node(mut self, op: u32, sources: &[u64], params: &[i32]) -> Tensor {
        const COMPUTE: i32 = 16;
        (self.op, self.flags) = (op, COMPUTE);
        self.src[..sources.len()].copy_from_slice(sources);
        self.params[..params.len()].copy_from_slice(params);
        self
    }

    pub(super) fn bytes(&self) -> u32 {
        self.nb[3] * self.ne[3]
    }

    /// Appends it field by field.
    pub(super) fn write(&self, raw: Raw) -> Raw {
        let raw = raw.u64(self.id).u32(self.dtype).u64(self.buffer);
        let raw = self.ne.iter().chain(&self.nb).fold(raw, |raw, &n| raw.u32(n)).u32(self.op);
        let raw = self.params.iter().fold(raw, |raw, &n| raw.u32(n as u32)).u32(self.flags as u32);
        let raw = self.src.iter().fold(raw, |raw, &id| raw.u64(id));
        raw.u64(self.view_src).u64(self.view_offs).u64(self.data).bytes(&[0; 64]).u32(1)
    }

    pub(super) fn raw(&self) -> Raw {
        self.write(Raw::default())
    }
}

/// A body of several parts.
pub(super) fn body(parts: &[&[u8]]) -> Vec<u8> {
    parts.concat()
}

/// A graph's body: nodes in their order, and all tensors.
pub(super) fn graph(nodes: &[u64], tensors: &[Tensor]) -> Raw {
    let raw = nodes.iter().fold(Raw::default().u32(0).u32(nodes.len() as u32), |raw, &id| raw.u64(id));
    tensors.iter().fold(raw.u32(tensors.len() as u32), |raw, tensor| tensor.write(raw))
}

/// Appends a request with the fields of its body.
pub(super) fn request(raw: Raw, command: u8, body: &Raw) -> Raw {
    let Raw(mut bytes, mut fields) = raw.bytes(&[command]).u64(body.0.len() as u64);
    fields.extend(body.1.iter().map(|at| at + bytes.len()));
    bytes.extend_from_slice(&body.0);
    Raw(bytes, fields)
}

/// A connection.
pub(super) struct Client(pub(super) TcpStream);

/// Memory that a worker gave.
#[derive(Clone, Copy, Debug)]
pub(super) struct Buffer {
    pub(super) handle: u64,
    pub(super) base: u64,
}

impl Client {
    /// Connects and greets.
    pub(super) fn greet(address: &str) -> std::io::Result<Client> {
        let mut client = Client::connect(address)?;
        let hello = client.ask(HELLO, &[0; 24])?;
        assert_eq!((hello.len(), hello[0]), (28, 7));
        Ok(client)
    }

    pub(super) fn connect(address: &str) -> std::io::Result<Client> {
        let stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        Ok(Client(stream))
    }

    pub(super) fn send(&mut self, command: u8, body: &[u8]) -> std::io::Result<()> {
        self.announce(command, body.len() as u64, body)
    }

    /// Sends a request with any length.
    pub(super) fn announce(&mut self, command: u8, len: u64, body: &[u8]) -> std::io::Result<()> {
        self.0.write_all(&[&[command], &len.to_le_bytes()[..], body].concat())
    }

    pub(super) fn ask(&mut self, command: u8, body: &[u8]) -> std::io::Result<Vec<u8>> {
        self.send(command, body)?;
        let mut len = [0; 8];
        self.0.read_exact(&mut len)?;
        let mut answer = vec![0; u64::from_le_bytes(len) as usize];
        self.0.read_exact(&mut answer)?;
        Ok(answer)
    }

    pub(super) fn allocate(&mut self, bytes: u64) -> Buffer {
        let answer = self.ask(ALLOC_BUFFER, &body(&[&[0; 4], &bytes.to_le_bytes()])).expect("an answer");
        let handle = number(&answer);
        let base = if handle == 0 { 0 } else { number(&self.ask(BUFFER_GET_BASE, &answer[..8]).expect("an answer")) };
        Buffer { handle, base }
    }

    pub(super) fn set(&mut self, tensor: &Tensor, data: &[u8]) -> std::io::Result<()> {
        self.send(SET_TENSOR, &body(&[&tensor.raw().0, &[0; 9], data]))
    }

    pub(super) fn get(&mut self, tensor: &Tensor) -> std::io::Result<Vec<u8>> {
        let len = u64::from(tensor.bytes()).to_le_bytes();
        self.ask(GET_TENSOR, &body(&[&tensor.raw().0, &[0; 8], &len]))
    }

    /// Whether the worker has closed the connection; to say nothing is not enough.
    pub(super) fn is_closed(&mut self) -> bool {
        match self.ask(DEVICE_COUNT, &[]) {
            Ok(_) => false,
            Err(error) => !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut),
        }
    }
}

/// The first number of an answer.
pub(super) fn number(answer: &[u8]) -> u64 {
    u64::from_le_bytes(answer[..8].try_into().expect("eight bytes"))
}

/// Numbers as bytes.
pub(super) fn floats(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|x| x.to_le_bytes()).collect()
}
