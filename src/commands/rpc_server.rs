//! `rpc-server`: computes layers for another machine. Owns what it may be reached by.

use std::net::{SocketAddr, SocketAddrV4, TcpListener};
use std::process::ExitCode;

use anyhow::{Context, ensure};

use super::shared::{Usage, devices, note, open};
use crate::cli::RpcServerArgs;
use crate::ggml::{Device, Event, Server};

pub(super) fn run(args: &RpcServerArgs) -> anyhow::Result<ExitCode> {
    ensure!(
        args.host.is_loopback() || args.expose,
        Usage(format!(
            "--host {}: other machines could connect, and what is sent is not encrypted\nhint: add --expose if that may be, \
             and --token-file to serve only who has the token; or forward the port through ssh",
            args.host
        ))
    );
    let n_threads = open::n_threads(args.threads);
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
    let memory = args.mem.map(|mib| (mib as usize) << 20);
    let token = args.token_file.as_deref().map(devices::read_token).transpose()?;
    let address = SocketAddrV4::new(args.host, args.port);
    let listener = TcpListener::bind(address).with_context(|| format!("cannot serve at {address}"))?;
    let address = listener.local_addr().with_context(|| format!("cannot serve at {address}"))?;
    if !args.host.is_loopback() {
        note(warning(&address, token.is_some()));
    }
    let names: Vec<&str> = offered.iter().map(|device| device.name()).collect();
    note(format_args!("serving {} at {address}", names.join(", ")));
    Err(Server::new(offered, memory, token).serve(&listener, &tell).into())
}

fn warning(address: &SocketAddr, has_token: bool) -> String {
    if has_token {
        return format!(
            "warning: what goes to and from {address} is not encrypted: whoever sits on the line can read and change it"
        );
    }
    format!(
        "warning: anyone who reaches {address} can use this machine's processor and memory: there is no --token-file, and nothing \
         is encrypted"
    )
}

fn tell(event: Event) {
    match event {
        Event::Came(client) => note(format_args!("{client} came")),
        Event::Left(client) => note(format_args!("{client} left")),
        Event::Refused(client, why) => note(format_args!("{client} was sent away: {why}")),
    }
}
