//! Owns what `--layers` means for a model: the plan it spells, from the command line or a file.

use std::borrow::Cow;
use std::path::Path;

use anyhow::Context;

use super::Usage;
use crate::cli::LayersArg;
use crate::model::{LayerStep, Model};
use crate::plan::Layers;
use crate::text;

/// The steps to run; everything that the model has where nobody asks.
pub(crate) fn steps(arg: Option<&LayersArg>, model: &Model) -> anyhow::Result<Vec<LayerStep>> {
    let (name, layers) = match arg {
        None => return Ok(model.plan().to_vec()),
        Some(LayersArg::Plan(layers)) => ("--layers".into(), Cow::Borrowed(layers)),
        Some(LayersArg::File(path)) => (path.display().to_string(), Cow::Owned(read(path)?)),
    };
    Ok(layers.steps(model.plan()).map_err(|e| Usage(format!("{name}: {e}")))?)
}

fn read(path: &Path) -> anyhow::Result<Layers> {
    let text = text::read(path, text::SETTINGS_BYTES).with_context(|| format!("cannot read `{}`", path.display()))?;
    Layers::parse(&text).map_err(|e| anyhow::anyhow!("{}: {e}", path.display()))
}
