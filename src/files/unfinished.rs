//! Files on their way: each has a temporary name beside its target until it is whole. Owns the list of them, so that a program
//! that must end at once, by a signal, leaves none of them behind.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tempfile::TempPath;

/// The temporary names in use.
static NAMES: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());

/// The name of a file that is not whole yet. Dropped, it takes the file along.
#[derive(Debug)]
pub struct Unfinished(Option<TempPath>);

/// A new file in the folder of `target`, as open as the user's other files, and its name.
///
/// # Errors
/// When the folder is not there or cannot be written.
pub fn beside(target: &Path) -> io::Result<(File, Unfinished)> {
    let folder = target.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    create(folder)
}

/// As [`beside`], in the folder for what nobody keeps.
///
/// # Errors
/// As [`beside`].
pub fn scratch() -> io::Result<(File, Unfinished)> {
    create(&std::env::temp_dir())
}

fn create(folder: &Path) -> io::Result<(File, Unfinished)> {
    // Held while the file is made: who removes all of them must not miss one.
    let mut names = names();
    let mut builder = tempfile::Builder::new();
    builder.prefix(".curtail-").suffix(".part");
    let (file, path) = builder
        .make_in(folder, |path| File::options().read(true).write(true).create_new(true).open(path))?
        .into_parts();
    names.insert(path.to_path_buf());
    Ok((file, Unfinished(Some(path))))
}

impl Unfinished {
    /// The temporary name.
    pub fn path(&self) -> &Path {
        self.0.as_deref().expect("taken only by whoever takes all")
    }

    /// The file is whole: it gets the target's name, and replaces what had it.
    ///
    /// # Errors
    /// When it cannot be renamed; then it is gone.
    pub fn finish(mut self, target: &Path) -> io::Result<()> {
        let path = self.0.take().expect("taken only here");
        let name = path.to_path_buf();
        let renamed = path.persist(target);
        let renamed = renamed.map_err(|e| e.error); // drops the name, which removes the file
        names().remove(&name);
        renamed
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if let Some(path) = self.0.take() {
            let name = path.to_path_buf();
            drop(path);
            names().remove(&name);
        }
    }
}

/// Removes every file that is not whole, and keeps others from being made: the program ends.
pub fn remove_all() {
    let names = names();
    for name in names.iter() {
        // It may have been finished just now.
        let _ = std::fs::remove_file(name);
    }
    std::mem::forget(names);
}

fn names() -> MutexGuard<'static, BTreeSet<PathBuf>> {
    NAMES.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_appears_whole_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("talk.json");
        let left = || std::fs::read_dir(folder.path()).unwrap().count();
        let (_, unfinished) = beside(&target).unwrap();
        assert!(names().contains(unfinished.path()) && left() == 1);
        let name = unfinished.path().to_path_buf();
        drop(unfinished);
        assert!(!names().contains(&name) && left() == 0);
        let (_, unfinished) = beside(&target).unwrap();
        unfinished.finish(&target).unwrap();
        assert!(target.is_file() && left() == 1);
        let (_, unfinished) = beside(&target).unwrap();
        assert!(unfinished.finish(folder.path()).is_err() && left() == 1);
    }

    #[test]
    fn a_failure_tells_the_reason_alone() {
        let error = beside(Path::new("/no-such-folder/x")).unwrap_err().to_string();
        assert_eq!(error, "No such file or directory (os error 2)");
    }
}
