//! Owns reading a file of `torch.save`: a zip archive with one pickle and a member for each storage. Refuses
//! compressed members, views that are not contiguous, and what lies outside its member.

use std::collections::HashMap;
use std::io::{BufReader, Read};
use std::path::Path;
use std::sync::Arc;

use zip::read::ZipFile;
use zip::{CompressionMethod, ZipArchive};

use super::Error;
use super::pickle::{self, Fault, Tensor};
use super::shard::{MAX_TENSORS, Shard, Source, size};

/// The description of a thousand tensors takes a fifth of a megabyte.
const MAX_PICKLE_BYTES: u64 = 4 << 20;

/// A member for each tensor, and a few besides.
const MAX_MEMBERS: usize = MAX_TENSORS + 64;

/// The tensors of a file, in its order.
pub(super) fn open(shard: Arc<Shard>) -> Result<Vec<(String, Source)>, Error> {
    let path = shard.path().to_owned();
    let file = shard.file().try_clone().map_err(|e| Error::io(&path, "open", e))?;
    let mut archive = ZipArchive::new(BufReader::new(file)).map_err(|e| {
        let error = Error::invalid(&path, "content", "a zip archive, as `torch.save` writes since PyTorch 1.6", e);
        error.with_hint("save it again with a newer PyTorch, best as safetensors")
    })?;
    if archive.len() > MAX_MEMBERS {
        return Err(Error::invalid(&path, "archive", format_args!("at most {MAX_MEMBERS} members"), archive.len()));
    }
    let prefix = prefix(&path, &archive)?;
    check_byte_order(&path, &mut archive, &prefix)?;
    let description = read_member(&path, &mut archive, &format!("{prefix}data.pkl"), MAX_PICKLE_BYTES)?;
    let tensors = pickle::state_dict(&description).map_err(|Fault { expected, found }| {
        let error = Error::invalid(&path, "pickle", expected, found);
        error.with_hint("nothing of the file was run; save the tensors as safetensors")
    })?;
    let members = members(&path, &mut archive, &prefix, shard.bytes())?;
    tensors
        .into_iter()
        .map(|(name, tensor)| {
            let source = source_of(&shard, &members, &name, tensor)?;
            Ok((name, source))
        })
        .collect()
}

/// The folder inside the archive that holds everything, with its slash.
fn prefix(path: &Path, archive: &Archive) -> Result<String, Error> {
    let names = archive.file_names().filter_map(Result::ok);
    let prefixes: Vec<String> = names.filter_map(|name| name.strip_suffix("data.pkl").map(str::to_owned)).collect();
    match <[String; 1]>::try_from(prefixes) {
        Ok([prefix]) => Ok(prefix),
        Err(all) => Err(Error::invalid(path, "archive", "one member `data.pkl`", all.len())),
    }
}

fn check_byte_order(path: &Path, archive: &mut Archive, prefix: &str) -> Result<(), Error> {
    let name = format!("{prefix}byteorder");
    if archive.index_for_name(&name).is_none() {
        return Ok(()); // older than PyTorch 2.1
    }
    match read_member(path, archive, &name, 64)?.as_slice() {
        b"little" => Ok(()),
        other => Err(Error::invalid(path, "byte order", "`little`", format_args!("`{}`", other.escape_ascii()))),
    }
}

type Archive = ZipArchive<BufReader<std::fs::File>>;

fn read_member(path: &Path, archive: &mut Archive, name: &str, most: u64) -> Result<Vec<u8>, Error> {
    let invalid =
        |expected: String, found: String| Error::invalid(path, format_args!("member `{name}`"), expected, found);
    let member = archive.by_name(name).map_err(|e| invalid("a member of the archive".into(), e.to_string()))?;
    if member.size() > most {
        return Err(invalid(format!("at most {most} bytes"), member.size().to_string()));
    }
    let mut bytes = Vec::new();
    // What the member says of its size may be wrong.
    member.take(most).read_to_end(&mut bytes).map_err(|e| invalid("readable bytes".into(), e.to_string()))?;
    Ok(bytes)
}

/// Where each storage lies in the file: start and length.
fn members(
    path: &Path,
    archive: &mut Archive,
    prefix: &str,
    file_bytes: u64,
) -> Result<HashMap<String, (u64, u64)>, Error> {
    let start = format!("{prefix}data/");
    let mut members = HashMap::new();
    for i in 0..archive.len() {
        let member = archive.by_index_raw(i).map_err(|e| Error::invalid(path, "archive", "readable members", e))?;
        let name = member.name().map_err(|e| Error::invalid(path, "archive", "readable names", e))?.into_owned();
        if let Some(key) = name.strip_prefix(&start) {
            let place = place_of(path, &name, &member, file_bytes)?;
            members.insert(key.to_owned(), place);
        }
    }
    Ok(members)
}

fn place_of<R: Read + ?Sized>(
    path: &Path,
    name: &str,
    member: &ZipFile<'_, R>,
    file_bytes: u64,
) -> Result<(u64, u64), Error> {
    let invalid =
        |expected: &str, found: String| Error::invalid(path, format_args!("member `{name}`"), expected, found);
    if member.compression() != CompressionMethod::Stored {
        return Err(invalid("stored bytes", format!("bytes compressed as {}", member.compression())));
    }
    match member.data_start() {
        Some(start) if start.checked_add(member.size()).is_some_and(|end| end <= file_bytes) => {
            Ok((start, member.size()))
        }
        _ => Err(invalid("a place inside the file", format!("{} bytes outside", member.size()))),
    }
}

fn source_of(
    shard: &Arc<Shard>,
    members: &HashMap<String, (u64, u64)>,
    name: &str,
    tensor: Tensor,
) -> Result<Source, Error> {
    let invalid = |what: &str, expected: String, found: String| {
        Error::invalid(shard.path(), format_args!("{what} of tensor `{name}`"), expected, found)
    };
    let Some(element) = tensor.element else {
        return Err(invalid("elements", "floating-point numbers".into(), "integers".into()));
    };
    let Some(&(start, bytes)) = members.get(&tensor.storage) else {
        return Err(invalid("storage", format!("a member `data/{}`", tensor.storage), "none".into()));
    };
    if size(&[tensor.storage_len], element) != Some(bytes) {
        return Err(invalid(
            "storage",
            format!("{} elements of {} bytes", tensor.storage_len, element.bytes()),
            format!("{bytes} bytes"),
        ));
    }
    if !is_contiguous(&tensor) {
        let error = invalid(
            "strides",
            "those of contiguous rows".into(),
            format!("{:?} for {:?}", tensor.stride, tensor.shape),
        );
        return Err(error.with_hint("save the tensors as safetensors, which holds contiguous ones"));
    }
    let skipped = size(&[tensor.offset], element);
    let end = skipped.zip(size(&tensor.shape, element)).and_then(|(a, b)| a.checked_add(b));
    match (skipped, end) {
        (Some(skipped), Some(end)) if end <= bytes => {
            Ok(Source { element, shape: tensor.shape, shard: shard.clone(), offset: start + skipped })
        }
        _ => Err(invalid(
            "shape",
            format!("a view of {bytes} bytes"),
            format!("{:?} from element {}", tensor.shape, tensor.offset),
        )),
    }
}

/// Whether the elements lie one after the other, the last dimension innermost. The stride of a dimension of one
/// element says nothing.
fn is_contiguous(tensor: &Tensor) -> bool {
    let mut expected = Some(1usize);
    for (&d, &stride) in tensor.shape.iter().zip(&tensor.stride).rev() {
        if d != 1 && expected != Some(stride) {
            return false;
        }
        expected = expected.and_then(|n| n.checked_mul(d));
    }
    true
}
