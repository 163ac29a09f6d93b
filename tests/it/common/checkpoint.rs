//! The tiny checkpoints, and copies of them with changes; shared by the tests of `convert`.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value as Json, json};

/// A checkpoint of `tests/data/convert`.
pub(crate) fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/convert").join(name)
}

pub(crate) fn read_json(path: PathBuf) -> Json {
    serde_json::from_str(&fs::read_to_string(&path).expect("a file")).expect("JSON")
}

/// A copy of a checkpoint whose JSON files may be changed.
pub(crate) fn variant(name: &str, change: impl FnOnce(&mut Files)) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    for entry in fs::read_dir(data(name)).expect("a folder") {
        let path = entry.expect("an entry").path();
        fs::copy(&path, folder.path().join(path.file_name().expect("a name"))).expect("a copy");
    }
    let mut files = Files { folder: folder.path().to_owned(), changed: Vec::new() };
    change(&mut files);
    for (file, value) in files.changed {
        fs::write(folder.path().join(file), value.to_string()).expect("it can be written");
    }
    folder
}

/// The files of a copy.
pub(crate) struct Files {
    pub(crate) folder: PathBuf,
    changed: Vec<(String, Json)>,
}

impl Files {
    /// A JSON file, to be changed; null where there is none.
    pub(crate) fn entry(&mut self, file: &str) -> &mut Json {
        if !self.changed.iter().any(|(name, _)| name == file) {
            let path = self.folder.join(file);
            let value = if path.exists() { read_json(path) } else { Json::Null };
            self.changed.push((file.to_owned(), value));
        }
        self.changed.iter_mut().find(|(name, _)| name == file).map(|(_, value)| value).expect("just put there")
    }

    /// Gives the model as many rows as there are tokens, all zeros.
    pub(crate) fn resize_vocabulary(&mut self, n: usize) {
        self.entry("config.json")["vocab_size"] = json!(n);
        let path = self.folder.join("model.safetensors");
        let (mut header, data) = take_apart(&fs::read(&path).expect("weights"));
        let (old, new) = (header["model.embed_tokens.weight"].clone(), 2 * 32 * n);
        let offset = |value: &Json, i: usize| value["data_offsets"][i].as_u64().expect("an offset") as usize;
        let (start, end) = (offset(&old, 0), offset(&old, 1));
        let moved = |x: usize| if x >= end { x - end + start + new } else { x };
        for (name, entry) in header.as_object_mut().expect("an object") {
            if name != "__metadata__" {
                entry["data_offsets"] = json!([moved(offset(entry, 0)), moved(offset(entry, 1))]);
            }
        }
        header["model.embed_tokens.weight"]["shape"] = json!([n, 32]);
        header["model.embed_tokens.weight"]["data_offsets"] = json!([start, start + new]);
        let data = [&data[..start], &vec![0; new], &data[end..]].concat();
        fs::write(&path, safetensors(&header, &data)).expect("it can be written");
    }
}

/// A safetensors file: a directory and data.
pub(crate) fn safetensors(header: &Json, data: &[u8]) -> Vec<u8> {
    let header = header.to_string();
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), data].concat()
}

/// The directory and the data of a safetensors file.
pub(crate) fn take_apart(bytes: &[u8]) -> (Json, Vec<u8>) {
    let length = u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes")) as usize;
    (serde_json::from_slice(&bytes[8..8 + length]).expect("JSON"), bytes[8 + length..].to_vec())
}
