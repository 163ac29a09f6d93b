//! Owns the way of the numbers: pieces of some megabytes are read and converted on all cores while the pieces before
//! them are written, in order. Refuses to hold more than a few pieces at a time.

use std::io::Write;
use std::ops::Range;
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::thread;

use super::Error;
use super::element::{are_finite, are_finite_encoded, convert, encode, holds, largest, number};
use super::shard::Source;
use super::target::{Data, Output, Picked, Rows, Stride};
use crate::dtype::DType;
use crate::gguf::{self, Writer};

/// Bytes of a checkpoint that are read at a time, in whole rows.
const PIECE_BYTES: usize = 1 << 20;

/// Finished pieces of a thread that wait for their turn to be written.
const WAITING: usize = 4;

/// A finished piece, or why there is none.
type Made = Result<Vec<u8>, Error>;

/// Writes the tensors as `writer` declares them. `progress` is told of the bytes written so far and may say stop.
pub(super) fn write(
    path: &Path,
    writer: &Writer,
    outputs: &[Output],
    progress: &mut dyn FnMut(u64) -> bool,
) -> Result<(), Error> {
    let pieces: Vec<_> = outputs.iter().flat_map(|output| pieces(output).map(move |rows| (output, rows))).collect();
    let n_threads = thread::available_parallelism().map_or(1, |n| n.get());
    // Threads of its own: whoever calls this may be one of a pool's, and then the pool could not do the work it waits for.
    thread::scope(|scope| {
        let start = |first: usize| {
            let ((full, filled), (empty, emptied)) = (sync_channel(WAITING), channel());
            let pieces = &pieces;
            scope.spawn(move || produce(pieces.iter().skip(first).step_by(n_threads), &full, &emptied));
            Worker { filled, empty }
        };
        // The workers' ends go when writing ends, early or not, and with them the other sides.
        write_in_order(path, writer, (0..n_threads).map(start).collect(), progress)
    })
}

/// The writer's end of a thread: finished pieces come, and their memory goes back.
struct Worker {
    filled: Receiver<Made>,
    empty: Sender<Vec<u8>>,
}

/// One thread's share: every n-th piece.
fn produce<'a>(
    pieces: impl Iterator<Item = &'a (&'a Output, Range<usize>)>,
    full: &SyncSender<Made>,
    emptied: &Receiver<Vec<u8>>,
) {
    let mut raw = Vec::new();
    for (output, rows) in pieces {
        let mut out = emptied.try_recv().unwrap_or_default();
        let made = piece(output, rows, &mut raw, &mut out).map(|()| out);
        if full.send(made).is_err() {
            return;
        }
    }
}

fn write_in_order(
    path: &Path,
    writer: &Writer,
    workers: Vec<Worker>,
    progress: &mut dyn FnMut(u64) -> bool,
) -> Result<(), Error> {
    let mut turns = workers.iter().cycle();
    let mut written = 0;
    writer.write_streamed(path, |tensor, out: &mut dyn Write| {
        let mut left = tensor.bytes;
        while left > 0 {
            let worker = turns.next().expect("at least one thread");
            let bytes = worker.filled.recv().expect("a piece for each part of each tensor")?;
            let io = |source| gguf::Error::Io { path: path.to_owned(), action: "write", source };
            out.write_all(&bytes).map_err(io)?;
            left -= bytes.len();
            written += bytes.len() as u64;
            // A thread that is done needs no memory back.
            let _ = worker.empty.send(bytes);
            if !progress(written) {
                return Err(Error::Interrupted);
            }
        }
        Ok(())
    })
}

/// The rows that are converted at a time.
fn pieces(output: &Output) -> impl Iterator<Item = Range<usize>> + use<> {
    // A piece lies within one source.
    let (n_sources, n, row_bytes, unit) = match &output.data {
        Data::Made(values) => (1, values.len(), 4, 1),
        Data::Stored { sources, rows, .. } => {
            let (n, row) = rows_of(&sources[0], *rows);
            (sources.len(), n, row * sources[0].element.bytes(), interleaved(*rows).unwrap_or(1))
        }
        Data::Grouped { values, .. } => (1, values.rows(), values.row(), 1),
    };
    let step = (PIECE_BYTES / row_bytes.max(1)).max(1).next_multiple_of(unit);
    let of_source = move |i: usize| (0..n).step_by(step).map(move |at| i * n + at..i * n + n.min(at + step));
    (0..n_sources).flat_map(of_source)
}

/// Rows of a head whose halves are interleaved, if they are.
fn interleaved(rows: Rows) -> Option<usize> {
    match rows {
        Rows::Interleaved { head_dim } => Some(head_dim),
        Rows::Picked(picked) => picked.interleaved,
        Rows::All | Rows::Skip(_) | Rows::Columns(_) | Rows::Elements(_) => None,
    }
}

/// Rows of the output and elements of each. The rows of a vector whose order changes are its elements.
fn rows_of(source: &Source, rows: Rows) -> (usize, usize) {
    match (rows, source.shape.as_slice()) {
        (Rows::Interleaved { .. }, [n]) => (*n, 1),
        (Rows::Picked(picked), [n]) => (picked.n_rows(*n), 1),
        (Rows::Picked(picked), _) => (picked.n_rows(source.rows()), source.row()),
        (Rows::Columns(stride), [more @ .., rows, columns]) => {
            (more.iter().product::<usize>() * (columns / stride.step), *rows)
        }
        (Rows::Elements(stride), shape) => (shape.iter().product::<usize>() / stride.step, 1),
        _ => (source.rows(), source.row()),
    }
}

/// Some rows in the output's type. Both buffers are used again and again: fresh memory costs more than the work does.
fn piece(output: &Output, range: &Range<usize>, raw: &mut Vec<u8>, out: &mut Vec<u8>) -> Result<(), Error> {
    let (source, range, rows, offset) = match &output.data {
        Data::Stored { sources, rows, offset } => {
            let (source, range) = source_of(sources, *rows, range);
            (source, range, *rows, *offset)
        }
        Data::Grouped { values, scales } => {
            let numbers = ungrouped(values, scales, range)?;
            out.clear();
            encode(&numbers, output.dtype, out);
            return check_made(output, values, range.start * values.row(), &numbers, out);
        }
        Data::Made(values) => {
            out.clear();
            encode(&values[range.clone()], output.dtype, out);
            return Ok(());
        }
    };
    let (_, row) = rows_of(source, rows);
    let row_bytes = row * source.element.bytes();
    // What is stored in the wanted type needs no second buffer.
    let is_copy = source.element.same() == Some(output.dtype)
        && matches!(rows, Rows::All | Rows::Skip(_) | Rows::Picked(Picked { interleaved: None, .. }))
        && offset == 0.0;
    let read = Reading { source, rows, row, range: &range };
    if is_copy {
        read.bytes(out)?;
        return read.check(output, out);
    }
    read.bytes(raw)?;
    read.check(output, raw)?;
    if let Some(head_dim) = interleaved(rows) {
        interleave(raw, row_bytes, head_dim, out);
        std::mem::swap(raw, out);
    }
    out.clear();
    if offset == 0.0 {
        convert(raw, source.element, output.dtype, out);
    } else {
        // In single precision, as transformers adds it, whatever the checkpoint's type.
        let numbers = raw.chunks_exact(source.element.bytes()).map(|raw| number(raw, source.element) as f32 + offset);
        encode(&numbers.collect::<Vec<f32>>(), output.dtype, out);
    }
    match are_finite_encoded(out, output.dtype) {
        true => Ok(()),
        false => Err(read.overflow(output)?),
    }
}

/// The source that rows of the output come from, and their places among its own.
fn source_of<'s>(sources: &'s [Source], rows: Rows, range: &Range<usize>) -> (&'s Source, Range<usize>) {
    let (n, _) = rows_of(&sources[0], rows);
    let i = range.start.checked_div(n).unwrap_or(0);
    (&sources[i], range.start - i * n..range.end - i * n)
}

/// Some rows of a source on their way.
struct Reading<'a> {
    source: &'a Source,
    rows: Rows,
    /// Elements of a row of the output.
    row: usize,
    range: &'a Range<usize>,
}

impl Reading<'_> {
    /// The rows as they are stored, in the order of the output but for halves of heads.
    fn bytes(&self, raw: &mut Vec<u8>) -> Result<(), Error> {
        let row_bytes = self.row * self.source.element.bytes();
        match self.rows {
            Rows::Picked(picked) => {
                raw.resize(self.range.len() * row_bytes, 0);
                let n = self.source.rows() * self.source.row() / self.row;
                let mut at = self.range.start;
                while at < self.range.end {
                    let (from, n_beside) = picked.source_row(n, at);
                    let end = self.range.end.min(at + n_beside);
                    let place = (at - self.range.start) * row_bytes..(end - self.range.start) * row_bytes;
                    self.source.shard.read(self.source.offset + (from * row_bytes) as u64, &mut raw[place])?;
                    at = end;
                }
                Ok(())
            }
            Rows::Columns(stride) => self.columns(stride, raw),
            Rows::Elements(Stride { first, step }) => {
                let mut span = Vec::new();
                let range = self.range.start * step..(self.range.end - 1) * step + 1;
                let of = Source { offset: self.source.offset + (first * row_bytes) as u64, ..self.source.clone() };
                read_rows(&of, row_bytes, &range, &mut span)?;
                raw.clear();
                span.chunks(step * row_bytes).for_each(|part| raw.extend_from_slice(&part[..row_bytes]));
                Ok(())
            }
            _ => read_rows(self.source, row_bytes, self.range, raw),
        }
    }

    /// Columns of each matrix of the source as rows.
    fn columns(&self, stride: Stride, raw: &mut Vec<u8>) -> Result<(), Error> {
        let (size, n_columns) = (self.source.element.bytes(), self.source.row());
        let n_of_matrix = n_columns / stride.step;
        raw.resize(self.range.len() * self.row * size, 0);
        let mut part = Vec::new();
        let mut at = self.range.start;
        while at < self.range.end {
            let (matrix, column) = (at / n_of_matrix, at % n_of_matrix);
            let n = (self.range.end - at).min(n_of_matrix - column);
            part.resize(((n - 1) * stride.step + 1) * size, 0);
            for i in 0..self.row {
                let from = (matrix * self.row + i) * n_columns + stride.first + column * stride.step;
                self.source.shard.read(self.source.offset + (from * size) as u64, &mut part)?;
                for (j, element) in part.chunks(stride.step * size).enumerate() {
                    let place = (at - self.range.start + j) * self.row + i;
                    raw[place * size..][..size].copy_from_slice(&element[..size]);
                }
            }
            at += n;
        }
        Ok(())
    }

    /// Refuses NaN and infinity among elements as they are stored: rounding to integers, as Q8_0 does, would hide them.
    fn check(&self, output: &Output, raw: &[u8]) -> Result<(), Error> {
        match are_finite(raw, self.source.element) {
            true => Ok(()),
            false => Err(self.refusal(output, raw)),
        }
    }

    /// Why numbers became infinite on the way; they are read once more, for their order may have changed.
    fn overflow(&self, output: &Output) -> Result<Error, Error> {
        let mut raw = Vec::new();
        self.bytes(&mut raw)?;
        Ok(self.refusal(output, &raw))
    }

    /// The error for the first number that the output cannot hold.
    fn refusal(&self, output: &Output, raw: &[u8]) -> Error {
        let element = self.source.element;
        let mut numbers = raw.chunks_exact(element.bytes()).map(|raw| number(raw, element)).enumerate();
        let found = numbers.find(|&(_, number)| !holds(output.dtype, number));
        let (i, number) = found.unwrap_or((0, f64::NAN));
        refused(output, self.source, self.index(i), number)
    }

    /// The place in the source of an element that was read.
    fn index(&self, i: usize) -> usize {
        let (row, column) = (self.range.start + i / self.row, i % self.row);
        match self.rows {
            Rows::Picked(picked) => {
                picked.source_row(self.source.rows() * self.source.row() / self.row, row).0 * self.row + column
            }
            Rows::Columns(Stride { first, step }) => {
                let n_columns = self.source.row();
                let (matrix, at) = (row / (n_columns / step), row % (n_columns / step));
                (matrix * self.row + column) * n_columns + first + at * step
            }
            Rows::Elements(Stride { first, step }) => row * step + first,
            _ => row * self.row + column,
        }
    }
}

/// The same for numbers that were made of two parts.
fn check_made(output: &Output, source: &Source, start: usize, numbers: &[f32], out: &[u8]) -> Result<(), Error> {
    if numbers.iter().all(|number| number.is_finite()) && are_finite_encoded(out, output.dtype) {
        return Ok(());
    }
    let found = numbers.iter().position(|&number| !holds(output.dtype, f64::from(number))).unwrap_or(0);
    Err(refused(output, source, start + found, f64::from(numbers[found])))
}

/// Says the tensor, the place as NumPy would index it, and the number.
fn refused(output: &Output, source: &Source, i: usize, number: f64) -> Error {
    let skipped = if let Data::Stored { rows: Rows::Skip(n), .. } = output.data { n } else { 0 };
    let place = match source.shape.len() {
        0 | 1 => format!("[{i}]"),
        _ => format!("[{}, {}]", i / source.row() + skipped, i % source.row()),
    };
    let field = format_args!("tensor `{}`", output.from);
    let path = source.shard.path();
    if !number.is_finite() {
        let found = if number.is_nan() { "NaN" } else { ["-infinity", "infinity"][usize::from(number > 0.0)] };
        return Error::invalid(path, field, "finite numbers", format_args!("{found} at {place}"));
    }
    let (dtype, number) = (output.dtype, shown(number));
    let expected = format_args!("numbers up to {}, the largest of {dtype}", shown(largest(dtype)));
    let error = Error::invalid(path, field, expected, format_args!("{number} at {place}"));
    match dtype {
        DType::F32 => error,
        DType::BF16 => error.with_hint("f32 may hold it: --outtype f32"),
        _ => error.with_hint("bf16 and f32 hold larger numbers: --outtype bf16"),
    }
}

/// Large numbers with an exponent.
fn shown(number: f64) -> String {
    if number.abs() < 1e9 { number.to_string() } else { format!("{number:e}") }
}

fn read_rows(source: &Source, row_bytes: usize, range: &Range<usize>, raw: &mut Vec<u8>) -> Result<(), Error> {
    raw.resize(range.len() * row_bytes, 0);
    source.shard.read(source.offset + (range.start * row_bytes) as u64, raw)
}

/// Of each head first row, first row of the second half, second row, and so on.
fn interleave(raw: &[u8], row_bytes: usize, head_dim: usize, out: &mut Vec<u8>) {
    out.clear();
    for head in raw.chunks_exact(head_dim * row_bytes) {
        let (first, second) = head.split_at(head.len() / 2);
        for (a, b) in first.chunks_exact(row_bytes).zip(second.chunks_exact(row_bytes)) {
            out.extend_from_slice(a);
            out.extend_from_slice(b);
        }
    }
}

/// The numbers of rows whose groups have a scale each.
fn ungrouped(values: &Source, scales: &Source, range: &Range<usize>) -> Result<Vec<f32>, Error> {
    let mut raw = Vec::new();
    read_rows(values, values.row(), range, &mut raw)?;
    let group = values.rows() * values.row() / scales.rows();
    let (start, end) = (range.start * values.row(), range.end * values.row());
    let groups = start / group..end.div_ceil(group);
    let mut bits = Vec::new();
    read_rows(scales, 4, &groups, &mut bits)?;
    let scales: Vec<f32> = bits.as_chunks().0.iter().map(|&b| f32::from_le_bytes(b)).collect();
    let scale_of = |i: usize| scales[(start + i) / group - groups.start];
    Ok(raw.iter().enumerate().map(|(i, &b)| f32::from(b as i8) * scale_of(i)).collect())
}
