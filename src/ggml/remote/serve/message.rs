//! Owns how requests look: fields of fixed layouts, taken apart. Refuses nothing but a length that is not its layout's: what
//! the numbers mean is checked by who uses them.

use super::Parting;
use super::wrong;
use crate::ggml::remote::wire::TENSOR_BYTES;
use crate::ggml::sys;

/// Sources that a tensor may have.
pub(super) const MAX_SRC: usize = sys::GGML_MAX_SRC as usize;

/// Parameters of an operation, as i32.
pub(super) const PARAMS: usize = sys::GGML_MAX_OP_PARAMS as usize / 4;

/// Nodes and tensors of one graph, at most: a model of 100 layers with every row of a batch on its own has a third of them.
pub(super) const MAX_TENSORS: usize = 1 << 17;

/// A tensor as a client describes it. Every number may be anything.
#[derive(Clone, Debug)]
pub(super) struct Described {
    pub(super) id: u64,
    pub(super) dtype: u32,
    pub(super) buffer: u64,
    pub(super) ne: [u32; 4],
    pub(super) nb: [u32; 4],
    pub(super) op: u32,
    pub(super) params: [i32; PARAMS],
    pub(super) flags: i32,
    pub(super) src: [u64; MAX_SRC],
    pub(super) view_src: u64,
    pub(super) view_offs: u64,
    pub(super) data: u64,
}

/// A graph as a client describes it.
pub(super) struct DescribedGraph {
    pub(super) device: u32,
    /// Ids of tensors, in the order in which they are computed.
    pub(super) nodes: Vec<u64>,
    pub(super) tensors: Vec<Described>,
}

/// Takes fields from the front of a body.
pub(super) struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    pub(super) fn new(body: &'a [u8]) -> Fields<'a> {
        Fields(body)
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], Parting> {
        let (front, rest) = self.0.split_first_chunk::<N>().ok_or_else(|| wrong("the message ends in a field"))?;
        self.0 = rest;
        Ok(*front)
    }

    pub(super) fn u8(&mut self) -> Result<u8, Parting> {
        self.take::<1>().map(|[byte]| byte)
    }

    pub(super) fn u32(&mut self) -> Result<u32, Parting> {
        self.take().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, Parting> {
        self.take().map(u64::from_le_bytes)
    }

    fn array<T: Copy + Default, const N: usize>(
        &mut self,
        mut one: impl FnMut(&mut Self) -> Result<T, Parting>,
    ) -> Result<[T; N], Parting> {
        let mut all = [T::default(); N];
        for place in &mut all {
            *place = one(self)?;
        }
        Ok(all)
    }

    pub(super) fn tensor(&mut self) -> Result<Described, Parting> {
        let tensor = Described {
            id: self.u64()?,
            dtype: self.u32()?,
            buffer: self.u64()?,
            ne: self.array(Self::u32)?,
            nb: self.array(Self::u32)?,
            op: self.u32()?,
            params: self.array(|fields| fields.take().map(i32::from_le_bytes))?,
            flags: self.take().map(i32::from_le_bytes)?,
            src: self.array(Self::u64)?,
            view_src: self.u64()?,
            view_offs: self.u64()?,
            data: self.u64()?,
        };
        // Its name says nothing, and how often it is used is counted here.
        self.take::<{ sys::GGML_MAX_NAME as usize + 4 }>()?;
        Ok(tensor)
    }

    pub(super) fn graph(mut self) -> Result<DescribedGraph, Parting> {
        let device = self.u32()?;
        let n_nodes = self.u32()? as usize;
        if n_nodes > MAX_TENSORS || self.0.len() < 8 * n_nodes {
            return Err(wrong(format!("a graph of {n_nodes} nodes in a message of {} bytes", 8 + self.0.len())));
        }
        let nodes = (0..n_nodes).map(|_| self.u64()).collect::<Result<_, _>>()?;
        let n_tensors = self.u32()? as usize;
        if n_tensors > MAX_TENSORS || self.0.len() != TENSOR_BYTES * n_tensors {
            return Err(wrong(format!("{n_tensors} tensors in {} bytes", self.0.len())));
        }
        let tensors = (0..n_tensors).map(|_| self.tensor()).collect::<Result<_, _>>()?;
        Ok(DescribedGraph { device, nodes, tensors })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dtype::DType;
    use crate::ggml::Context;
    use crate::ggml::remote::wire::{Place, describe};

    #[test]
    fn a_description_is_taken_apart_as_it_was_put_together() {
        let ctx = Context::new(1);
        let tensor = ctx.tensor(DType::F16, &[6, 5]).named("abc", None);
        let bytes = describe(tensor.get(), Place { buffer: 7, data: 9 }, 3);
        let mut fields = Fields::new(&bytes);
        let found = fields.tensor().unwrap();
        assert!(fields.0.is_empty());
        assert_eq!((found.id, found.dtype, found.buffer, found.data), (tensor.as_ptr() as u64, 1, 7, 9));
        assert_eq!((found.ne, found.nb), ([6, 5, 1, 1], [2, 12, 60, 60]));
        assert_eq!((found.op, found.flags, found.src, found.view_src), (0, 0, [0; MAX_SRC], 0));
        assert!(Fields::new(&bytes[..295]).tensor().is_err());
    }
}
