//! Memory of the threads that compute, kept from node to node: a decode step runs hundreds of nodes, and an allocation
//! in each would cost more than some of them compute.

use std::cell::RefCell;

/// Memory of the current thread, kept from use to use.
pub(super) struct Scratch(Vec<u8>);

thread_local! {
    static SCRATCH: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

impl Scratch {
    pub(super) fn take() -> Scratch {
        // A stack of them, since a node that holds one may call what takes another.
        Scratch(SCRATCH.with_borrow_mut(|free| free.pop().unwrap_or_default()))
    }

    /// Any bytes: those of the last use are still there.
    pub(super) fn bytes(&mut self, n: usize) -> &mut [u8] {
        // Never smaller again: the same nodes come back with every token.
        if self.0.len() < n {
            self.0.resize(n, 0);
        }
        &mut self.0[..n]
    }

    /// Any numbers.
    pub(super) fn floats(&mut self, n: usize) -> &mut [f32] {
        // One more than asked for, so that n of them are left once the first is aligned.
        let bytes = self.bytes((n + 1) * size_of::<f32>());
        // SAFETY: any bytes are floats, and the floats in the middle are aligned.
        let (_, floats, _) = unsafe { bytes.align_to_mut::<f32>() };
        &mut floats[..n]
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Back to the thread, whose next node takes it.
        let memory = std::mem::take(&mut self.0);
        SCRATCH.with_borrow_mut(|free| free.push(memory));
    }
}
