//! `rpc-server`: computes layers for another machine. Owns what it may be reached by.

use std::net::SocketAddrV4;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, ensure};

use super::{Usage, devices, engine, note};
use crate::cli::RpcServerArgs;
use crate::ggml::{self, Device};

pub(super) fn run(args: &RpcServerArgs) -> anyhow::Result<ExitCode> {
    ensure!(
        args.host.is_loopback() || args.expose,
        Usage(format!(
            "--host {}: other machines could connect, and the protocol knows no passwords: whoever connects may use this \
             machine's memory\nhint: add --expose if everyone who reaches the address may do that; or forward the port \
             through ssh",
            args.host
        ))
    );
    let n_threads = engine::n_threads(args.threads);
    let cpu = Device::cpu(n_threads).context("cannot use the processor")?;
    let only_cpu = !args.device.is_empty() && args.device.iter().all(|name| name.eq_ignore_ascii_case("CPU"));
    let mut all = if only_cpu { Vec::new() } else { devices::local()? };
    let offered = if !args.device.is_empty() {
        all.push(cpu);
        devices::choose(&all, &args.device)?
    } else if all.is_empty() {
        vec![cpu]
    } else {
        all
    };
    ensure!(!offered.is_empty(), Usage("--device: a worker without a device is of no use".into()));
    if args.expose && !args.host.is_loopback() {
        note(format_args!(
            "warning: anyone who reaches {}:{} can use this machine's memory: the protocol is not authenticated",
            args.host, args.port
        ));
    }
    let offered: Vec<&Device> = offered.iter().map(Arc::as_ref).collect();
    Err(ggml::serve(SocketAddrV4::new(args.host, args.port), n_threads, &offered).into())
}
