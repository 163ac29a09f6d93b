//! Owns Ctrl-C while something runs: the first asks it to stop, a second ends the program.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use anyhow::Context;

use super::INTERRUPTED;

static PRESSED: AtomicUsize = AtomicUsize::new(0);

/// Whether the handler is there, and whether somebody looks at what it counts.
static INSTALLED: AtomicBool = AtomicBool::new(false);
static WATCHED: AtomicBool = AtomicBool::new(false);

/// Takes over Ctrl-C for the rest of the program.
pub(super) fn install() -> anyhow::Result<()> {
    WATCHED.store(true, Ordering::SeqCst);
    if INSTALLED.swap(true, Ordering::SeqCst) {
        return Ok(());
    }
    ctrlc::set_handler(|| {
        if PRESSED.fetch_add(1, Ordering::SeqCst) > 0 || !WATCHED.load(Ordering::SeqCst) {
            std::process::exit(i32::from(INTERRUPTED));
        }
    })
    .context("cannot handle Ctrl-C")
}

/// Takes over Ctrl-C while `work` runs, which looks at `requested`. Where nobody looks afterwards, the first one ends the program.
pub(super) fn during<T>(work: impl FnOnce() -> T) -> anyhow::Result<T> {
    let watched = WATCHED.load(Ordering::SeqCst);
    install()?;
    let done = work();
    WATCHED.store(watched, Ordering::SeqCst);
    Ok(done)
}

/// Takes over Ctrl-C and the wish to terminate for the rest of a program that looks soon and often whether it was asked to
/// stop, and has to clean up. A second call changes nothing.
pub(super) fn install_patient() -> anyhow::Result<()> {
    if INSTALLED.swap(true, Ordering::SeqCst) {
        return Ok(());
    }
    let count = || {
        PRESSED.fetch_add(1, Ordering::SeqCst);
    };
    ctrlc::set_handler(count).context("cannot handle Ctrl-C")
}

/// Whether Ctrl-C was pressed since the last `reset`.
pub(super) fn requested() -> bool {
    PRESSED.load(Ordering::SeqCst) > 0
}

/// Forgets presses: something new begins.
pub(super) fn reset() {
    PRESSED.store(0, Ordering::SeqCst);
}
