//! Mutated inputs: a value or an error, never a panic, and no memory that the input does not pay for. A binary of its own,
//! since the bound on memory is the whole process's.

#[path = "../common/mod.rs"]
mod common;

mod convert;
mod gguf;
mod model;
mod state;
mod tokenizer;

use std::alloc::System;
use std::sync::{Mutex, MutexGuard, PoisonError};

use cap::Cap;

/// Makes an allocation beyond the limit fail, which ends the process.
#[global_allocator]
static ALLOCATOR: Cap<System> = Cap::new(System, usize::MAX);

static TURN: Mutex<()> = Mutex::new(());

/// From here on no more than so many bytes beside what is allocated now.
fn limit_memory(bytes: usize) {
    ALLOCATOR.set_limit(ALLOCATOR.allocated() + bytes).expect("more than is allocated");
}

fn lift_limit() {
    ALLOCATOR.set_limit(usize::MAX).expect("no limit");
}

/// Targets take turns, or one would pay for the memory and the time of another. Each uses all processor cores by itself.
struct Turn {
    _guard: MutexGuard<'static, ()>,
}

impl Turn {
    fn take() -> Turn {
        Turn { _guard: TURN.lock().unwrap_or_else(PoisonError::into_inner) }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        lift_limit();
    }
}
