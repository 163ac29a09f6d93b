//! Which devices compute, and what serves and describes them.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::str::FromStr;

use clap::Args;

use super::value::{Shares, fraction_list, number, threads};
use super::{CacheArgs, ModelArgs};

/// Where the layers of a model are.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Device options")]
pub struct DeviceArgs {
    /// Layers on devices other than the CPU, counted from the last: N, all, or auto for as many as their memory holds
    /// [default: auto]
    #[arg(long, visible_alias = "ngl", visible_alias = "n-gpu-layers", value_name = "N|all|auto")]
    pub gpu_layers: Option<GpuLayers>,
    /// Devices to use, by their names in --list-devices; none for the CPU alone [default: all]
    #[arg(long, visible_alias = "dev", value_name = "NAMES", value_delimiter = ',')]
    pub device: Vec<String>,
    /// Shares of the layers that the devices get, in their order [default: by free memory]
    #[arg(long, visible_alias = "ts", value_name = "SHARES", value_parser = fraction_list)]
    pub tensor_split: Option<Shares>,
    /// Workers that compute layers: `rpc-server` on other machines, host:port, in the order of their layers. What is sent is
    /// not encrypted
    #[arg(long, value_name = "HOST:PORT,...", value_delimiter = ',')]
    pub rpc: Vec<String>,
    /// File with the secret that the workers of --rpc were started with
    #[arg(long, value_name = "FILE", requires = "rpc")]
    pub token_file: Option<PathBuf>,
    /// Show the devices and leave
    #[arg(long)]
    pub list_devices: bool,
}

impl DeviceArgs {
    /// Whether layers are to leave the CPU by all means.
    pub fn wants_layers(&self) -> bool {
        matches!(self.gpu_layers, Some(GpuLayers::All | GpuLayers::Last(1..)))
    }
}

/// How many layers leave the CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GpuLayers {
    /// As many as the devices' memory holds.
    Auto,
    /// All of them.
    All,
    /// So many of the last.
    Last(usize),
}

impl FromStr for GpuLayers {
    type Err = String;

    fn from_str(text: &str) -> Result<GpuLayers, String> {
        match text {
            "auto" => Ok(GpuLayers::Auto),
            "all" => Ok(GpuLayers::All),
            text => number(text).map(GpuLayers::Last).map_err(|_| "expected a number, all or auto".to_owned()),
        }
    }
}

/// `rpc-server`.
#[derive(Args, Debug)]
#[command(after_help = "\
The protocol is ggml's; every message is checked before ggml sees it. What is sent is not encrypted. Without --token-file, \
whoever reaches the port can use this machine's processor and memory.")]
pub struct RpcServerArgs {
    /// Address to listen at; other than this machine's own (127.0.0.1 ...) only with --expose
    #[arg(short = 'H', long, value_name = "ADDRESS", default_value_t = Ipv4Addr::LOCALHOST)]
    pub host: Ipv4Addr,
    /// Port to listen at
    #[arg(short, long, value_name = "N", default_value_t = 50052)]
    pub port: u16,
    /// Listen where other machines can connect
    #[arg(long)]
    pub expose: bool,
    /// Serve only clients that have the secret in this file too: 16 bytes or more, such as of `openssl rand -hex 32`
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// Threads that compute, at most as many as run at once [default: one per physical core]
    #[arg(short, long, value_name = "N", value_parser = threads)]
    pub threads: Option<u32>,
    /// Memory of this machine's own to offer, in MiB [default: nine tenths of what is free]
    #[arg(long, value_name = "MIB", value_parser = clap::value_parser!(u32).range(1..))]
    pub mem: Option<u32>,
    /// Devices to offer, by their names in --list-devices [default: the accelerators, or the CPU where there is none]
    #[arg(long, visible_alias = "dev", value_name = "NAMES", value_delimiter = ',')]
    pub device: Vec<String>,
}

/// `doctor`.
#[derive(Args, Debug)]
pub struct DoctorArgs {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub model: ModelArgs,
    /// Threads that compute, at most as many as run at once [default: one per physical core]
    #[arg(short, long, value_name = "N", value_parser = threads)]
    pub threads: Option<u32>,
    /// Context size in tokens; 0 takes what the model was trained with
    #[arg(short, long, value_name = "N", default_value_t = 0, value_parser = number)]
    pub ctx_size: usize,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub cache: CacheArgs,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub devices: DeviceArgs,
}
