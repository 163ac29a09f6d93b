//! Owns Ctrl-C while something runs: the first asks it to stop, a second ends the program.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use anyhow::Context;

use super::INTERRUPTED;

static PRESSED: AtomicUsize = AtomicUsize::new(0);

/// Takes over Ctrl-C for the rest of the program.
pub(super) fn install() -> anyhow::Result<()> {
    ctrlc::set_handler(|| {
        if PRESSED.fetch_add(1, Ordering::SeqCst) > 0 {
            std::process::exit(i32::from(INTERRUPTED));
        }
    })
    .context("cannot handle Ctrl-C")
}

/// Takes over Ctrl-C and the wish to terminate for the rest of a program that looks soon and often whether it was asked to
/// stop, and has to clean up. A second call changes nothing.
pub(super) fn install_patient() -> anyhow::Result<()> {
    static INSTALLED: Mutex<bool> = Mutex::new(false);
    let mut is_installed = INSTALLED.lock().unwrap_or_else(PoisonError::into_inner);
    if !*is_installed {
        let count = || {
            PRESSED.fetch_add(1, Ordering::SeqCst);
        };
        ctrlc::set_handler(count).context("cannot handle Ctrl-C")?;
        *is_installed = true;
    }
    Ok(())
}

/// Whether Ctrl-C was pressed since the last `reset`.
pub(super) fn requested() -> bool {
    PRESSED.load(Ordering::SeqCst) > 0
}

/// Forgets presses: something new begins.
pub(super) fn reset() {
    PRESSED.store(0, Ordering::SeqCst);
}
