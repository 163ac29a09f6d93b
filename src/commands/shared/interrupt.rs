//! Owns the signals. Ctrl-C asks what runs to stop; a second one, or one that nobody looks at, ends the program. SIGTERM and
//! SIGHUP end it, whatever it does, once what has to be kept is kept. However it ends, no half-written file stays.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use anyhow::Context;

use super::INTERRUPTED;
use crate::files::unfinished;

static PRESSED: AtomicUsize = AtomicUsize::new(0);

/// Whether somebody looks at what is counted.
static WATCHED: AtomicBool = AtomicBool::new(false);

/// What an end by a signal has to do first.
static FAREWELLS: Mutex<Vec<Farewell>> = Mutex::new(Vec::new());

/// Learns whether the program was asked to end from outside, not by Ctrl-C.
type Farewell = Box<dyn FnMut(bool) + Send>;

/// Begins to listen, for the rest of the program.
#[cfg(unix)]
pub(crate) fn begin() -> anyhow::Result<()> {
    use std::sync::Arc;

    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGXFSZ};

    // With a handler a write beyond `ulimit -f` is an error, as on a full disk, and not the end.
    signal_hook::flag::register(SIGXFSZ, Arc::default()).context("cannot handle signals")?;
    let mut wanted = vec![SIGINT, SIGTERM];
    // `nohup` wants the program to outlive its terminal.
    if !is_ignored(SIGHUP) {
        wanted.push(SIGHUP);
    }
    let mut signals = signal_hook::iterator::Signals::new(wanted).context("cannot handle signals")?;
    let listen = move || {
        for signal in &mut signals {
            match signal {
                SIGINT => press(),
                signal => end(128 + signal, true),
            }
        }
    };
    std::thread::Builder::new().name("signals".into()).spawn(listen).context("cannot start a thread")?;
    Ok(())
}

/// Begins to listen, for the rest of the program.
#[cfg(not(unix))]
pub(crate) fn begin() -> anyhow::Result<()> {
    ctrlc::set_handler(press).context("cannot handle Ctrl-C")
}

/// Whether the program was started with this signal ignored; only Linux tells without unsafe code.
#[cfg(unix)]
fn is_ignored(signal: i32) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| u64::from_str_radix(line.strip_prefix("SigIgn:")?.trim(), 16).ok());
    mask.is_some_and(|mask| mask >> (signal - 1) & 1 == 1)
}

/// Ctrl-C, however it comes.
pub(crate) fn press() {
    if PRESSED.fetch_add(1, Ordering::SeqCst) > 0 || !WATCHED.load(Ordering::SeqCst) {
        end(i32::from(INTERRUPTED), false);
    }
}

/// Has `farewell` called before a signal ends the program.
pub(crate) fn before_end(farewell: impl FnMut(bool) + Send + 'static) {
    farewells().push(Box::new(farewell));
}

fn farewells() -> std::sync::MutexGuard<'static, Vec<Farewell>> {
    FAREWELLS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Ends the program from this thread, whatever the others do.
fn end(code: i32, from_outside: bool) -> ! {
    if from_outside {
        // What runs stops at its next look, and can be kept.
        PRESSED.fetch_add(1, Ordering::SeqCst);
    }
    // The last that came is the first to go: a terminal is restored before anything is said on it.
    farewells().iter_mut().rev().for_each(|farewell| farewell(from_outside));
    unfinished::remove_all();
    exit(code)
}

/// Destructors of C++ would run while other threads compute.
#[cfg(unix)]
fn exit(code: i32) -> ! {
    signal_hook::low_level::exit(code)
}

#[cfg(not(unix))]
fn exit(code: i32) -> ! {
    std::process::exit(code)
}

/// From here on whoever runs looks at `requested`: the first Ctrl-C only asks.
pub(crate) fn watch() {
    WATCHED.store(true, Ordering::SeqCst);
}

/// Looks at Ctrl-C while `work` runs, which looks at `requested`. Where nobody looks afterwards, the first one ends the program.
pub(crate) fn during<T>(work: impl FnOnce() -> T) -> T {
    let watched = WATCHED.swap(true, Ordering::SeqCst);
    let done = work();
    WATCHED.store(watched, Ordering::SeqCst);
    done
}

/// While `wait` lasts, which may be long and looks at nothing, the first Ctrl-C ends the program.
pub(crate) fn while_waiting<T>(wait: impl FnOnce() -> T) -> T {
    let watched = WATCHED.swap(false, Ordering::SeqCst);
    let done = wait();
    WATCHED.store(watched, Ordering::SeqCst);
    done
}

/// Whether Ctrl-C was pressed since the last `reset`.
pub(crate) fn requested() -> bool {
    PRESSED.load(Ordering::SeqCst) > 0
}

/// Forgets presses: something new begins.
pub(crate) fn reset() {
    PRESSED.store(0, Ordering::SeqCst);
}
