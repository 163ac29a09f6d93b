//! Owns the hidden states of rows that wait between two ranges of the plan: on the device that goes on with them, or on the CPU
//! where another one does.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::Error;
use crate::dtype::DType;
use crate::ggml::{Device, StoreBuilder, Stored};

/// Places for hidden states. A place is the same on every device, and holds a state on one of them.
pub(super) struct HiddenStates {
    /// One for each device, the CPU's first: \[n_embd, places\].
    states: Vec<Stored>,
    free: Arc<Mutex<Vec<usize>>>,
}

/// A place where a hidden state waits; free again when it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    index: usize,
    free: Arc<Mutex<Vec<usize>>>,
}

impl Place {
    pub(super) fn index(&self) -> usize {
        self.index
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.free.lock().unwrap_or_else(PoisonError::into_inner).push(self.index);
    }
}

impl HiddenStates {
    pub(super) fn new(n_embd: usize, devices: &[Arc<Device>], n_places: usize) -> Result<HiddenStates, Error> {
        let states = devices.iter().map(|device| hidden_states(n_embd, device, n_places));
        // The lowest is taken first, so that a few rows touch few pages.
        let free = Arc::new(Mutex::new((0..n_places).rev().collect()));
        Ok(HiddenStates { states: states.collect::<Result<_, _>>()?, free })
    }

    /// Those of a device.
    pub(super) fn states(&self, device: usize) -> &Stored {
        &self.states[device]
    }

    pub(super) fn n_free(&self) -> usize {
        self.free().len()
    }

    pub(super) fn take(&mut self) -> Option<Place> {
        let index = self.free().pop()?;
        Some(Place { index, free: self.free.clone() })
    }

    fn free(&self) -> MutexGuard<'_, Vec<usize>> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What waits on a device at these places: \[n_embd\] each. Worth nothing if the device is lost.
    pub(super) fn read(&self, device: usize, places: &[usize]) -> Vec<f32> {
        let states = &self.states[device];
        let n_embd = states.t().shape()[0];
        let mut bytes = vec![0; places.len() * n_embd * size_of::<f32>()];
        for (place, bytes) in places.iter().zip(bytes.chunks_exact_mut(n_embd * size_of::<f32>())) {
            states.read(place * bytes.len(), bytes);
        }
        bytes.chunks_exact(4).map(|b| f32::from_ne_bytes([b[0], b[1], b[2], b[3]])).collect()
    }

    /// Lets states wait on a device.
    pub(super) fn write(&mut self, device: usize, places: &[usize], states: &[f32]) {
        let n_embd = self.states[0].t().shape()[0];
        for (place, state) in places.iter().zip(states.chunks_exact(n_embd)) {
            let bytes: Vec<u8> = state.iter().flat_map(|x| x.to_ne_bytes()).collect();
            self.states[device].write(place * bytes.len(), &bytes);
        }
    }

    /// Room for at least `n` more.
    pub(super) fn grow(&mut self, n: usize, devices: &[Arc<Device>]) -> Result<(), Error> {
        let [n_embd, before, ..] = self.states[0].t().shape();
        let after = (before + n).max(2 * before);
        let mut all = Vec::new();
        // Every place stays what it was: rows that wait hold their numbers.
        for (states, device) in self.states.iter().zip(devices) {
            let mut larger = hidden_states(n_embd, device, after)?;
            let mut bytes = vec![0; n_embd * before * size_of::<f32>()];
            states.read(0, &mut bytes);
            larger.write(0, &bytes);
            // Nothing was copied from a device that is lost.
            device.check()?;
            all.push(larger);
        }
        self.states = all;
        // Behind the free ones: those are lower, and are taken first.
        self.free().splice(0..0, (before..after).rev());
        Ok(())
    }
}

fn hidden_states(n_embd: usize, device: &Arc<Device>, n_places: usize) -> Result<Stored, Error> {
    let mut builder = StoreBuilder::new(1);
    builder.place_on(device);
    Ok(builder.add_empty("hidden", DType::F32, &[n_embd, n_places])?)
}
