//! `pull`: a model of the hub, into the cache.

use std::io::{self, Write};
use std::process::ExitCode;

use serde::Serialize;

use super::shared::hub_model::pull;
use super::shared::{note, screen};
use crate::cli::PullArgs;
use crate::hub::{self, Hub, Pulled, Spec};

pub(super) fn run(args: &PullArgs) -> anyhow::Result<ExitCode> {
    let spec = Spec::parse(&args.model)?;
    let pulled = pull(&Hub::from_env()?, &spec, &args.revision)?;
    if pulled.files.iter().all(|file| !file.downloaded) {
        note(format_args!("(`{spec}` is there already)"));
    }
    let mut out = screen::stdout();
    if args.json {
        serde_json::to_writer(&mut out, &Report::new(&spec, &pulled)).map_err(io::Error::from)?;
        writeln!(out)?;
    } else {
        writeln!(out, "{}", pulled.files[0].path.display())?;
    }
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}

#[derive(Serialize)]
struct Report<'a> {
    repo: &'a str,
    commit: &'a str,
    files: Vec<FileReport>,
}

#[derive(Serialize)]
struct FileReport {
    path: String,
    bytes: u64,
    downloaded: bool,
}

impl<'a> Report<'a> {
    fn new(spec: &'a Spec, pulled: &'a Pulled) -> Report<'a> {
        let file = |file: &hub::PulledFile| FileReport {
            path: file.path.display().to_string(),
            bytes: file.bytes,
            downloaded: file.downloaded,
        };
        Report { repo: &spec.repo, commit: &pulled.commit, files: pulled.files.iter().map(file).collect() }
    }
}
