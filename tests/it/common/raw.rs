//! Builds GGUF bytes by hand, field by field, right or wrong; shared by the tests of the format.

/// Bytes in the making, and where each field starts. Every method appends a field and returns the bytes.
#[derive(Clone, Default)]
pub(crate) struct Raw(pub(crate) Vec<u8>, pub(crate) Vec<usize>);

impl Raw {
    /// These bytes as one field.
    pub(crate) fn of(bytes: &[u8]) -> Raw {
        Raw::default().bytes(bytes)
    }

    /// Magic, version 3, counts.
    pub(crate) fn header(n_tensors: u64, n_pairs: u64) -> Raw {
        Raw::versioned(3, n_tensors, n_pairs)
    }

    /// Magic, version, counts.
    pub(crate) fn versioned(version: u32, n_tensors: u64, n_pairs: u64) -> Raw {
        Raw::of(b"GGUF").u32(version).u64(n_tensors).u64(n_pairs)
    }

    pub(crate) fn u32(self, v: u32) -> Raw {
        self.bytes(&v.to_le_bytes())
    }

    pub(crate) fn u16(self, v: u16) -> Raw {
        self.bytes(&v.to_le_bytes())
    }

    pub(crate) fn u64(self, v: u64) -> Raw {
        self.bytes(&v.to_le_bytes())
    }

    pub(crate) fn bytes(mut self, bytes: &[u8]) -> Raw {
        self.1.push(self.0.len());
        self.0.extend_from_slice(bytes);
        self
    }

    /// Length and text.
    pub(crate) fn str(self, text: &str) -> Raw {
        self.u64(text.len() as u64).bytes(text.as_bytes())
    }

    /// Key and value type; the value is up to the caller.
    pub(crate) fn key(self, key: &str, value_type: u32) -> Raw {
        self.str(key).u32(value_type)
    }

    /// Key and `u32` value.
    pub(crate) fn pair_u32(self, key: &str, value: u32) -> Raw {
        self.key(key, 4).u32(value)
    }

    /// One entry of the tensor directory.
    pub(crate) fn tensor(self, name: &str, dims: &[u64], dtype: u32, offset: u64) -> Raw {
        let head = self.str(name).u32(dims.len() as u32);
        dims.iter().fold(head, |raw, &d| raw.u64(d)).u32(dtype).u64(offset)
    }

    /// Zeros up to the next multiple of `alignment`, then `n` bytes of data.
    pub(crate) fn data(mut self, alignment: usize, n: usize) -> Raw {
        self.0.resize(self.0.len().next_multiple_of(alignment), 0);
        self.bytes(&(0..n).map(|i| i as u8).collect::<Vec<_>>())
    }
}
