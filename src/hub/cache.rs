//! Owns the layout of the cache, which is Python's `huggingface_hub`'s (facts from the hub's page "Hub Local Cache"):
//!
//! ```text
//! models--ORG--REPO/blobs/ETAG                the bytes; ETAG.incomplete while they come
//! models--ORG--REPO/refs/REVISION             the commit that a branch or tag meant when it was last asked for
//! models--ORG--REPO/snapshots/COMMIT/NAME     a relative link to ../../blobs/ETAG
//! .locks/models--ORG--REPO/ETAG.lock          held by whoever writes ETAG
//! ```
//!
//! Where a system has no such links, the bytes lie in the snapshot. Refuses to follow a folder that is a link.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::choose::{choose, complete_models};
use super::names::tag;
use super::{Error, Offer, Spec, io};
use crate::files::unfinished;

const REPO_PREFIX: &str = "models--";

/// A cache of repositories.
#[derive(Clone, Debug)]
pub struct Cache {
    root: PathBuf,
}

/// Where a model of the cache lies.
#[derive(Clone, Debug)]
pub struct Found {
    /// The commit that it was downloaded from.
    pub commit: String,
    /// Its file in the snapshot, or all its parts in their order.
    pub files: Vec<PathBuf>,
}

/// A model in the cache.
#[derive(Clone, Debug)]
pub struct CachedModel {
    /// What [`Cache::find`] finds it by: `org/repo:QUANT`, `org/repo/file.gguf`, or its path where another commit hides it.
    pub name: String,
    /// `org/repo`.
    pub repo: String,
    /// The commit that it was downloaded from.
    pub commit: String,
    /// Its file in the snapshot, or the first part's.
    pub path: PathBuf,
    /// Number of files.
    pub n_parts: usize,
    /// Bytes of all parts.
    pub bytes: u64,
    /// When its file was last written.
    pub modified: Option<SystemTime>,
}

impl Cache {
    /// The cache in a folder, which need not exist.
    pub fn at(root: PathBuf) -> Cache {
        Cache { root }
    }

    /// Its folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The model that a spec means among those that are there. With a revision only that one's count; without, those of the
    /// branch `main` before other commits'. `None` where it, or a part of it, is not there.
    ///
    /// # Errors
    /// [`Error::SeveralFit`].
    pub fn find(&self, spec: &Spec, revision: Option<&str>) -> Result<Option<Found>, Error> {
        let repo = self.repo(&spec.repo);
        let commits = revision.map_or_else(|| repo.commits(), |revision| vec![repo.commit_of(revision)]);
        for commit in commits {
            match choose(&repo.offers(&commit), spec) {
                Ok(names) => {
                    let files = names.iter().map(|name| repo.file(&commit, name)).collect();
                    return Ok(Some(Found { commit, files }));
                }
                Err(Error::SeveralFit { repo, spec, offers }) => return Err(Error::SeveralFit { repo, spec, offers }),
                Err(_) => {}
            }
        }
        Ok(None)
    }

    /// All models that are complete, by name. What several commits share is told once.
    pub fn models(&self) -> Vec<CachedModel> {
        let mut models: Vec<CachedModel> = self.repos().iter().flat_map(|repo| self.models_of(repo)).collect();
        models.sort_by(|a, b| a.name.cmp(&b.name));
        models
    }

    /// The folder of a repository.
    pub(super) fn repo(&self, repo: &str) -> RepoFolder {
        let folder = format!("{REPO_PREFIX}{}", repo.replace('/', "--"));
        RepoFolder { path: self.root.join(&folder), locks: self.root.join(".locks").join(folder) }
    }

    fn repos(&self) -> Vec<String> {
        let id = |name: String| Some(name.strip_prefix(REPO_PREFIX)?.replacen("--", "/", 1));
        sub_folders(&self.root).into_iter().filter_map(id).collect()
    }

    fn models_of(&self, repo: &str) -> Vec<CachedModel> {
        let folder = self.repo(repo);
        let mut models: Vec<CachedModel> = Vec::new();
        for commit in folder.commits() {
            for names in complete_models(&folder.offers(&commit)) {
                let model = self.model(repo, &commit, &names);
                let same =
                    |other: &CachedModel| fs::canonicalize(&other.path).ok() == fs::canonicalize(&model.path).ok();
                if !models.iter().any(same) {
                    models.push(model);
                }
            }
        }
        models
    }

    fn model(&self, repo: &str, commit: &str, names: &[String]) -> CachedModel {
        let folder = self.repo(repo);
        let path = folder.file(commit, &names[0]);
        let of = |name: &String| fs::metadata(folder.file(commit, name)).ok();
        CachedModel {
            name: self.name_of(repo, &names[0], &path),
            repo: repo.to_owned(),
            commit: commit.to_owned(),
            n_parts: names.len(),
            bytes: names.iter().filter_map(of).map(|file| file.len()).sum(),
            modified: of(&names[0]).and_then(|file| file.modified().ok()),
            path,
        }
    }

    /// The shortest name that leads to the file at `path`.
    fn name_of(&self, repo: &str, name: &str, path: &Path) -> String {
        let tagged = tag(name).map(|tag| format!("{repo}:{}", tag.to_uppercase()));
        let names = tagged.into_iter().chain([format!("{repo}/{name}")]);
        let leads_here = |name: &String| {
            let spec = Spec::parse(name).ok();
            spec.is_some_and(|spec| matches!(self.find(&spec, None), Ok(Some(found)) if found.files[0] == path))
        };
        names.into_iter().find(leads_here).unwrap_or_else(|| path.display().to_string())
    }
}

/// The folder of a repository in the cache, which need not exist.
#[derive(Clone, Debug)]
pub(super) struct RepoFolder {
    pub(super) path: PathBuf,
    locks: PathBuf,
}

impl RepoFolder {
    pub(super) fn blobs(&self) -> PathBuf {
        self.path.join("blobs")
    }

    pub(super) fn blob(&self, etag: &str) -> PathBuf {
        self.blobs().join(etag)
    }

    pub(super) fn partial(&self, etag: &str) -> PathBuf {
        self.blobs().join(format!("{etag}.incomplete"))
    }

    pub(super) fn lock(&self, etag: &str) -> PathBuf {
        self.locks.join(format!("{etag}.lock"))
    }

    pub(super) fn refs(&self) -> PathBuf {
        self.path.join("refs")
    }

    pub(super) fn snapshots(&self) -> PathBuf {
        self.path.join("snapshots")
    }

    /// Where a file of a commit is, or would be.
    pub(super) fn file(&self, commit: &str, name: &str) -> PathBuf {
        self.snapshots().join(commit).join(name)
    }

    /// The commits that are there: that of `main` first, then the one last written.
    pub(super) fn commits(&self) -> Vec<String> {
        let main = fs::read_to_string(self.refs().join("main")).unwrap_or_default();
        let mut commits = sub_folders(&self.snapshots());
        let written = |commit: &String| fs::metadata(self.snapshots().join(commit)).and_then(|m| m.modified()).ok();
        commits.sort_by_cached_key(|commit| (commit == main.trim(), written(commit), commit.clone()));
        commits.reverse();
        commits
    }

    /// The commit that a revision meant when it was last asked for; commits mean themselves.
    pub(super) fn commit_of(&self, revision: &str) -> String {
        let commit = fs::read_to_string(self.refs().join(revision));
        commit.map_or_else(|_| revision.to_owned(), |commit| commit.trim().to_owned())
    }

    /// The files of a commit that can be opened.
    pub(super) fn offers(&self, commit: &str) -> Vec<Offer> {
        let offer = |name: String| {
            let file = fs::metadata(self.file(commit, &name)).ok().filter(fs::Metadata::is_file)?;
            Some(Offer { name, bytes: Some(file.len()) })
        };
        self.names(commit).into_iter().filter_map(offer).collect()
    }

    /// The names of the files of a commit, also of links that lead nowhere.
    pub(super) fn names(&self, commit: &str) -> Vec<String> {
        let mut names = Vec::new();
        collect_names(&self.snapshots().join(commit), "", &mut names);
        names
    }

    /// Makes a blob appear in a snapshot. Where the system has no links, it is moved there.
    pub(super) fn link(&self, commit: &str, name: &str, etag: &str) -> Result<PathBuf, Error> {
        let path = self.file(commit, name);
        let folder = path.parent().expect("a file of a snapshot lies in a folder");
        fs::create_dir_all(folder).map_err(io(folder, "make"))?;
        let up = "../".repeat(name.split('/').count() + 1);
        let target = format!("{up}blobs/{etag}");
        make_link(Path::new(&target), &self.blob(etag), &path).map_err(io(&path, "link"))?;
        Ok(path)
    }

    /// Notes what commit a branch or tag means.
    pub(super) fn set_ref(&self, revision: &str, commit: &str) -> Result<(), Error> {
        let path = self.refs().join(revision);
        if revision == commit || fs::read_to_string(&path).is_ok_and(|old| old == commit) {
            return Ok(());
        }
        let folder = path.parent().expect("a reference lies in a folder");
        fs::create_dir_all(folder).map_err(io(folder, "make"))?;
        let (mut file, unfinished) = unfinished::beside(&path).map_err(io(folder, "write in"))?;
        std::io::Write::write_all(&mut file, commit.as_bytes()).map_err(io(&path, "write"))?;
        unfinished.finish(&path).map_err(io(&path, "write"))
    }
}

/// Another program may make the same link at the same time: each makes its own, and the last one's name stays.
#[cfg(unix)]
fn make_link(target: &Path, _blob: &Path, path: &Path) -> std::io::Result<()> {
    if fs::read_link(path).is_ok_and(|old| old == target) {
        return Ok(());
    }
    let folder = path.parent().expect("a file of a snapshot lies in a folder");
    let link = tempfile::Builder::new().make_in(folder, |link| std::os::unix::fs::symlink(target, link))?;
    Ok(link.into_temp_path().persist(path)?)
}

#[cfg(not(unix))]
fn make_link(_target: &Path, blob: &Path, path: &Path) -> std::io::Result<()> {
    fs::rename(blob, path)
}

/// The names of the folders in a folder; none where there is no such folder.
pub(super) fn sub_folders(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let folders = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    folders.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

fn collect_names(folder: &Path, prefix: &str, names: &mut Vec<String>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let (Ok(kind), Ok(name)) = (entry.file_type(), entry.file_name().into_string()) else { continue };
        let name = format!("{prefix}{name}");
        if kind.is_dir() {
            collect_names(&entry.path(), &format!("{name}/"), names);
        } else {
            names.push(name);
        }
    }
    names.sort();
}

/// Puts a file into a cache.
#[cfg(test)]
pub(super) fn fill(cache: &Cache, repo: &str, commit: &str, name: &str, etag: &str, bytes: &[u8]) {
    let folder = cache.repo(repo);
    fs::create_dir_all(folder.blobs()).unwrap();
    fs::write(folder.blob(etag), bytes).unwrap();
    folder.link(commit, name, etag).unwrap();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(cache: &Cache, text: &str) -> Result<Option<PathBuf>, Error> {
        let found = cache.find(&Spec::parse(text).unwrap(), None)?;
        Ok(found.map(|found| found.files[0].clone()))
    }

    #[test]
    fn a_blob_is_found_by_its_name_through_a_relative_link() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::at(folder.path().join("hub"));
        assert_eq!(find(&cache, "o/r").unwrap(), None);
        fill(&cache, "o/r", "c1", "sub/m-Q4_0.gguf", "e1", b"12");
        let path = find(&cache, "o/r:q4_0").unwrap().unwrap();
        assert_eq!(path, cache.root().join("models--o--r/snapshots/c1/sub/m-Q4_0.gguf"));
        #[cfg(unix)]
        assert_eq!(fs::read_link(&path).unwrap(), Path::new("../../../blobs/e1"));
        assert_eq!(fs::read(path).unwrap(), b"12");
        assert_eq!(find(&cache, "o/r:Q8_0").unwrap(), None);
        fs::remove_file(cache.repo("o/r").blob("e1")).unwrap();
        assert_eq!(find(&cache, "o/r:Q4_0").unwrap(), None, "a link to nothing is no model");
    }

    #[test]
    fn main_comes_first_and_other_commits_are_found_too() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::at(folder.path().into());
        for (commit, name, etag) in
            [("c1", "m-Q4_0.gguf", "e1"), ("c2", "m-Q4_0.gguf", "e2"), ("c3", "m-Q8_0.gguf", "e3")]
        {
            fill(&cache, "o/r", commit, name, etag, etag.as_bytes());
        }
        cache.repo("o/r").set_ref("main", "c1").unwrap();
        let found = |text: &str| fs::read(find(&cache, text).unwrap().unwrap()).unwrap();
        assert_eq!(found("o/r:Q4_0"), b"e1");
        assert_eq!(found("o/r:Q8_0"), b"e3");
        cache.repo("o/r").set_ref("main", "c2").unwrap();
        assert_eq!(found("o/r:Q4_0"), b"e2");
        let names: Vec<String> = cache.models().into_iter().map(|model| model.name).collect();
        let hidden = cache.root().join("models--o--r/snapshots/c1/m-Q4_0.gguf").display().to_string();
        assert_eq!(names, [hidden, "o/r:Q4_0".into(), "o/r:Q8_0".into()]);
    }

    #[test]
    fn a_split_model_is_there_when_all_its_parts_are() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::at(folder.path().into());
        fill(&cache, "o/r", "c1", "m-Q4_0-00001-of-00002.gguf", "e1", b"1");
        assert_eq!(find(&cache, "o/r:Q4_0").unwrap(), None);
        assert!(cache.models().is_empty());
        fill(&cache, "o/r", "c1", "m-Q4_0-00002-of-00002.gguf", "e2", b"23");
        let first = find(&cache, "o/r").unwrap().unwrap();
        assert!(first.ends_with("m-Q4_0-00001-of-00002.gguf"));
        let models = cache.models();
        assert_eq!((models.len(), models[0].n_parts, models[0].bytes), (1, 2, 3));
    }

    #[test]
    fn names_lead_to_what_they_name() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::at(folder.path().into());
        for (i, name) in
            ["a-Q4_0.gguf", "b-Q4_0.gguf", "b-q8_0.gguf", "plain.gguf", "mmproj-F16.gguf"].iter().enumerate()
        {
            fill(&cache, "o/r", "c1", name, &format!("e{i}"), name.as_bytes());
        }
        // The same blob of another commit is no other model.
        let repo = cache.repo("o/r");
        repo.link("c0", "a-Q4_0.gguf", "e0").unwrap();
        repo.set_ref("main", "c1").unwrap();
        let models = cache.models();
        let names: Vec<&str> = models.iter().map(|model| model.name.as_str()).collect();
        assert_eq!(names, ["o/r/a-Q4_0.gguf", "o/r/b-Q4_0.gguf", "o/r/plain.gguf", "o/r:Q8_0"]);
        for model in &models {
            assert_eq!(find(&cache, &model.name).unwrap().as_ref(), Some(&model.path));
        }
        assert!(matches!(find(&cache, "o/r:Q4_0"), Err(Error::SeveralFit { .. })), "two fit");
        assert!(find(&cache, "o/r:Q5_0").unwrap().is_none(), "none fits");
    }
}
