//! Owns writing a file, or the parts of a split one: header, then each tensor's data as it is made. Refuses to leave an
//! incomplete file, and anything that the reader would refuse.

use std::borrow::Cow;
use std::collections::HashSet;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use super::header::{alignment, check_key, check_name, duplicate};
use super::{Array, Error, MAGIC, Metadata, TensorInfo, VERSION, Value};
use crate::dtype::DType;
use crate::files::{Closed, Output};

/// A file to be written: metadata and declared tensors. The data comes when it is written.
///
/// ```
/// use curtail::dtype::DType;
/// use curtail::gguf::{Error, File, Metadata, Writer};
///
/// # fn main() -> Result<(), Error> {
/// # let dir = tempfile::tempdir().unwrap();
/// let path = dir.path().join("tiny.gguf");
/// let mut metadata = Metadata::new();
/// metadata.insert("general.architecture", "llama");
/// let mut writer = Writer::new(metadata);
/// writer.tensor("output_norm.weight", &[3], DType::F32)?;
/// writer.write::<Error>(&path, |_| Ok(vec![0; 12].into()))?;
/// assert_eq!(File::open(&path)?.data(&File::open(&path)?.tensors()[0]), [0; 12]);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, Default)]
pub struct Writer {
    metadata: Metadata,
    tensors: Vec<TensorInfo>,
    names: HashSet<String>,
}

impl Writer {
    /// A file with this metadata and no tensors yet. `general.alignment` is obeyed.
    pub fn new(metadata: Metadata) -> Writer {
        Writer { metadata, ..Writer::default() }
    }

    /// Declares the next tensor; `dims` are in ggml's order.
    pub fn tensor(&mut self, name: &str, dims: &[usize], dtype: DType) -> Result<(), Error> {
        check_name(Path::new(""), name)?;
        let info = TensorInfo::new(Path::new(""), name.to_owned(), dims, dtype)?;
        if !self.names.insert(info.name.clone()) {
            return Err(duplicate(Path::new(""), "tensor", name));
        }
        self.tensors.push(info);
        Ok(())
    }

    /// The tensors declared so far.
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    /// Writes the file: `data` is asked for each tensor's bytes, in the order of declaration, and nothing of an
    /// earlier tensor is kept. A file at `path` is replaced when the new one is complete, and stays untouched when
    /// anything fails; a device or a pipe is written into.
    pub fn write<'a, E: From<Error>>(
        &self,
        path: &Path,
        mut data: impl FnMut(&TensorInfo) -> Result<Cow<'a, [u8]>, E>,
    ) -> Result<(), E> {
        self.write_streamed(path, |tensor, out| {
            let bytes = data(tensor)?;
            check_length(path, tensor, bytes.len())?;
            Ok(out.write_all(&bytes).map_err(|e| Error::io(path, "write", e))?)
        })
    }

    /// As [`Writer::write`], for tensors too large to hold: `data` writes each tensor's bytes in pieces. More or fewer bytes
    /// than the tensor has are an error. When `out` fails, that failure is what is reported, whatever `data` makes of it.
    pub fn write_streamed<E: From<Error>>(
        &self,
        path: &Path,
        mut data: impl FnMut(&TensorInfo, &mut dyn Write) -> Result<(), E>,
    ) -> Result<(), E> {
        let closed = self.write_beside(path, &mut data)?;
        Ok(publish(closed, path)?)
    }

    /// Writes several files, the parts of a split one: none appears under its name before all are complete, and the first
    /// appears last. `data` is asked for the tensors of the first file, then of the second, and so on.
    pub fn write_parts<E: From<Error>>(
        parts: &[(PathBuf, Writer)],
        mut data: impl FnMut(&TensorInfo, &mut dyn Write) -> Result<(), E>,
    ) -> Result<(), E> {
        let written: Result<Vec<_>, E> = parts.iter().map(|(path, part)| part.write_beside(path, &mut data)).collect();
        for (closed, (path, _)) in written?.into_iter().zip(parts).rev() {
            publish(closed, path)?;
        }
        Ok(())
    }

    /// How many bytes the file will have.
    pub fn file_bytes(&self) -> Result<u64, Error> {
        let path = Path::new("");
        let alignment = alignment(path, &self.metadata)?;
        let header = self.header(path, alignment)?.len() as u64;
        Ok(self.tensors.iter().map(|t| (t.bytes + padding(t.bytes, alignment)) as u64).sum::<u64>() + header)
    }

    /// The complete file under a temporary name beside `path`; it goes when the name is dropped.
    fn write_beside<E: From<Error>>(
        &self,
        path: &Path,
        data: &mut impl FnMut(&TensorInfo, &mut dyn Write) -> Result<(), E>,
    ) -> Result<Closed, E> {
        let io = |e| Error::io(path, "write", e);
        let alignment = alignment(path, &self.metadata)?;
        let header = self.header(path, alignment)?;
        let output = Output::create(path).map_err(io)?;
        let mut out = BufWriter::with_capacity(1 << 18, Paced { output: &output, unsynced: 0 });
        out.write_all(&header).map_err(io)?;
        for tensor in &self.tensors {
            let mut counted = Counted { inner: &mut out, written: 0, failure: None };
            let result = data(tensor, &mut counted);
            if let Some(failure) = counted.failure {
                return Err(io(failure).into());
            }
            result?;
            check_length(path, tensor, counted.written)?;
            out.write_all(&vec![0; padding(tensor.bytes, alignment)]).map_err(io)?;
        }
        out.flush().map_err(io)?;
        drop(out);
        Ok(output.close().map_err(io)?)
    }

    /// Everything before the data section, padded.
    fn header(&self, path: &Path, alignment: usize) -> Result<Vec<u8>, Error> {
        let mut out = MAGIC.to_vec();
        out.extend(VERSION.to_le_bytes());
        put_len(&mut out, self.tensors.len());
        put_len(&mut out, self.metadata.len());
        for (key, value) in self.metadata.iter() {
            check_key(path, key)?;
            put_string(&mut out, key);
            put_value(&mut out, value);
        }
        let mut offset = 0usize;
        for tensor in &self.tensors {
            put_entry(&mut out, tensor, offset);
            offset = offset
                .checked_add(tensor.bytes)
                .and_then(|n| n.checked_next_multiple_of(alignment))
                .ok_or_else(|| Error::invalid(path, "tensor data", "a size that fits in memory", "a larger one"))?;
        }
        out.resize(out.len() + padding(out.len(), alignment), 0);
        Ok(out)
    }
}

/// Brings the data to the disk as it comes, so that little is left to wait for at the end, and while others still work.
struct Paced<'a> {
    output: &'a Output,
    unsynced: usize,
}

impl Write for Paced<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        const SYNCED_AT_ONCE: usize = 8 << 20;
        let n = self.output.file().write(bytes)?;
        self.unsynced += n;
        if self.unsynced >= SYNCED_AT_ONCE {
            self.output.sync()?;
            self.unsynced = 0;
        }
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.output.file().flush()
    }
}

/// Counts the bytes of a tensor and keeps the failure that ended them.
struct Counted<'a, W> {
    inner: &'a mut W,
    written: usize,
    failure: Option<io::Error>,
}

impl<W: Write> Write for Counted<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.inner.write(bytes) {
            Ok(n) => {
                self.written += n;
                Ok(n)
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => Err(e),
            Err(e) => {
                let kind = e.kind();
                self.failure = Some(e);
                Err(kind.into())
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

fn check_length(path: &Path, tensor: &TensorInfo, found: usize) -> Result<(), Error> {
    if found == tensor.bytes {
        return Ok(());
    }
    let field = format!("data of tensor `{}`", tensor.name);
    Err(Error::invalid(path, field, format_args!("{} bytes", tensor.bytes), found))
}

fn padding(len: usize, alignment: usize) -> usize {
    (alignment - len % alignment) % alignment
}

fn publish(closed: Closed, path: &Path) -> Result<(), Error> {
    closed.publish().map_err(|e| Error::io(path, "write", e))
}

fn put_entry(out: &mut Vec<u8>, tensor: &TensorInfo, offset: usize) {
    put_string(out, &tensor.name);
    out.extend((tensor.n_dims as u32).to_le_bytes());
    tensor.dims().iter().for_each(|&d| put_len(out, d));
    out.extend(tensor.dtype.id().to_le_bytes());
    put_len(out, offset);
}

fn put_len(out: &mut Vec<u8>, n: usize) {
    out.extend((n as u64).to_le_bytes());
}

fn put_string(out: &mut Vec<u8>, s: &str) {
    put_len(out, s.len());
    out.extend(s.as_bytes());
}

fn put_value(out: &mut Vec<u8>, value: &Value) {
    out.extend(value.value_type().id().to_le_bytes());
    match value {
        Value::U8(v) => out.extend(v.to_le_bytes()),
        Value::I8(v) => out.extend(v.to_le_bytes()),
        Value::U16(v) => out.extend(v.to_le_bytes()),
        Value::I16(v) => out.extend(v.to_le_bytes()),
        Value::U32(v) => out.extend(v.to_le_bytes()),
        Value::I32(v) => out.extend(v.to_le_bytes()),
        Value::F32(v) => out.extend(v.to_le_bytes()),
        Value::Bool(v) => out.push(u8::from(*v)),
        Value::String(v) => put_string(out, v),
        Value::Array(v) => put_array(out, v),
        Value::U64(v) => out.extend(v.to_le_bytes()),
        Value::I64(v) => out.extend(v.to_le_bytes()),
        Value::F64(v) => out.extend(v.to_le_bytes()),
    }
}

fn put_array(out: &mut Vec<u8>, array: &Array) {
    out.extend(array.element_type().id().to_le_bytes());
    put_len(out, array.len());
    match array {
        Array::U8(v) => out.extend(v),
        Array::I8(v) => out.extend(v.iter().flat_map(|x| x.to_le_bytes())),
        Array::U16(v) => out.extend(v.iter().flat_map(|x| x.to_le_bytes())),
        Array::I16(v) => out.extend(v.iter().flat_map(|x| x.to_le_bytes())),
        Array::U32(v) => out.extend(v.iter().flat_map(|x| x.to_le_bytes())),
        Array::I32(v) => out.extend(v.iter().flat_map(|x| x.to_le_bytes())),
        Array::F32(v) => out.extend(v.iter().flat_map(|x| x.to_le_bytes())),
        Array::Bool(v) => out.extend(v.iter().map(|&b| u8::from(b))),
        Array::String(v) => v.iter().for_each(|s| put_string(out, s)),
        Array::Array(v) => v.iter().for_each(|a| put_array(out, a)),
        Array::U64(v) => out.extend(v.iter().flat_map(|x| x.to_le_bytes())),
        Array::I64(v) => out.extend(v.iter().flat_map(|x| x.to_le_bytes())),
        Array::F64(v) => out.extend(v.iter().flat_map(|x| x.to_le_bytes())),
    }
}
