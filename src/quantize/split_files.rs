//! Owns how the tensors of a plan are laid out in files.

use std::ops::Range;

use super::{Error, Plan};
use crate::gguf::{Metadata, Writer};

/// How many files the result becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Split {
    /// One file.
    Whole,
    /// As many as the input has, each with the tensors of its counterpart.
    AsInput,
    /// Files with at most so many bytes of tensor data each, and at least one tensor.
    MaxBytes(u64),
    /// Files with at most so many tensors each.
    MaxTensors(usize),
}

impl Plan {
    /// The files to be written: the first holds the metadata, and all of them the tensors, in the plan's order.
    pub fn parts(&self, split: Split) -> Result<Vec<Writer>, Error> {
        let groups = self.groups(split);
        let n_parts = groups.len();
        let mut parts = Vec::new();
        for (no, group) in groups.into_iter().enumerate() {
            let mut metadata = if no == 0 { self.metadata.clone() } else { Metadata::new() };
            if n_parts > 1 {
                metadata.insert("split.no", no as u16);
                metadata.insert("split.count", n_parts as u16);
                metadata.insert("split.tensors.count", self.tensors.len() as i32);
            }
            let mut part = Writer::new(metadata);
            for t in &self.tensors[group] {
                part.tensor(&t.tensor.name, t.tensor.ggml_dims(), t.to)?;
            }
            parts.push(part);
        }
        Ok(parts)
    }

    fn groups(&self, split: Split) -> Vec<Range<usize>> {
        let n = self.tensors.len();
        match split {
            Split::Whole => std::iter::once(0..n).collect(),
            Split::MaxTensors(most) => {
                (0..n.max(1)).step_by(most.max(1)).map(|at| at..n.min(at.saturating_add(most))).collect()
            }
            Split::AsInput => self.groups_of_input(),
            Split::MaxBytes(most) => self.groups_of_size(most),
        }
    }

    fn groups_of_input(&self) -> Vec<Range<usize>> {
        let part_of = |i: usize| self.tensors[i].tensor.place().0;
        let n_parts = (0..self.tensors.len()).map(part_of).max().map_or(1, |last| last + 1);
        let start = |part: usize| self.tensors.partition_point(|t| t.tensor.place().0 < part);
        (0..n_parts).map(|part| start(part)..start(part + 1)).collect()
    }

    fn groups_of_size(&self, most: u64) -> Vec<Range<usize>> {
        const ALIGNMENT: usize = 32;
        let mut groups = Vec::new();
        let (mut start, mut bytes) = (0, 0u64);
        for (i, t) in self.tensors.iter().enumerate() {
            let more = t.bytes().next_multiple_of(ALIGNMENT) as u64;
            if i > start && bytes + more > most {
                groups.push(start..i);
                (start, bytes) = (i, 0);
            }
            bytes += more;
        }
        groups.push(start..self.tensors.len());
        groups
    }
}
