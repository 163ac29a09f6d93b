//! Owns the making of the new tensors' bytes: rows are quantized in pieces on all processor cores and come out in order.
//! Holds a bounded number of pieces, however large the tensors are.

use std::borrow::Cow;
use std::cell::RefCell;
use std::io::{self, Write};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use super::{Error, Imatrix, Plan, Planned};
use crate::ggml;
use crate::gguf::File;

/// What bytes are made of.
#[derive(Clone, Copy)]
pub struct Making<'a> {
    /// The input.
    pub file: &'a File,
    /// The plan for it.
    pub plan: &'a Plan,
    /// The importance matrix, if there is one.
    pub imatrix: Option<&'a Imatrix>,
    /// How many threads shall work.
    pub n_threads: usize,
    /// Says when to give up.
    pub stop: &'a (dyn Fn() -> bool + Sync),
}

/// Elements of a piece, unless a row alone is longer.
const PIECE: usize = 1 << 15;

/// Elements of a piece that is only looked at and copied.
const COPIED_PIECE: usize = 1 << 19;

/// Pieces that are made ahead of the one written, per thread.
const AHEAD: usize = 32;

/// The new tensors, made on other threads while `consume` asks for them one after the other.
pub fn produce<R>(making: &Making, consume: impl FnOnce(&mut Tensors) -> R) -> io::Result<R> {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(making.n_threads).build().map_err(io::Error::other)?;
    let is_over = AtomicBool::new(false);
    let maker = Maker { making: *making, is_over: &is_over };
    let (queue, pieces) = sync_channel(AHEAD * pool.current_num_threads());
    Ok(thread::scope(|scope| {
        scope.spawn(|| maker.run(&pool, queue));
        consume(&mut Tensors { making, next: 0, pieces, is_over: &is_over })
    }))
}

type Made<'a> = Result<Cow<'a, [u8]>, Error>;

/// The new tensors, in the plan's order.
pub struct Tensors<'a, 'm> {
    making: &'m Making<'a>,
    next: usize,
    pieces: Receiver<Receiver<Made<'a>>>,
    is_over: &'m AtomicBool,
}

impl Tensors<'_, '_> {
    /// Writes the bytes of the next tensor. What `out` refuses is the caller's to report: it comes back as an interruption.
    pub fn write_next(&mut self, out: &mut dyn Write) -> Result<(), Error> {
        const RELEASED_AT_ONCE: usize = 8 << 20;
        let planned = &self.making.plan.tensors[self.next];
        self.next += 1;
        let file = self.making.file;
        let (mut read, mut released) = (0, 0);
        for rows in pieces_of(planned) {
            let piece = self.pieces.recv().ok().and_then(|piece| piece.recv().ok()).ok_or(Error::Interrupted)??;
            out.write_all(&piece).map_err(|_| Error::Interrupted)?;
            read += source_range(planned, &rows).len();
            if read - released >= RELEASED_AT_ONCE {
                file.release_range(&planned.tensor, released..read);
                released = read;
            }
        }
        file.release_range(&planned.tensor, released..read);
        Ok(())
    }
}

impl Drop for Tensors<'_, '_> {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
    }
}

/// The rows of each piece of a tensor. A piece lies within one expert. Rows of nothing are no pieces, however many there are.
fn pieces_of(planned: &Planned) -> impl Iterator<Item = Range<usize>> + use<> {
    let shape = planned.tensor.shape;
    let is_empty = planned.tensor.elements() == 0;
    let (n_rows, n_matrices) = if is_empty { (0, 0) } else { (shape[1], shape[2] * shape[3]) };
    let most = if planned.is_changed() { PIECE } else { COPIED_PIECE };
    let step = (most / shape[0].max(1)).max(1);
    (0..n_matrices).flat_map(move |matrix| {
        let start = matrix * n_rows;
        (0..n_rows).step_by(step).map(move |row| start + row..start + n_rows.min(row + step))
    })
}

/// Where rows lie in the tensor's bytes.
fn source_range(planned: &Planned, rows: &Range<usize>) -> Range<usize> {
    let tensor = &planned.tensor;
    let row_bytes = tensor.dtype.row_bytes(tensor.shape[0]).expect("the reader has checked the rows");
    rows.start * row_bytes..rows.end * row_bytes
}

/// Makes pieces.
#[derive(Clone, Copy)]
struct Maker<'a, 'm> {
    making: Making<'a>,
    is_over: &'m AtomicBool,
}

impl<'a> Maker<'a, '_> {
    /// Hands every piece to the pool, and its result's place to the queue, which bounds how far it gets ahead.
    fn run(self, pool: &rayon::ThreadPool, queue: SyncSender<Receiver<Made<'a>>>) {
        pool.in_place_scope(|scope| {
            for planned in &self.making.plan.tensors {
                for rows in pieces_of(planned) {
                    let (done, result) = sync_channel(1);
                    if queue.send(result).is_err() {
                        return;
                    }
                    scope.spawn(move |_| {
                        // Nobody waits when the consumer has gone.
                        let _ = done.send(self.make(planned, rows));
                    });
                }
            }
        });
    }

    fn make(self, planned: &'a Planned, rows: Range<usize>) -> Made<'a> {
        if self.is_over.load(Ordering::Relaxed) || (self.making.stop)() {
            return Err(Error::Interrupted);
        }
        let tensor = &planned.tensor;
        let source = &self.making.file.data(tensor)[source_range(planned, &rows)];
        if !planned.is_changed() {
            let is_valid = !ggml::can_dequantize(tensor.dtype) || ggml::is_valid(tensor.dtype, source);
            return if is_valid { Ok(source.into()) } else { Err(Error::BrokenData { tensor: tensor.name.clone() }) };
        }
        let n = tensor.shape[0];
        let importance = self.importance(planned, rows.start);
        let mut blocks = vec![0; planned.to.row_bytes(n).expect("the plan has checked the rows") * rows.len()];
        with_scratch(n * rows.len(), |values| {
            ggml::dequantize_into(tensor.dtype, source, values);
            let made = ggml::quantize_rows(planned.to, values, n, importance, &mut blocks);
            // Of numbers that are none the first has a place; the others are too large together.
            let first = || values.iter().position(|x| !x.is_finite()).map_or(0, |i| i / n);
            made.map_err(|source| Error::Rows { tensor: tensor.name.clone(), row: rows.start + first(), source })
        })?;
        Ok(blocks.into())
    }

    /// The importance of the columns, of the expert that a row belongs to.
    fn importance(self, planned: &Planned, row: usize) -> Option<&'a [f32]> {
        let tensor = &planned.tensor;
        let all = self.making.imatrix.filter(|_| planned.has_importance)?.get(&planned.source_name)?;
        let expert = row / tensor.shape[1] % tensor.shape[2];
        Some(&all[expert * tensor.shape[0]..][..tensor.shape[0]])
    }
}

/// Runs `use_it` on a place for `n` numbers that the thread keeps.
fn with_scratch<R>(n: usize, use_it: impl FnOnce(&mut [f32]) -> R) -> R {
    thread_local! {
        static SCRATCH: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
    }
    SCRATCH.with_borrow_mut(|scratch| {
        if scratch.len() < n {
            scratch.resize(n, 0.0);
        }
        use_it(&mut scratch[..n])
    })
}
