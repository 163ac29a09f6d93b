//! Writes a model file that has only what a plan runs, in the order in which it runs.

use std::borrow::Cow;
use std::path::Path;

use anyhow::{Context, ensure};

use crate::gguf::{self, Array, File, TensorInfo, Writer};
use crate::model::{LACKS, LayerStep};
use crate::plan::{Half, Runs};

/// Writes the model of `file` without what `plan` does not run. Only whole layers gone: any program reads it.
pub(super) fn write(file: &File, plan: &[LayerStep], to: &Path) -> anyhow::Result<()> {
    let architecture = file.metadata().need_str("general.architecture")?;
    let whole = plan.iter().all(|step| step.runs == Runs::Full);
    ensure!(
        whole || architecture == "llama",
        "`{}`: expected a plan of whole layers for `{architecture}`, found halves",
        to.display()
    );
    let mut metadata = file.metadata().clone();
    metadata.insert(format!("{architecture}.block_count"), plan.len() as u32);
    for key in ["split.no", "split.count", "split.tensors.count"] {
        metadata.remove(key);
    }
    for (half, key) in LACKS {
        let lacks: Vec<i32> = (0..plan.len()).filter(|&i| !plan[i].has(half)).map(|i| i as i32).collect();
        metadata.remove(key);
        if !lacks.is_empty() {
            metadata.insert(key, Array::I32(lacks));
        }
    }
    let mut writer = Writer::new(metadata);
    let mut sources: Vec<&TensorInfo> = Vec::new();
    let (shared, layered): (Vec<&TensorInfo>, Vec<_>) = file.tensors().iter().partition(|t| part(&t.name).is_none());
    for tensor in shared {
        writer.tensor(&tensor.name, tensor.dims(), tensor.dtype)?;
        sources.push(tensor);
    }
    for (i, step) in plan.iter().enumerate() {
        for tensor in &layered {
            let Some((il, name)) = part(&tensor.name) else { continue };
            if il == step.il && half_of(name).is_none_or(|half| step.has(half)) {
                writer.tensor(&format!("blk.{i}.{name}"), tensor.dims(), tensor.dtype)?;
                sources.push(tensor);
            }
        }
    }
    let mut sources = sources.into_iter();
    let write = writer.write(to, |_| {
        let source = sources.next().expect("one for each tensor declared");
        Ok::<_, gguf::Error>(Cow::Borrowed(file.data(source)))
    });
    write.with_context(|| format!("cannot write `{}`", to.display()))
}

/// Layer and rest of a name such as `blk.3.attn_q.weight`.
fn part(name: &str) -> Option<(usize, &str)> {
    let (il, rest) = name.strip_prefix("blk.")?.split_once('.')?;
    Some((il.parse().ok()?, rest))
}

/// The half of a layer that a tensor belongs to.
fn half_of(name: &str) -> Option<Half> {
    match name {
        _ if name.starts_with("attn_") => Some(Half::Attention),
        _ if name.starts_with("ffn_") => Some(Half::FeedForward),
        _ => None,
    }
}
