//! `rm`: removes models from the cache, after asking.

use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;

use anyhow::ensure;
use indicatif::HumanBytes;

use super::shared::{Usage, note};
use crate::cli::RmArgs;
use crate::hub::{Hub, Removal, Spec, plan_removal};

pub(super) fn run(args: &RmArgs) -> anyhow::Result<ExitCode> {
    let hub = Hub::from_env()?;
    let specs: Vec<Spec> = args.models.iter().map(|model| Spec::parse(model)).collect::<Result<_, _>>()?;
    // All are looked for before any is removed.
    for spec in &specs {
        show(spec, &plan_removal(&hub.cache, spec)?);
    }
    if !args.yes && !agreed()? {
        note("(nothing was removed)");
        return Ok(ExitCode::FAILURE);
    }
    for spec in &specs {
        // Planned anew: what one leaves, the next may take.
        let removal = plan_removal(&hub.cache, spec)?;
        removal.carry_out()?;
        note(format_args!("(removed `{spec}`: {} freed)", HumanBytes(removal.bytes)));
    }
    Ok(ExitCode::SUCCESS)
}

fn show(spec: &Spec, removal: &Removal) {
    note(format_args!("`{spec}`: {} to be freed", HumanBytes(removal.bytes)));
    for name in &removal.names {
        note(format_args!("  {}/{name}", spec.repo));
    }
}

fn agreed() -> anyhow::Result<bool> {
    ensure!(io::stdin().is_terminal(), Usage("nobody is there to be asked\nhint: --yes removes without asking".into()));
    let mut stderr = io::stderr();
    write!(stderr, "remove? [y/N] ")?;
    stderr.flush()?;
    let mut answer = String::new();
    io::stdin().read_line(&mut answer)?;
    Ok(["y", "yes"].contains(&answer.trim().to_lowercase().as_str()))
}
