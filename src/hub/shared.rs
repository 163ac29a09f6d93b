//! Owns what is needed to free the bytes of a blob that repositories share. Since its version 2, Python's `huggingface_hub`
//! keeps bytes at `blobs/XX/HASH` beside the repositories, and the blob in a repository is a link to them; `HASH.refs` lists these links.
//! Refuses to free what a list does not clearly release: a missing or unreadable one releases nothing. Never puts anything there.

use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};

/// The file that says that a folder is such a store, and what it must hold.
const MARKER: (&str, &str) = (".huggingface-shared-blobs", "1\n");

/// The shared bytes that a blob is a link to, if it is one.
pub(super) fn shared_bytes(root: &Path, blob: &Path) -> Option<PathBuf> {
    let target = fs::read_link(blob).ok()?;
    let hash = target.file_name()?.to_str()?;
    let is_hash = hash.len() == 64 && hash.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    let store = root.join("blobs");
    let shared = is_hash.then(|| store.join(&hash[..2]).join(hash))?;
    let is_store = fs::read_to_string(store.join(MARKER.0)).is_ok_and(|text| text == MARKER.1);
    let leads_there = fs::canonicalize(blob).ok()? == fs::canonicalize(&shared).ok()?;
    (is_store && leads_there && fs::symlink_metadata(&shared).ok()?.is_file()).then_some(shared)
}

/// Removes shared bytes that no repository uses any more; whether it did.
pub(super) fn release(root: &Path, shared: &Path) -> bool {
    let with = |suffix: &str| PathBuf::from(format!("{}{suffix}", shared.display()));
    let lock = OpenOptions::new().create(true).truncate(false).write(true).open(with(".lock"));
    let Ok(lock) = lock.and_then(|lock| lock.lock().map(|()| lock)) else { return false };
    let Ok(list) = fs::read_to_string(with(".refs")) else { return false };
    let uses =
        |line: &str| Path::new(line).is_relative() && shared_bytes(root, &root.join(line)).as_deref() == Some(shared);
    let is_free = !list.lines().any(uses) && fs::remove_file(shared).is_ok();
    if is_free {
        // The list of nothing is only litter.
        let _ = fs::remove_file(with(".refs"));
    }
    drop(lock);
    is_free
}
