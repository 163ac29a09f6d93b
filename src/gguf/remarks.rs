//! Owns what readers of a file made allowance for: oddities that leave the file usable, to be said once.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// More would hide the first ones; the others are counted.
const MOST: usize = 12;

/// A list that grows while values are read through shared references.
#[derive(Debug, Default)]
pub(super) struct Remarks(Mutex<List>);

#[derive(Clone, Debug, Default)]
struct List {
    texts: Vec<String>,
    /// How many of them were handed out: what was said is not said again.
    n_told: usize,
    n_more: usize,
}

impl Remarks {
    pub(super) fn add(&self, text: String) {
        let mut list = self.lock();
        if list.texts.contains(&text) {
            return;
        }
        if list.texts.len() < MOST {
            list.texts.push(text);
        } else {
            list.n_more += 1;
        }
    }

    /// Those that were not handed out before.
    pub(super) fn take(&self) -> Vec<String> {
        let mut list = self.lock();
        let mut fresh = list.texts[list.n_told..].to_vec();
        list.n_told = list.texts.len();
        let n_more = std::mem::take(&mut list.n_more);
        fresh.extend((n_more > 0).then(|| format!("and {n_more} more of this kind")));
        fresh
    }

    fn lock(&self) -> MutexGuard<'_, List> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Clone for Remarks {
    fn clone(&self) -> Remarks {
        Remarks(Mutex::new(self.lock().clone()))
    }
}

/// What was read of a file is the same, whoever looked at it.
impl PartialEq for Remarks {
    fn eq(&self, _: &Remarks) -> bool {
        true
    }
}
