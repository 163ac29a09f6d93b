//! Owns which devices there are and what each of them holds. Refuses to let a layer go elsewhere than it was told to.

use std::io::Write;
use std::ops::Range;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, bail, ensure};
use indicatif::ProgressBar;

use super::{Usage, note, progress, screen};
use crate::cli::{DeviceArgs, GpuLayers};
use crate::engine::EngineParams;
use crate::ggml::{Device, Memory, Token};
use crate::gguf::File;
use crate::model::{Config, Placement};
use crate::text;

/// The accelerators of this machine; none where the program was built without one.
pub(crate) fn local() -> anyhow::Result<Vec<Arc<Device>>> {
    Device::gpus().context("cannot use the GPUs")
}

/// Why a program that was built for GPUs uses none.
fn no_gpu() -> Option<String> {
    #[cfg(feature = "cuda")]
    return crate::ggml::cuda_status().problem;
    #[cfg(not(feature = "cuda"))]
    None
}

/// Every device that the flags reach, the CPU first, then workers, then the accelerators of this machine, next to the output
/// head.
pub(crate) fn find(args: &DeviceArgs, n_threads: usize) -> anyhow::Result<Vec<Arc<Device>>> {
    let mut devices = vec![Device::cpu(n_threads).context("cannot use the processor")?];
    let token = args.token_file.as_deref().map(read_token).transpose()?;
    for endpoint in &args.rpc {
        let n_before = devices.len() - 1;
        devices.extend(Device::remote_with(endpoint, n_before, token.clone())?);
    }
    if wants_gpus(args) {
        let own = local()?;
        if let Some(problem) = no_gpu().filter(|_| own.is_empty() && args.device.is_empty() && args.rpc.is_empty()) {
            note(format_args!("note: CUDA finds no GPU ({problem}): everything runs on the CPU"));
        }
        devices.extend(own);
    }
    if !args.device.is_empty() {
        let chosen = choose(&devices, &args.device)?;
        devices.truncate(1);
        devices.extend(chosen.into_iter().filter(|device| !device.is_cpu()));
    }
    Ok(devices)
}

/// The secret in a file, without white space around it.
pub(crate) fn read_token(path: &Path) -> anyhow::Result<Token> {
    const MOST: u64 = 4096;
    let name = || format!("cannot use the token file `{}`", path.display());
    let bytes = text::read_bytes(path, MOST).with_context(name)?;
    let secret = bytes.trim_ascii();
    Token::new(secret).with_context(|| {
        const HINT: &str = "hint: `openssl rand -hex 32` makes a secret";
        format!("{}: expected {} bytes or more, found {}\n{HINT}", name(), Token::LEAST, secret.len())
    })
}

/// Whether GPUs of this machine may get layers.
fn wants_gpus(args: &DeviceArgs) -> bool {
    let is_gpu = |name: &String| !["none", "cpu"].contains(&name.to_lowercase().as_str()) && !is_worker(name);
    args.gpu_layers != Some(GpuLayers::Last(0)) && (args.device.is_empty() || args.device.iter().any(is_gpu))
}

fn is_worker(name: &str) -> bool {
    name.to_uppercase().starts_with("RPC")
}

/// The flags without the GPUs of this machine where these cannot be used, for those who say so.
pub(crate) fn usable(args: &DeviceArgs) -> DeviceArgs {
    if wants_gpus(args) && local().is_err() {
        DeviceArgs { gpu_layers: Some(GpuLayers::Last(0)), ..args.clone() }
    } else {
        args.clone()
    }
}

/// The devices with these names; for `none`, none.
pub(crate) fn choose(devices: &[Arc<Device>], names: &[String]) -> anyhow::Result<Vec<Arc<Device>>> {
    if names == ["none"] {
        return Ok(Vec::new());
    }
    let find = |name: &String| {
        devices.iter().find(|device| device.name().eq_ignore_ascii_case(name)).cloned().ok_or_else(|| {
            let known: Vec<_> = devices.iter().map(|device| format!("`{}`", device.name())).collect();
            Usage(format!("--device: expected none or some of {}, found `{name}`", known.join(", "))).into()
        })
    };
    names.iter().map(find).collect()
}

/// Prints the devices.
pub(crate) fn list(args: &DeviceArgs) -> anyhow::Result<ExitCode> {
    let mut out = screen::stdout();
    writeln!(out, "Available devices:")?;
    let usable = usable(args);
    for device in find(&usable, 1)? {
        writeln!(out, "  {}", describe(&device))?;
    }
    // What `find` was not to look for.
    if let Some(problem) = no_gpu().filter(|_| usable.gpu_layers != args.gpu_layers) {
        note(format_args!("note: CUDA finds no GPU to use ({problem})"));
    }
    Ok(ExitCode::SUCCESS)
}

/// One line about a device, as llama.cpp writes it.
fn describe(device: &Device) -> String {
    let memory = device
        .memory()
        .map_or_else(String::new, |Memory { free, total }| format!(" ({} MiB, {} MiB free)", total >> 20, free >> 20));
    format!("{}: {}{memory}", device.name(), device.description())
}

/// What a layer needs of a device's memory, in bytes.
pub(crate) struct Needs {
    /// Weights of each layer.
    pub(crate) layers: Vec<u64>,
    /// Cache rows of one layer.
    pub(crate) cache: u64,
    /// Results in between; those of attention that is not fused aside.
    pub(crate) scratch: u64,
    /// Those.
    pub(crate) scores: u64,
    /// Final norm and output head.
    pub(crate) output: u64,
}

impl Needs {
    pub(crate) fn new(file: &File, config: &Config, params: &EngineParams) -> Needs {
        let bytes = |prefix: &str| -> u64 {
            file.tensors().iter().filter(|t| t.name.starts_with(prefix)).map(|t| t.bytes as u64).sum()
        };
        let head = bytes("output.");
        let head = if head > 0 { head } else { bytes("token_embd.") };
        let n_ctx = if params.n_ctx == 0 { config.n_ctx_train } else { params.n_ctx };
        let row = |n, dtype: crate::dtype::DType| dtype.row_bytes(n).unwrap_or(0) as u64;
        let n_batch = params.n_batch.clamp(1, n_ctx.max(1)) as u64;
        // Normed rows, products of both halves of a layer, and the mask.
        let row_floats = 6 * config.n_embd + 3 * config.n_ff + config.n_vocab;
        let row_bytes = row(config.n_embd_k(), params.type_k) + row(config.n_embd_v(), params.type_v);
        let (n_ctx, floats) = (n_ctx as u64, n_batch.saturating_mul(4));
        let mut layers = vec![0; config.n_layer];
        for tensor in file.tensors() {
            if let Some(layer) = layer_of(&tensor.name).and_then(|il| layers.get_mut(il)) {
                *layer += tensor.bytes as u64;
            }
        }
        Needs {
            layers,
            cache: n_ctx.saturating_mul(row_bytes),
            scratch: floats.saturating_mul((row_floats as u64).saturating_add(n_ctx)),
            scores: floats.saturating_mul(n_ctx).saturating_mul(config.n_head as u64),
            output: head + bytes("output_norm."),
        }
    }

    /// What one layer takes, with all that is there once.
    fn of_one(&self, fuses_attention: bool) -> u64 {
        let one = self.layers.iter().max().copied().unwrap_or(0).saturating_add(self.cache);
        let scores = if fuses_attention { 0 } else { self.scores };
        one.saturating_add(self.output).saturating_add(self.scratch).saturating_add(scores)
    }

    /// Layers that this much memory holds. A part stays free: drivers and other programs need some.
    fn fit(&self, memory: Memory, fuses_attention: bool) -> usize {
        let scratch = self.scratch.saturating_add(if fuses_attention { 0 } else { self.scores });
        let room = (memory.free - memory.free / 20).saturating_sub(scratch.saturating_add(self.output));
        let one = self.layers.iter().max().copied().unwrap_or(0).saturating_add(self.cache);
        (room / one.max(1)) as usize
    }
}

/// The layer in a tensor's name.
fn layer_of(name: &str) -> Option<usize> {
    name.strip_prefix("blk.")?.split_once('.')?.0.parse().ok()
}

/// Where the flags want the layers.
pub(crate) fn place(
    args: &DeviceArgs,
    devices: Vec<Arc<Device>>,
    needs: &Needs,
    params: &EngineParams,
) -> anyhow::Result<Placement> {
    let (others, n_layer) = (&devices[1..], needs.layers.len());
    if others.is_empty() {
        if args.wants_layers() {
            bail!(Usage("-ngl: there is no device but the CPU\nhint: --list-devices shows what there is".into()));
        }
        return Ok(Placement::new(devices, Vec::new(), Placement::CPU));
    }
    let fit = |device: &Arc<Device>| {
        let fits = device.memory().map(|memory| needs.fit(memory, params.fuses_attention_on(device)));
        fits.map_or(n_layer, |n| n.min(n_layer))
    };
    let fits: Vec<usize> = others.iter().map(fit).collect();
    let wanted = match args.gpu_layers.unwrap_or(GpuLayers::Auto) {
        GpuLayers::Auto => fits.iter().sum::<usize>().min(n_layer),
        GpuLayers::All => n_layer,
        GpuLayers::Last(n) => n.min(n_layer),
    };
    if wanted == 0 && args.gpu_layers.is_none_or(|wanted| wanted == GpuLayers::Auto) {
        let names: Vec<&str> = others.iter().map(|device| device.name()).collect();
        let most = others.iter().filter_map(|device| device.memory()).map(|memory| memory.free).max().unwrap_or(0);
        let fused = others.iter().all(|device| params.fuses_attention_on(device));
        note(format_args!(
            "note: not one layer fits on {} ({} MiB free, {} MiB wanted for one): everything runs on the CPU\n\
             hint: a smaller context (-c), or --flash-attn on, takes less",
            names.join(", "),
            most >> 20,
            needs.of_one(fused) >> 20,
        ));
    }
    let shares = match &args.tensor_split {
        Some(shares) => {
            let (expected, found) = (others.len(), shares.0.len());
            ensure!(expected == found, Usage(format!("--tensor-split: expected {expected} shares, found {found}")));
            shares.0.clone()
        }
        None if fits.iter().any(|&n| n > 0) => fits.iter().map(|&n| n as f64).collect(),
        None => vec![1.0; others.len()],
    };
    let layers: Vec<usize> = (0..n_layer - wanted).map(|_| Placement::CPU).chain(spread(wanted, &shares)).collect();
    // What the head makes is wanted here: of another machine it would come over the network for every token.
    let last = layers.last().copied().filter(|&last| !devices[last].is_remote());
    Ok(Placement::new(devices, layers, last.unwrap_or(Placement::CPU)))
}

/// Spreads `n` layers by shares: the device of each, counted from 1.
fn spread(n: usize, shares: &[f64]) -> Vec<usize> {
    let total: f64 = shares.iter().sum();
    let mut bounds = Vec::new();
    shares.iter().fold(0.0, |sum, share| {
        bounds.push((n as f64 * (sum + share) / total).round() as usize);
        sum + share
    });
    (0..n).map(|i| 1 + bounds.iter().take_while(|&&bound| bound <= i).count()).collect()
}

/// A bar for the weights that leave this machine's memory; none where nobody watches.
pub(crate) fn progress(placement: &Placement, needs: &Needs) -> ProgressBar {
    let elsewhere =
        (0..needs.layers.len()).filter(|&il| placement.of_layer(il) != Placement::CPU).map(|il| needs.layers[il]);
    let output = if placement.of_output() != Placement::CPU { needs.output } else { 0 };
    let total = elsewhere.sum::<u64>() + output;
    if total > 0 { progress::bytes(total, "sending weights") } else { ProgressBar::hidden() }
}

/// Runs of layers that lie on one device, with the device's place in the placement.
pub(crate) fn ranges(placement: &Placement, n_layer: usize) -> Vec<(Range<usize>, usize)> {
    let layers: Vec<usize> = (0..n_layer).map(|il| placement.of_layer(il)).collect();
    let mut end = 0;
    let range = |run: &[usize]| {
        end += run.len();
        (end - run.len()..end, run[0])
    };
    layers.chunk_by(|a, b| a == b).map(range).collect()
}

/// Which device holds what, in one line; none where everything is on the CPU.
pub(crate) fn summary(placement: &Placement, n_layer: usize) -> Option<String> {
    let ranges = ranges(placement, n_layer);
    if ranges.iter().all(|(_, device)| *device == Placement::CPU) {
        return None;
    }
    let part = |(range, device): &(Range<usize>, usize)| {
        let device = &placement.devices()[*device];
        format!("layers {} to {} on {}", range.start, range.end - 1, device.label())
    };
    let parts: Vec<String> = ranges.iter().map(part).collect();
    Some(format!("{}, output head on {}", parts.join(", "), placement.devices()[placement.of_output()].name()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_are_spread_by_shares() {
        assert_eq!(spread(4, &[3.0, 1.0]), [1, 1, 1, 2]);
        assert_eq!(spread(5, &[0.0, 1.0, 1.0]), [2, 2, 2, 3, 3]);
        assert_eq!(spread(3, &[1.0]), [1, 1, 1]);
        assert!(spread(0, &[1.0]).is_empty());
    }

    #[test]
    fn memory_holds_layers_with_their_caches() {
        let needs = Needs { layers: vec![90; 4], cache: 10, scratch: 50, scores: 200, output: 50 };
        let fit = |free| needs.fit(Memory { free, total: 2000 }, true);
        assert_eq!([fit(0), fit(200), fit(210), fit(1000)], [0, 0, 1, 8]);
        assert_eq!(needs.fit(Memory { free: 1000, total: 2000 }, false), 6);
    }

    #[test]
    fn without_another_device_nothing_can_be_asked_of_one() {
        let cpu = || vec![Device::cpu(1).unwrap()];
        let (needs, params) =
            (Needs { layers: vec![1; 4], cache: 1, scratch: 1, scores: 1, output: 1 }, EngineParams::default());
        let of = |gpu_layers| place(&DeviceArgs { gpu_layers, ..DeviceArgs::default() }, cpu(), &needs, &params);
        assert!(of(Some(GpuLayers::All)).is_err() && of(Some(GpuLayers::Last(2))).is_err());
        for possible in [None, Some(GpuLayers::Auto), Some(GpuLayers::Last(0))] {
            assert!(summary(&of(possible).unwrap(), 4).is_none());
        }
        assert!(choose(&cpu(), &["CUDA7".to_owned()]).is_err_and(|e| e.is::<Usage>()));
    }
}
