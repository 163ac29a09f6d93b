//! Removes a model from the cache: its files in every snapshot, the blobs that no snapshot needs any more, the folders that are
//! empty then. Refuses whatever leads out of the cache.

use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::path::{Component, Path, PathBuf};

use super::cache::{RepoFolder, sub_folders};
use super::choose::choose_surely;
use super::shared::{release, shared_bytes};
use super::{Cache, Error, Offer, Part, Spec, io};

/// What would be removed.
#[derive(Clone, Debug)]
pub struct Removal {
    /// The names of the files in their repository.
    pub names: Vec<String>,
    /// Bytes that this frees.
    pub bytes: u64,
    root: PathBuf,
    folder: RepoFolder,
    /// In the snapshots.
    files: Vec<PathBuf>,
    blobs: Vec<PathBuf>,
}

/// Finds out what a spec means among all commits that are there. Without tag and file there must be one model only, or nothing
/// but downloads that were not finished.
///
/// # Errors
/// [`Error::NoneFits`], [`Error::SeveralFit`], [`Error::Outside`].
pub fn plan_removal(cache: &Cache, spec: &Spec) -> Result<Removal, Error> {
    let folder = cache.repo(&spec.repo);
    check_inside(cache.root(), &folder)?;
    let all = all_files(&folder);
    let names = match choose_surely(&offers(&all), spec) {
        Ok(names) => names,
        Err(Error::NoneFits { .. }) if spec.part == Part::Any && all.is_empty() && !partials(&folder).is_empty() => {
            Vec::new()
        }
        Err(error) => return Err(error),
    };
    let (files, kept): (Vec<_>, Vec<_>) = all.into_iter().partition(|file| names.contains(&file.name));
    let needed: BTreeSet<PathBuf> = kept.iter().filter_map(|file| blob_of(&folder, &file.path)).collect();
    let blobs: BTreeSet<PathBuf> = files.iter().filter_map(|file| blob_of(&folder, &file.path)).collect();
    let mut freed: Vec<PathBuf> = blobs.difference(&needed).cloned().collect();
    if kept.is_empty() {
        freed.extend(partials(&folder));
    }
    let plain = files.iter().map(|file| &file.path).filter(|path| path.is_file() && !path.is_symlink());
    let bytes = plain.chain(&freed).filter_map(|path| Some(fs::metadata(path).ok()?.len())).sum();
    let files = files.into_iter().map(|file| file.path).collect();
    Ok(Removal { names, bytes, root: cache.root().to_owned(), folder, files, blobs: freed })
}

impl Removal {
    /// Removes it.
    ///
    /// # Errors
    /// Where the file system refuses; what came before is removed.
    pub fn carry_out(&self) -> Result<(), Error> {
        check_inside(&self.root, &self.folder)?;
        for file in &self.files {
            fs::remove_file(file).map_err(io(file, "remove"))?;
        }
        for blob in &self.blobs {
            let shared = shared_bytes(&self.root, blob);
            fs::remove_file(blob).map_err(io(blob, "remove"))?;
            if let Some(shared) = shared {
                release(&self.root, &shared);
            }
        }
        tidy(&self.folder)
    }
}

/// A file in a snapshot.
struct SnapshotFile {
    name: String,
    path: PathBuf,
}

fn all_files(folder: &RepoFolder) -> Vec<SnapshotFile> {
    let of = |commit: String| {
        let file = |name: String| SnapshotFile { path: folder.file(&commit, &name), name };
        folder.names(&commit).into_iter().map(file).collect::<Vec<_>>()
    };
    folder.commits().into_iter().flat_map(of).collect()
}

/// What there is to choose from, each name once.
fn offers(files: &[SnapshotFile]) -> Vec<Offer> {
    let names: BTreeSet<&str> = files.iter().map(|file| file.name.as_str()).collect();
    let bytes = |name: &str| {
        let sizes =
            files.iter().filter(|file| file.name == name).filter_map(|file| Some(fs::metadata(&file.path).ok()?.len()));
        sizes.max()
    };
    names.into_iter().map(|name| Offer { name: name.to_owned(), bytes: bytes(name) }).collect()
}

/// The blob that a file in a snapshot is a link to.
fn blob_of(folder: &RepoFolder, path: &Path) -> Option<PathBuf> {
    let target = fs::read_link(path).ok()?;
    let mut steps = target.components().skip_while(|step| *step == Component::ParentDir);
    let (Some(Component::Normal(blobs)), Some(Component::Normal(etag)), None) =
        (steps.next(), steps.next(), steps.next())
    else {
        return None;
    };
    let blob = folder.blobs().join(etag);
    let same_folder = || {
        Some(fs::canonicalize(path.parent()?.join(target.parent()?)).ok()? == fs::canonicalize(folder.blobs()).ok()?)
    };
    (blobs == "blobs" && same_folder()? && fs::symlink_metadata(&blob).is_ok()).then_some(blob)
}

/// What downloads have left that nobody works on now.
fn partials(folder: &RepoFolder) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder.blobs()).into_iter().flatten().flatten().map(|entry| entry.path());
    let is_left = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let etag = name.strip_suffix(".incomplete").map(|rest| rest.split('.').next().unwrap_or(rest).to_owned());
        etag.is_some_and(|etag| {
            let lock = OpenOptions::new().write(true).open(folder.lock(&etag));
            lock.map_or(true, |lock| lock.try_lock().is_ok())
        })
    };
    entries.filter(is_left).collect()
}

/// Removes folders that hold nothing any more, and what points to them.
fn tidy(folder: &RepoFolder) -> Result<(), Error> {
    for commit in sub_folders(&folder.snapshots()) {
        remove_empty(&folder.snapshots().join(&commit));
        if !folder.snapshots().join(&commit).exists() {
            forget(&folder.refs(), &commit);
        }
    }
    let is_empty = |path: PathBuf| fs::read_dir(path).map_or(true, |mut entries| entries.next().is_none());
    if is_empty(folder.snapshots()) && is_empty(folder.blobs()) && folder.path.is_dir() {
        fs::remove_dir_all(&folder.path).map_err(io(&folder.path, "remove"))?;
    }
    Ok(())
}

/// Removes a folder if there is no file in it, however deep.
fn remove_empty(folder: &Path) {
    sub_folders(folder).iter().for_each(|sub| remove_empty(&folder.join(sub)));
    // One that is not empty stays.
    let _ = fs::remove_dir(folder);
}

/// Removes the references to a commit that is gone.
fn forget(refs: &Path, commit: &str) {
    for entry in fs::read_dir(refs).into_iter().flatten().flatten() {
        let path = entry.path();
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            forget(&path, commit);
        } else if fs::read_to_string(&path).is_ok_and(|text| text.trim() == commit) {
            // A reference to nothing is only litter.
            let _ = fs::remove_file(path);
        }
    }
}

/// Makes sure that the folders of a repository are where they seem to be.
fn check_inside(root: &Path, folder: &RepoFolder) -> Result<(), Error> {
    let Ok(real_root) = fs::canonicalize(root) else { return Ok(()) };
    for path in [folder.path.clone(), folder.blobs(), folder.snapshots()] {
        if fs::canonicalize(&path).is_ok_and(|real| !real.starts_with(&real_root)) {
            return Err(Error::Outside { path, cache: root.to_owned() });
        }
    }
    Ok(())
}

#[cfg(all(test, unix))]
mod tests {
    use super::super::cache::fill;
    use super::*;

    fn remove(cache: &Cache, spec: &str) -> Result<Removal, Error> {
        let removal = plan_removal(cache, &Spec::parse(spec).unwrap())?;
        removal.carry_out()?;
        Ok(removal)
    }

    #[test]
    fn a_model_goes_from_every_commit_and_takes_what_only_it_needs() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::at(folder.path().into());
        fill(&cache, "o/r", "c1", "m-Q4_0.gguf", "e1", b"123");
        fill(&cache, "o/r", "c2", "m-Q4_0.gguf", "e1", b"123");
        fill(&cache, "o/r", "c2", "m-Q8_0.gguf", "e2", b"12345");
        fill(&cache, "o/r", "c2", "copy.gguf", "e2", b"12345");
        cache.repo("o/r").set_ref("main", "c2").unwrap();
        cache.repo("o/r").set_ref("v1", "c1").unwrap();
        assert!(matches!(remove(&cache, "o/r"), Err(Error::SeveralFit { .. })), "which one?");
        let removal = remove(&cache, "o/r:Q4_0").unwrap();
        assert_eq!((removal.names, removal.bytes), (vec!["m-Q4_0.gguf".to_owned()], 3));
        let repo = cache.repo("o/r");
        assert!(!repo.blob("e1").exists() && repo.commits() == ["c2"] && !repo.refs().join("v1").exists());
        assert_eq!(remove(&cache, "o/r:Q8_0").unwrap().bytes, 0, "the copy needs the blob");
        assert!(repo.blob("e2").exists() && repo.refs().join("main").exists());
        fs::write(repo.partial("e9"), b"1234567").unwrap();
        assert_eq!(remove(&cache, "o/r").unwrap().bytes, 12);
        assert!(!repo.path.exists(), "nothing is left of the repository");
    }

    #[test]
    fn what_a_download_left_can_be_removed_unless_it_goes_on() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::at(folder.path().into());
        let repo = cache.repo("o/r");
        fs::create_dir_all(repo.blobs()).unwrap();
        fs::write(repo.partial("e1"), b"12").unwrap();
        fs::create_dir_all(repo.lock("e1").parent().unwrap()).unwrap();
        let lock = fs::File::create(repo.lock("e1")).unwrap();
        lock.lock().unwrap();
        assert!(matches!(remove(&cache, "o/r"), Err(Error::NoneFits { .. })));
        drop(lock);
        assert_eq!(remove(&cache, "o/r").unwrap().bytes, 2);
        assert!(!repo.path.exists());
        assert!(matches!(remove(&cache, "o/r"), Err(Error::NoneFits { .. })));
    }

    #[test]
    fn nothing_outside_of_the_cache_is_touched() {
        let (inside, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (cache, other) = (Cache::at(inside.path().into()), Cache::at(outside.path().into()));
        fill(&other, "o/r", "c1", "m.gguf", "e1", b"1");
        std::os::unix::fs::symlink(other.repo("o/r").path, cache.repo("o/r").path).unwrap();
        assert!(matches!(remove(&cache, "o/r"), Err(Error::Outside { .. })));
        // A link in a snapshot to a file elsewhere goes, the file stays.
        let precious = outside.path().join("precious");
        fs::write(&precious, b"1").unwrap();
        let commit = cache.repo("a/b").snapshots().join("c1");
        fs::create_dir_all(&commit).unwrap();
        std::os::unix::fs::symlink(&precious, commit.join("m.gguf")).unwrap();
        assert_eq!(remove(&cache, "a/b").unwrap().bytes, 0);
        assert!(precious.exists() && other.repo("o/r").blob("e1").exists() && !commit.exists());
    }

    #[test]
    fn shared_bytes_go_with_their_last_link() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::at(folder.path().into());
        let hash = "ab".repeat(32);
        let store = folder.path().join("blobs").join("ab");
        fs::create_dir_all(&store).unwrap();
        fs::write(folder.path().join("blobs/.huggingface-shared-blobs"), "1\n").unwrap();
        fs::write(store.join(&hash), b"12345").unwrap();
        fs::write(store.join(format!("{hash}.refs")), "models--o--r/blobs/e1\nmodels--o--s/blobs/e1\n").unwrap();
        for repo in ["o/r", "o/s"] {
            fill(&cache, repo, "c1", "m.gguf", "e1", b"");
            fs::remove_file(cache.repo(repo).blob("e1")).unwrap();
            std::os::unix::fs::symlink(format!("../../blobs/ab/{hash}"), cache.repo(repo).blob("e1")).unwrap();
        }
        remove(&cache, "o/r").unwrap();
        assert!(store.join(&hash).exists() && cache.models().len() == 1);
        remove(&cache, "o/s").unwrap();
        assert!(!store.join(&hash).exists() && !store.join(format!("{hash}.refs")).exists());
    }
}
