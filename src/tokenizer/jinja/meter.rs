//! Owns the bounds of one rendering: work, memory, depth and time. A rendering has its thread to itself, so the meter is
//! the thread's. Whatever makes or walks values asks here first; what a bound refuses is an error with a line.

use std::cell::Cell;
use std::panic::resume_unwind;
use std::thread;
use std::time::{Duration, Instant};

use super::{Error, Result};

/// Units of work: a node evaluated, a value visited, sixteen bytes moved. About a second; long conversations take
/// some ten thousands.
const WORK: u64 = 20_000_000;

/// Bytes that live at the same time.
const MEMORY: usize = 64 << 20;

/// A clock beside the work, for what costs more than its units.
const TIME: Duration = Duration::from_secs(2);

/// Expressions, blocks and calls inside each other while rendering. Python ends at some 300 calls of a macro.
const DEPTH: usize = 3_000;

/// Values inside each other: their drop walks them by recursion.
pub(super) const HEIGHT: usize = 200;

/// What one level of [`DEPTH`] takes at most, unoptimized, with room to spare.
const STACK: usize = DEPTH * (24 << 10);

thread_local! {
    static LIVE: Cell<usize> = const { Cell::new(0) };
    static WORKED: Cell<u64> = const { Cell::new(0) };
    static LOOKED: Cell<u64> = const { Cell::new(0) };
    static NESTED: Cell<usize> = const { Cell::new(0) };
    static DEADLINE: Cell<Option<Instant>> = const { Cell::new(None) };
    static OWN_STACK: Cell<bool> = const { Cell::new(false) };
}

/// Runs something on a thread whose stack is known to be deep enough for [`DEPTH`].
pub(crate) fn on_deep_stack<T: Send>(run: impl FnOnce() -> T + Send) -> Result<T> {
    if OWN_STACK.get() {
        return Ok(run());
    }
    let on_it = || {
        OWN_STACK.set(true);
        run()
    };
    thread::scope(|scope| {
        let thread = thread::Builder::new().name("template".to_owned()).stack_size(STACK).spawn_scoped(scope, on_it);
        let thread = thread.map_err(|e| Error::new(format!("no thread to render it on: {e}")))?;
        // A panic of ours stays one.
        Ok(thread.join().unwrap_or_else(|panic| resume_unwind(panic)))
    })
}

/// Sets the work and the clock of this thread back: a new rendering.
pub(super) fn start() {
    WORKED.set(0);
    LOOKED.set(0);
    NESTED.set(0);
    DEADLINE.set(Some(Instant::now() + TIME));
}

/// Counts work that is about to be done.
pub(super) fn work(units: usize) -> Result<()> {
    let worked = WORKED.get().saturating_add(units as u64);
    WORKED.set(worked);
    if worked > WORK {
        return Err(Error::new("it does not come to an end: it takes more steps than any conversation needs"));
    }
    if worked - LOOKED.get() > 10_000 {
        LOOKED.set(worked);
        if DEADLINE.get().is_some_and(|deadline| Instant::now() > deadline) {
            return Err(Error::new(format!("it takes more than {} seconds", TIME.as_secs())));
        }
    }
    Ok(())
}

/// The work of this thread's rendering so far.
#[cfg(test)]
pub(super) fn worked() -> u64 {
    WORKED.get()
}

/// Counts the work of reading or moving bytes.
pub(super) fn bytes(n: usize) -> Result<()> {
    work(n / 16 + 1)
}

/// Memory that a value holds; given back when it is dropped.
#[derive(Debug, Default)]
pub(super) struct Charge(usize);

impl Charge {
    /// Takes `n` bytes more.
    pub(super) fn grow(&mut self, n: usize) -> Result<()> {
        let live = LIVE.get().saturating_add(n);
        if live > MEMORY {
            return Err(Error::new(format!("it takes more than {} MB of memory", MEMORY >> 20)));
        }
        LIVE.set(live);
        self.0 += n;
        bytes(n)
    }

    pub(super) fn of(n: usize) -> Result<Charge> {
        let mut charge = Charge::default();
        charge.grow(n)?;
        Ok(charge)
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        // At the end of the thread the count may be gone before the last value.
        let _ = LIVE.try_with(|live| live.set(live.get().saturating_sub(self.0)));
    }
}

/// One level deeper, until it is dropped.
pub(super) struct Level(());

/// Goes a level deeper.
pub(super) fn deeper() -> Result<Level> {
    work(1)?;
    if NESTED.get() >= DEPTH {
        return Err(Error::new("it is nested too deep, or calls itself without an end"));
    }
    NESTED.set(NESTED.get() + 1);
    Ok(Level(()))
}

impl Drop for Level {
    fn drop(&mut self) {
        NESTED.set(NESTED.get() - 1);
    }
}
