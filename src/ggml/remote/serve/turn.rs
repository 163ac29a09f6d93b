//! Owns whose turn it is on a device: first come, first served, so that nobody who asks again and again keeps others out.

use std::sync::{Condvar, Mutex, MutexGuard};

#[derive(Default)]
pub(super) struct Turns {
    state: Mutex<State>,
    next: Condvar,
}

#[derive(Default)]
struct State {
    /// The number that the next who comes gets.
    tickets: u64,
    /// Whose number it is now.
    now: u64,
}

/// A turn, until it is dropped.
pub(super) struct Turn<'a>(&'a Turns);

impl Turns {
    /// Waits until those who came before are done.
    pub(super) fn wait(&self) -> Turn<'_> {
        let mut state = self.lock();
        let mine = state.tickets;
        state.tickets += 1;
        while state.now != mine {
            state = self.next.wait(state).unwrap_or_else(|poisoned| poisoned.into_inner());
        }
        Turn(self)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.lock().now += 1;
        self.0.next.notify_all();
    }
}
