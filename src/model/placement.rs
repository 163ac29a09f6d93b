//! Owns which device holds which layer. Refuses layers on devices that are not there.

use std::sync::Arc;

use crate::ggml::Device;

/// Where the layers, their caches and the output head are. Token embeddings stay on the CPU ([`Placement::CPU`]).
#[derive(Clone, Debug)]
pub struct Placement {
    devices: Vec<Arc<Device>>,
    layers: Vec<usize>,
    output: usize,
}

impl Placement {
    /// The CPU's place among the devices.
    pub const CPU: usize = 0;

    /// Everything on the CPU.
    pub fn on_cpu(cpu: Arc<Device>) -> Placement {
        Placement::new(vec![cpu], Vec::new(), Placement::CPU)
    }

    /// `layers` names the device of each layer by its place among `devices`, of which the first is the CPU; layers that are not
    /// named are there. `output` is the output head's.
    pub fn new(devices: Vec<Arc<Device>>, layers: Vec<usize>, output: usize) -> Placement {
        assert!(devices.get(Placement::CPU).is_some_and(|cpu| cpu.is_cpu()), "the first device is the CPU");
        assert!(layers.iter().chain([&output]).all(|&i| i < devices.len()), "a layer on a device that is not there");
        Placement { devices, layers, output }
    }

    /// The devices; the first is the CPU.
    pub fn devices(&self) -> &[Arc<Device>] {
        &self.devices
    }

    /// The CPU.
    pub fn cpu(&self) -> &Arc<Device> {
        &self.devices[Placement::CPU]
    }

    /// A layer's device, by its place among the devices.
    pub fn of_layer(&self, il: usize) -> usize {
        self.layers.get(il).copied().unwrap_or(Placement::CPU)
    }

    /// The output head's device, by its place among the devices.
    pub fn of_output(&self) -> usize {
        self.output
    }
}
