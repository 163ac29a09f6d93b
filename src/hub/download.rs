//! Owns the order of a download: list, choose, compare with what is there, make sure that it fits on the disk, fetch,
//! link, note the revision.

use std::path::{Path, PathBuf};

use super::cache::RepoFolder;
use super::choose::choose;
use super::client::{Client, Listing, RemoteFile, read_listing};
use super::fetch::{Event, Job, Watch, patiently, tell};
use super::names::is_safe;
use super::{Error, Hub, Offer, Spec};

/// A model that was asked for and is in the cache now.
#[derive(Clone, Debug)]
pub struct Pulled {
    /// The commit that the revision means.
    pub commit: String,
    /// Its files, the parts of a split model in their order.
    pub files: Vec<PulledFile>,
}

/// A file of it.
#[derive(Clone, Debug)]
pub struct PulledFile {
    /// Where it is in the snapshot.
    pub path: PathBuf,
    /// Its size.
    pub bytes: u64,
    /// Whether it was downloaded, or was there before.
    pub downloaded: bool,
}

/// Downloads the model that a spec means at a branch, tag or commit, as far as it is not in the cache. Offline, what is in
/// the cache is taken.
///
/// # Errors
/// Every [`Error`]; after [`Error::Interrupted`] and [`Error::Cut`] the next call goes on where this one ended.
pub fn pull(hub: &Hub, spec: &Spec, revision: &str, watch: &mut Watch) -> Result<Pulled, Error> {
    if !is_safe(revision) {
        let expected = "a branch, a tag or a commit";
        return Err(Error::Setting { name: "revision", expected, found: revision.to_owned() });
    }
    if hub.offline {
        return from_cache(hub, spec, revision);
    }
    let client = Client::new(hub)?;
    let listing = {
        let (client, repo, revision) = (client.clone(), spec.repo.clone(), revision.to_owned());
        patiently(watch, move || client.listing(&repo, &revision))?
    };
    let folder = hub.cache.repo(&spec.repo);
    let mut jobs = Vec::new();
    for file in chosen(&listing, spec)? {
        jobs.push(job(&client, &folder, &spec.repo, &listing.commit, file, watch)?);
    }
    let files = fetch_all(&jobs, watch)?;
    folder.set_ref(revision, &listing.commit)?;
    Ok(Pulled { commit: listing.commit, files })
}

/// The names of the files that [`pull`] would take for a spec, by a hub's answer about its repository.
///
/// # Errors
/// Where the answer is none, or offers nothing for the spec.
pub fn names_in_answer(answer: &str, spec: &Spec) -> Result<Vec<String>, Error> {
    let wrong = |(expected, found)| Error::Answer { url: spec.to_string(), expected, found };
    let listing = read_listing(answer.as_bytes()).map_err(wrong)?;
    Ok(chosen(&listing, spec)?.into_iter().map(|file| file.offer.name.clone()).collect())
}

/// The files of a list that a spec means, in the order of its parts.
fn chosen<'l>(listing: &'l Listing, spec: &Spec) -> Result<Vec<&'l RemoteFile>, Error> {
    let offers: Vec<Offer> = listing.files.iter().map(|file| file.offer.clone()).collect();
    let names = choose(&offers, spec)?;
    let file =
        |name: &String| listing.files.iter().find(|file| file.offer.name == *name).expect("chosen from the list");
    Ok(names.iter().map(file).collect())
}

fn from_cache(hub: &Hub, spec: &Spec, revision: &str) -> Result<Pulled, Error> {
    let found = hub.cache.find(spec, Some(revision))?.ok_or_else(|| Error::Offline { what: spec.to_string() })?;
    let file = |path: PathBuf| {
        let bytes = path.metadata().map_err(super::io(&path, "open"))?.len();
        Ok(PulledFile { path, bytes, downloaded: false })
    };
    let files = found.files.into_iter().map(file).collect::<Result<_, Error>>()?;
    Ok(Pulled { commit: found.commit, files })
}

fn job<'a>(
    client: &'a Client,
    folder: &'a RepoFolder,
    repo: &'a str,
    commit: &'a str,
    file: &'a RemoteFile,
    watch: &mut Watch,
) -> Result<Job<'a>, Error> {
    let name = &file.offer.name;
    let url = client.file_url(repo, commit, name);
    let head = {
        let (client, repo, commit, file) = (client.clone(), repo.to_owned(), commit.to_owned(), file.clone());
        patiently(watch, move || client.head(&repo, &commit, &file))?
    };
    Ok(Job { client, folder, repo, commit, name, url, head })
}

fn fetch_all(jobs: &[Job], watch: &mut Watch) -> Result<Vec<PulledFile>, Error> {
    let missing: Vec<&Job> = jobs.iter().filter(|job| !job.is_linked() && !job.is_done()).collect();
    if let Some(first) = missing.first() {
        let (bytes, have) = (sum(&missing, |job| job.head.bytes), sum(&missing, |job| job.have()));
        check_space(&first.folder.blobs(), bytes.saturating_sub(have))?;
        tell(watch, Event::Begin { bytes, have, files: missing.len() })?;
    }
    jobs.iter().map(|job| fetch(job, watch)).collect()
}

fn fetch(job: &Job, watch: &mut Watch) -> Result<PulledFile, Error> {
    let (path, bytes) = (job.path(), job.head.bytes);
    if job.is_linked() {
        return Ok(PulledFile { path, bytes, downloaded: false });
    }
    let downloaded = !job.is_done();
    if downloaded {
        job.run(watch)?;
    }
    job.folder.link(job.commit, job.name, &job.head.etag)?;
    Ok(PulledFile { path, bytes, downloaded })
}

fn sum(jobs: &[&Job], of: impl Fn(&Job) -> u64) -> u64 {
    jobs.iter().fold(0, |sum, job| sum.saturating_add(of(job)))
}

fn check_space(folder: &Path, needed: u64) -> Result<(), Error> {
    match free_bytes(folder) {
        Some(free) if free < needed => Err(Error::Space { folder: folder.to_owned(), needed, free }),
        _ => Ok(()),
    }
}

/// Bytes that this user may still write in a folder, which need not exist yet; `None` where the system does not tell.
#[cfg(unix)]
fn free_bytes(folder: &Path) -> Option<u64> {
    let there = folder.ancestors().find(|folder| folder.is_dir())?;
    let disk = rustix::fs::statvfs(there).ok()?;
    Some(disk.f_bavail.saturating_mul(disk.f_frsize))
}

#[cfg(not(unix))]
fn free_bytes(_folder: &Path) -> Option<u64> {
    None
}
