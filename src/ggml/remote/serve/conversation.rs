//! Owns one client's conversation: its buffers, its graphs, and what each request does. Refuses a request that is not sound,
//! and with it the client.

use std::io::{Read, Write};
use std::sync::atomic::Ordering;

use super::channel::Channel;
use super::graph::{self, Graph};
use super::memory::{Buffers, Place};
use super::message::{Described, Fields, MAX_SRC, MAX_TENSORS};
use super::shape::Shape;
use super::{Activity, Parting, Server, Station, wrong};
use crate::ggml::Context;
use crate::ggml::remote::link::{CAPABILITIES, Command, MAJOR_VERSION, MINOR_VERSION, PATCH_VERSION};
use crate::ggml::remote::wire::TENSOR_BYTES;
use crate::ggml::sys;

/// A graph's message, at most.
const MOST_OF_GRAPH: usize = 12 + MAX_TENSORS * (8 + TENSOR_BYTES);

/// What a client has on this worker.
pub(super) struct Conversation<'s, R, W> {
    server: &'s Server,
    activity: &'s Activity,
    channel: Channel<R, W>,
    buffers: Buffers,
    /// The last graph of each device.
    graphs: Vec<Option<Graph>>,
}

impl<'s, R: Read, W: Write> Conversation<'s, R, W> {
    /// Greets. With a token, nothing is read of the protocol before the client has proved that it has it.
    pub(super) fn open(server: &'s Server, activity: &'s Activity, input: R, output: W) -> Result<Self, Parting> {
        let mut channel = Channel::new(input, output);
        if let Some(token) = &server.token {
            let (input, output) = channel.parts();
            if !token.challenge(input, output)? {
                return Err(wrong("it does not have the token"));
            }
        }
        let [command] = channel.exactly()?;
        if command != Command::Hello as u8 {
            return Err(wrong(format!("expected a greeting, found command {command}")));
        }
        let len = u64::from_le_bytes(channel.exactly()?);
        channel.fixed::<CAPABILITIES>(len)?;
        let mut hello = [0; 4 + CAPABILITIES];
        hello[..3].copy_from_slice(&[MAJOR_VERSION, MINOR_VERSION, PATCH_VERSION]);
        channel.answer(&hello)?;
        let graphs = server.stations.iter().map(|_| None).collect();
        Ok(Conversation { server, activity, channel, buffers: Buffers::new(server.budget.clone()), graphs })
    }

    /// Serves until the client leaves.
    pub(super) fn serve(&mut self) -> Result<(), Parting> {
        while let Some((command, len)) = self.channel.command()? {
            self.activity.touch();
            self.request(command, len).map_err(|why| why.of(|| format!("command {command}")))?;
        }
        Ok(())
    }

    fn request(&mut self, command: u8, len: u64) -> Result<(), Parting> {
        let command = Command::from_number(command).ok_or_else(|| wrong("there is no such command"))?;
        match command {
            Command::DeviceCount => {
                self.channel.fixed::<0>(len)?;
                let n = self.server.stations.len() as u32;
                self.channel.answer(&n.to_le_bytes())
            }
            Command::GetAlignment => {
                let (_, station) = self.station(len)?;
                self.numbers(&[graph::alignment(&station.device) as u64])
            }
            Command::GetMaxSize => {
                let (_, station) = self.station(len)?;
                // SAFETY: asks a static object.
                let most = unsafe { sys::ggml_backend_buft_get_max_size(station.device.buffer_type()) };
                self.numbers(&[most as u64])
            }
            Command::GetDeviceMemory => {
                let (_, station) = self.station(len)?;
                let memory = self.server.memory(station);
                self.numbers(&memory)
            }
            Command::AllocBuffer => self.allocate(len),
            Command::BufferGetBase => {
                let handle = u64::from_le_bytes(self.channel.fixed(len)?);
                let base = self.buffers.base(handle)?;
                self.numbers(&[base])
            }
            Command::FreeBuffer => {
                let handle = u64::from_le_bytes(self.channel.fixed(len)?);
                self.graphs.fill_with(|| None); // they may read the buffer
                self.buffers.free(handle)?;
                self.count_held();
                Ok(())
            }
            Command::BufferClear => {
                let body = self.channel.fixed::<9>(len)?;
                let mut fields = Fields::new(&body);
                self.buffers.clear(fields.u64()?, fields.u8()?)
            }
            Command::MemsetTensor => self.memset(len),
            Command::SetTensor => self.set(len),
            Command::SetTensorHash => {
                self.channel.fixed::<{ TENSOR_BYTES + 16 }>(len)?;
                self.channel.answer(&[0]) // nothing is kept here by its hash: the client sends it
            }
            Command::GetTensor => self.get(len),
            Command::CopyTensor => self.copy(len),
            Command::InitTensor => self.init(len),
            Command::GetAllocSize => self.alloc_size(len),
            Command::GraphCompute => self.compute(len),
            Command::GraphRecompute => {
                let (index, _) = self.station(len)?;
                self.run(index)
            }
            Command::Hello => Err(wrong("a second greeting")),
        }
    }

    /// The device that a request of four bytes names.
    fn station(&mut self, len: u64) -> Result<(u32, &'s Station), Parting> {
        let index = u32::from_le_bytes(self.channel.fixed(len)?);
        Ok((index, self.server.station(index)?))
    }

    fn numbers(&mut self, numbers: &[u64]) -> Result<(), Parting> {
        let body: Vec<u8> = numbers.iter().flat_map(|n| n.to_le_bytes()).collect();
        self.channel.answer(&body)
    }

    fn count_held(&self) {
        self.activity.held.store(self.buffers.held_bytes(), Ordering::Relaxed);
    }

    fn allocate(&mut self, len: u64) -> Result<(), Parting> {
        let body = self.channel.fixed::<12>(len)?;
        let mut fields = Fields::new(&body);
        let (index, bytes) = (fields.u32()?, fields.u64()?);
        let handle = self.buffers.allocate(index, &self.server.station(index)?.device, bytes);
        self.count_held();
        self.numbers(&handle.map_or([0, 0], |handle| [handle, bytes]))
    }

    /// Where bytes of a tensor lie.
    fn part(&self, tensor: &Described, offset: u64, bytes: u64) -> Result<Place, Parting> {
        let whole = self.buffers.locate(tensor, &Shape::of(tensor)?)?;
        match offset.checked_add(bytes) {
            Some(end) if end <= whole.bytes as u64 => {
                Ok(Place { offset: whole.offset + offset as usize, bytes: bytes as usize, ..whole })
            }
            _ => Err(wrong(format!("{bytes} bytes at {offset} of a tensor of {}", whole.bytes))),
        }
    }

    fn memset(&mut self, len: u64) -> Result<(), Parting> {
        let body = self.channel.fixed::<{ TENSOR_BYTES + 17 }>(len)?;
        let mut fields = Fields::new(&body);
        let tensor = fields.tensor()?;
        let place = self.part(&tensor, fields.u64()?, fields.u64()?)?;
        self.buffers.fill(place, fields.u8()?)
    }

    fn set(&mut self, len: u64) -> Result<(), Parting> {
        const HEADER: usize = TENSOR_BYTES + 9;
        let bytes = len.checked_sub(HEADER as u64).ok_or_else(|| wrong(format!("a message of {len} bytes")))?;
        let most = self.activity.held.load(Ordering::Relaxed);
        if bytes > most as u64 {
            return Err(wrong(format!("expected up to {most} bytes for the buffers that there are, found {bytes}")));
        }
        let header = self.channel.exactly::<HEADER>()?;
        let mut fields = Fields::new(&header);
        let tensor = fields.tensor()?;
        let _keep = fields.u8()?;
        let place = self.part(&tensor, fields.u64()?, bytes)?;
        let (buffers, mut offset) = (&mut self.buffers, place.offset);
        self.channel.pieces(place.bytes, |piece| {
            buffers.write(Place { offset, bytes: piece.len(), ..place }, piece)?;
            offset += piece.len();
            Ok(())
        })
    }

    fn get(&mut self, len: u64) -> Result<(), Parting> {
        let body = self.channel.fixed::<{ TENSOR_BYTES + 16 }>(len)?;
        let mut fields = Fields::new(&body);
        let tensor = fields.tensor()?;
        let place = self.part(&tensor, fields.u64()?, fields.u64()?)?;
        let buffers = &self.buffers;
        self.channel.answer_pieces(place.bytes, |start, piece| {
            buffers.read(Place { offset: place.offset + start, bytes: piece.len(), ..place }, piece)
        })
    }

    fn copy(&mut self, len: u64) -> Result<(), Parting> {
        let body = self.channel.fixed::<{ 2 * TENSOR_BYTES }>(len)?;
        let mut fields = Fields::new(&body);
        let (from, to) = (fields.tensor()?, fields.tensor()?);
        let shapes = (Shape::of(&from)?, Shape::of(&to)?);
        let (from, to) = (self.buffers.locate(&from, &shapes.0)?, self.buffers.locate(&to, &shapes.1)?);
        if shapes.0 != shapes.1 {
            return Err(wrong("a copy between tensors of different shapes"));
        }
        self.buffers.copy(from, to)?;
        self.channel.answer(&[1])
    }

    /// Lets a device set up a tensor: some keep bytes behind it that must be zero.
    fn init(&mut self, len: u64) -> Result<(), Parting> {
        let body = self.channel.fixed::<TENSOR_BYTES>(len)?;
        let tensor = Fields::new(&body).tensor()?;
        let shape = Shape::of(&tensor)?;
        let place = self.buffers.locate(&tensor, &shape)?;
        if self.server.station(place.device)?.device.is_cpu() || shape.is_empty() || !shape.is_dense() {
            return Ok(());
        }
        let (buffer, address) = self.buffers.raw(place)?;
        let ctx = Context::new(1);
        let made = ctx.tensor(shape.dtype, &shape.ne).as_ptr();
        // SAFETY: tensor and buffer are alive; the buffer has the bytes of the tensor, and some behind that a device may pad.
        unsafe {
            (*made).buffer = buffer;
            (*made).data = address.cast();
            sys::ggml_backend_buffer_init_tensor(buffer, made);
        }
        Ok(())
    }

    fn alloc_size(&mut self, len: u64) -> Result<(), Parting> {
        let body = self.channel.fixed::<{ 4 + (1 + MAX_SRC) * TENSOR_BYTES }>(len)?;
        let mut fields = Fields::new(&body);
        let station = self.server.station(fields.u32()?)?;
        let tensor = fields.tensor()?;
        let sources = (0..MAX_SRC).map(|_| fields.tensor()).collect::<Result<Vec<_>, _>>()?;
        self.numbers(&[graph::alloc_size(&station.device, &tensor, &sources)?])
    }

    fn compute(&mut self, len: u64) -> Result<(), Parting> {
        // Twice: as it comes, and taken apart.
        let taken = usize::try_from(len).unwrap_or(usize::MAX).min(MOST_OF_GRAPH).saturating_mul(2);
        let charge = self.server.budget.take(taken).ok_or_else(|| wrong("a graph for which there is no memory"))?;
        let body = self.channel.body(len, MOST_OF_GRAPH)?;
        let message = graph::parse(&body)?;
        drop(body);
        let index = message.device;
        let station = self.server.station(index)?;
        self.graphs[index as usize] = None; // its memory is free for the next
        let graph = Graph::new(message, &station.device, &self.buffers, &self.server.budget)?;
        drop(charge);
        self.graphs[index as usize] = Some(graph);
        self.run(index)
    }

    fn run(&mut self, index: u32) -> Result<(), Parting> {
        let station = self.server.station(index)?;
        let graph = self.graphs[index as usize].as_ref().ok_or_else(|| wrong("there is no graph to compute again"))?;
        graph.run(&station.device, &station.turns, &self.buffers)
    }
}
