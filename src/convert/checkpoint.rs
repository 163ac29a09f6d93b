//! Owns which files of a folder hold the tensors, and the directory over all of them. Refuses missing files, names
//! that lead out of the folder, and tensors that an index and the files do not agree on.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use indexmap::IndexMap;

use super::json::{Document, shown};
use super::read::Kind;
use super::shard::{MAX_TENSORS, Shard, Source};
use super::{Error, safetensors, torch};

/// The tensors of a checkpoint by name, in the order of the files.
pub(super) type Tensors = IndexMap<String, Source>;

/// Finds the tensors of a folder: safetensors where there are any, else PyTorch's pickles.
pub(super) fn open(folder: &Path) -> Result<Tensors, Error> {
    let safetensors = parts(folder, "model", ".safetensors")?;
    if !safetensors.is_empty() || folder.join(SAFETENSORS_INDEX).exists() {
        return collect(folder, SAFETENSORS_INDEX, safetensors, safetensors::open);
    }
    let pickles = parts(folder, "pytorch_model", ".bin")?;
    if !pickles.is_empty() || folder.join(TORCH_INDEX).exists() {
        return collect(folder, TORCH_INDEX, pickles, torch::open);
    }
    let expected = "`model*.safetensors` or `pytorch_model*.bin`";
    Err(Error::invalid(folder, "weights", expected, "neither"))
}

const SAFETENSORS_INDEX: &str = "model.safetensors.index.json";
const TORCH_INDEX: &str = "pytorch_model.bin.index.json";

/// The names of the files that begin and end so, in order.
fn parts(folder: &Path, start: &str, end: &str) -> Result<BTreeSet<String>, Error> {
    let entries = fs::read_dir(folder).map_err(|e| Error::io(folder, "open", e))?;
    let names = entries.map(|entry| Ok(entry.map_err(|e| Error::io(folder, "read", e))?.file_name()));
    let names: Vec<_> = names.collect::<Result<_, Error>>()?;
    let names = names.into_iter().filter_map(|name| name.into_string().ok());
    Ok(names.filter(|name| name.starts_with(start) && name.ends_with(end)).collect())
}

fn collect(
    folder: &Path,
    index: &str,
    found: BTreeSet<String>,
    open: impl Fn(Arc<Shard>) -> Result<Vec<(String, Source)>, Error>,
) -> Result<Tensors, Error> {
    let index = Document::read(folder.join(index), Kind::Lists)?;
    let listed = index.as_ref().map(weight_map).transpose()?;
    let files = listed.as_ref().map_or(found, |map| map.values().cloned().collect());
    let mut tensors = Tensors::new();
    for name in files {
        let path = folder.join(&name);
        for (tensor, source) in open(Shard::open(path.clone())?)? {
            let wanted = listed.as_ref().map(|map| map.get(&tensor));
            if wanted.is_some_and(|file| file != Some(&name)) {
                let expected = format_args!("the tensors that the index lists for `{name}`");
                return Err(Error::invalid(&path, "tensors", expected, format_args!("`{tensor}` besides")));
            }
            if tensors.len() == MAX_TENSORS {
                return Err(Error::invalid(&path, "tensors", format_args!("at most {MAX_TENSORS}"), "more"));
            }
            if tensors.insert(tensor.clone(), source).is_some() {
                return Err(Error::invalid(&path, format_args!("tensor `{tensor}`"), "it once", "it twice"));
            }
        }
    }
    match listed.iter().flatten().find(|(name, _)| !tensors.contains_key(*name)) {
        Some((name, file)) => {
            let field = format!("tensor `{name}`");
            let expected = "it, for the index lists it here";
            Err(Error::invalid(&folder.join(file), field, expected, "no such tensor"))
        }
        None => Ok(tensors),
    }
}

/// The file that an index names for each tensor. Only names of files in the folder itself.
fn weight_map(index: &Document) -> Result<IndexMap<String, String>, Error> {
    let root = index.root();
    let Some(map) = root.object("weight_map")? else {
        return Err(root.error("weight_map", "an object", "no such key"));
    };
    let file_of = |(tensor, file): (&String, &serde_json::Value)| match file.as_str() {
        Some(name) if is_plain_name(name) => Ok((tensor.clone(), name.to_owned())),
        _ => Err(map.error(tensor, "the name of a file beside the index", shown(file))),
    };
    map.iter().map(file_of).collect()
}

/// Whether a name stays in the folder: no separators of any system, no way up.
fn is_plain_name(name: &str) -> bool {
    !name.is_empty() && name != "." && name != ".." && !name.contains(['/', '\\', ':', '\0'])
}
