//! Which cache rows belong to whom. Every sequence has a region of its own; a prefix that several share lies in the region of the
//! sequence that made it, before theirs, and is seen where it is.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::row::KV_STEP;

/// The regions of a cache, all of one size.
#[derive(Debug)]
pub(super) struct Regions {
    n_each: usize,
    n: usize,
    free: Mutex<BTreeSet<usize>>,
}

/// The cache rows of one sequence; free again when the last that uses them is dropped.
#[derive(Debug)]
pub(super) struct Region {
    index: usize,
    rows: Range<usize>,
    regions: Arc<Regions>,
}

impl Regions {
    pub(super) fn new(n_rows: usize, n: usize) -> Regions {
        Regions { n_each: n_rows / n, n, free: Mutex::new((0..n).collect()) }
    }

    /// The first free one from an index on.
    pub(super) fn take(self: &Arc<Regions>, from: usize) -> Option<Region> {
        let mut free = self.free();
        // Behind a prefix only: what is seen lies before what sees it.
        let index = *free.range(from..).next()?;
        free.remove(&index);
        Some(Region { index, rows: index * self.n_each..(index + 1) * self.n_each, regions: self.clone() })
    }

    /// How many are in use.
    pub(super) fn n_taken(&self) -> usize {
        self.n - self.free().len()
    }

    fn free(&self) -> MutexGuard<'_, BTreeSet<usize>> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Region {
    pub(super) fn index(&self) -> usize {
        self.index
    }

    pub(super) fn rows(&self) -> Range<usize> {
        self.rows.clone()
    }

    pub(super) fn is_of(&self, regions: &Arc<Regions>) -> bool {
        Arc::ptr_eq(&self.regions, regions)
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        self.regions.free().insert(self.index);
    }
}

/// Where the rows of a sequence lie: the first positions in a prefix's region, the others in its own.
#[derive(Clone, Debug)]
pub(super) struct Cells {
    /// Rows of the prefix that are seen; empty without one.
    pub(super) shared: Range<usize>,
    own: usize,
}

impl Cells {
    /// Of a sequence that shares its first `n_shared` positions with a region.
    pub(super) fn new(own: &Region, shared: Option<(&Region, usize)>) -> Cells {
        let shared = shared.map_or(0..0, |(region, n)| region.rows.start..region.rows.start + n);
        // Rows add up in the same order as if the prefix lay before them: they are a multiple of the step further on.
        Cells { own: own.rows.start + shared.len() % KV_STEP, shared }
    }

    /// The first cache row that is seen.
    pub(super) fn first(&self) -> usize {
        if self.shared.is_empty() { self.own } else { self.shared.start }
    }

    /// Between the prefix and the own rows.
    pub(super) fn hole(&self) -> Range<usize> {
        if self.shared.is_empty() { 0..0 } else { self.shared.end..self.own }
    }

    /// The cache row of a position.
    pub(super) fn row_of(&self, position: usize) -> usize {
        match position.checked_sub(self.shared.len()) {
            None => self.shared.start + position,
            // From here on positions and cache rows go side by side again.
            Some(behind) => self.own + behind,
        }
    }

    /// The cache rows of the first `n` positions.
    pub(super) fn rows_of(&self, n: usize) -> Vec<Range<usize>> {
        let n_shared = self.shared.len().min(n);
        let shared = self.shared.start..self.shared.start + n_shared;
        [shared, self.own..self.own + (n - n_shared)].into_iter().filter(|rows| !rows.is_empty()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regions_are_free_again_and_rows_keep_their_place_in_a_step() {
        let regions = Arc::new(Regions::new(3 * 256, 3));
        let (a, b) = (regions.take(0).unwrap(), regions.take(1).unwrap());
        assert_eq!((a.rows(), b.rows(), regions.n_taken()), (0..256, 256..512, 2));
        assert!(regions.take(1).is_some_and(|c| c.index() == 2), "free again at once");
        let cells = Cells::new(&b, Some((&a, 70)));
        assert_eq!((cells.first(), cells.hole(), cells.row_of(69), cells.row_of(70)), (0, 70..262, 69, 262));
        assert!((cells.row_of(70) - 70).is_multiple_of(KV_STEP));
        assert_eq!((cells.rows_of(72), cells.rows_of(3).pop()), (vec![0..70, 262..264], Some(0..3)));
        assert_eq!((Cells::new(&b, None).first(), Cells::new(&b, None).hole()), (256, 0..0));
    }
}
