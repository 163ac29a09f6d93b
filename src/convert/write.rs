//! Owns the way of the numbers: pieces of some megabytes are read and converted on all cores while the pieces before
//! them are written, in order. Refuses to hold more than a few pieces at a time.

use std::io::Write;
use std::ops::Range;
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use rayon::prelude::*;

use super::Error;
use super::checkpoint::Source;
use super::element::{convert, encode};
use super::target::{Data, Output, Rows};
use crate::gguf::{self, Writer};

/// Bytes of a checkpoint that are read at a time, in whole rows.
const PIECE_BYTES: usize = 4 << 20;

/// Pieces that wait for their turn to be written.
const WAITING: usize = 4;

/// Writes the tensors as `writer` declares them. `progress` is told of the bytes written so far and may say stop.
pub(super) fn write(
    path: &Path,
    writer: &Writer,
    outputs: &[Output],
    progress: &mut dyn FnMut(u64) -> bool,
) -> Result<(), Error> {
    let pieces: Vec<_> =
        outputs.iter().flat_map(|output| pieces(output).into_iter().map(move |rows| (output, rows))).collect();
    thread::scope(|scope| {
        let (sender, receiver) = sync_channel(WAITING);
        scope.spawn(|| produce(&pieces, sender));
        // The receiver goes when writing ends, early or not, and with it the other side.
        write_in_order(path, writer, receiver, progress)
    })
}

fn produce(pieces: &[(&Output, Range<usize>)], sender: SyncSender<Result<Vec<u8>, Error>>) {
    for batch in pieces.chunks(2 * rayon::current_num_threads()) {
        let made: Vec<_> = batch.par_iter().map(|(output, rows)| piece(output, rows.clone())).collect();
        for bytes in made {
            if sender.send(bytes).is_err() {
                return;
            }
        }
    }
}

fn write_in_order(
    path: &Path,
    writer: &Writer,
    receiver: Receiver<Result<Vec<u8>, Error>>,
    progress: &mut dyn FnMut(u64) -> bool,
) -> Result<(), Error> {
    let mut written = 0;
    writer.write_streamed(path, |tensor, out: &mut dyn Write| {
        let mut left = tensor.bytes;
        while left > 0 {
            let bytes = receiver.recv().expect("a piece for each part of each tensor")?;
            let io = |source| gguf::Error::Io { path: path.to_owned(), action: "write", source };
            out.write_all(&bytes).map_err(io)?;
            left -= bytes.len();
            written += bytes.len() as u64;
            if !progress(written) {
                return Err(Error::Interrupted);
            }
        }
        Ok(())
    })
}

/// The rows that are converted at a time.
fn pieces(output: &Output) -> Vec<Range<usize>> {
    let (n, row, unit) = match &output.data {
        Data::Made(values) => return vec![0..values.len()],
        Data::Stored { source, rows } => {
            let (n, row) = rows_of(source, *rows);
            let unit = if let Rows::Interleaved { head_dim } = rows { *head_dim } else { 1 };
            (n, row * source.element.bytes(), unit)
        }
        Data::Grouped { values, .. } => (values.rows(), values.row(), 1),
    };
    let step = (PIECE_BYTES / row.max(1)).max(1).next_multiple_of(unit);
    (0..n).step_by(step).map(|start| start..n.min(start + step)).collect()
}

/// Rows and elements of each. The rows of an interleaved vector are its elements.
fn rows_of(source: &Source, rows: Rows) -> (usize, usize) {
    match (rows, source.shape.as_slice()) {
        (Rows::Interleaved { .. }, [n]) => (*n, 1),
        _ => (source.rows(), source.row()),
    }
}

/// Some rows in the output's type.
fn piece(output: &Output, range: Range<usize>) -> Result<Vec<u8>, Error> {
    let mut out = Vec::new();
    match &output.data {
        Data::Made(values) => encode(&values[range], output.dtype, &mut out),
        Data::Stored { source, rows } => {
            let (_, row) = rows_of(source, *rows);
            let row_bytes = row * source.element.bytes();
            let mut raw = read_rows(source, row_bytes, &range)?;
            if let Rows::Interleaved { head_dim } = rows {
                raw = interleaved(&raw, row_bytes, *head_dim);
            }
            if source.element.same() == Some(output.dtype) {
                return Ok(raw);
            }
            out.reserve_exact(
                raw.len() / source.element.bytes() / output.dtype.block_len() * output.dtype.block_bytes(),
            );
            convert(&raw, source.element, output.dtype, &mut out);
        }
        Data::Grouped { values, scales } => {
            let numbers = ungrouped(values, scales, &range)?;
            encode(&numbers, output.dtype, &mut out);
        }
    }
    Ok(out)
}

fn read_rows(source: &Source, row_bytes: usize, range: &Range<usize>) -> Result<Vec<u8>, Error> {
    let mut raw = vec![0; range.len() * row_bytes];
    source.shard.read(source.offset + (range.start * row_bytes) as u64, &mut raw)?;
    Ok(raw)
}

/// Of each head first row, first row of the second half, second row, and so on.
fn interleaved(raw: &[u8], row_bytes: usize, head_dim: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(raw.len());
    for head in raw.chunks_exact(head_dim * row_bytes) {
        let (first, second) = head.split_at(head.len() / 2);
        for (a, b) in first.chunks_exact(row_bytes).zip(second.chunks_exact(row_bytes)) {
            out.extend_from_slice(a);
            out.extend_from_slice(b);
        }
    }
    out
}

/// The numbers of rows whose groups have a scale each.
fn ungrouped(values: &Source, scales: &Source, range: &Range<usize>) -> Result<Vec<f32>, Error> {
    let raw = read_rows(values, values.row(), range)?;
    let group = values.rows() * values.row() / scales.row();
    let (start, end) = (range.start * values.row(), range.end * values.row());
    let groups = start / group..end.div_ceil(group);
    let scales: Vec<f32> =
        read_rows(scales, 4, &groups)?.as_chunks().0.iter().map(|&b| f32::from_le_bytes(b)).collect();
    let scale_of = |i: usize| scales[(start + i) / group - groups.start];
    Ok(raw.iter().enumerate().map(|(i, &b)| f32::from(b as i8) * scale_of(i)).collect())
}
