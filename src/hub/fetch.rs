//! Owns the way of one file onto the disk: requests that never keep the caller waiting, bytes that are counted and summed up
//! as they come, going on where a download ended. Refuses to let a file appear under its name before it is proven whole.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use ring::digest::{Context, SHA1_FOR_LEGACY_USE_ONLY, SHA256};

use super::cache::RepoFolder;
use super::client::{Client, Head};
use super::{Error, io};

/// How often the caller is asked whether to go on.
const TICK: Duration = Duration::from_millis(100);

/// Downloads in a row that may bring nothing before the file is given up. The pauses between them add up to a quarter of a minute.
const MAX_FAILURES: u32 = 5;

/// The pause after the first of them; it doubles with each.
const FIRST_PAUSE: Duration = Duration::from_millis(500);

/// Bytes read at once.
const PIECE: usize = 256 << 10;

/// What happens while a model comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// So many bytes in so many files are to be downloaded; `have` are there from an earlier attempt.
    Begin {
        /// Bytes of all files that are not in the cache.
        bytes: u64,
        /// Of these, what is there already.
        have: u64,
        /// How many files.
        files: usize,
    },
    /// This file is next.
    File(&'a str),
    /// So many bytes of this file are on the disk and summed up.
    At(u64),
    /// Another program is downloading the same file.
    Waiting,
    /// The download ended early and goes on.
    Again(&'a str),
    /// Nothing new.
    Tick,
}

/// Is told what happens, several times a second, and answers whether to go on.
pub type Watch<'a> = dyn FnMut(Event<'_>) -> ControlFlow<()> + 'a;

/// Tells what happens; an error where the caller wants no more.
pub(super) fn tell(watch: &mut Watch, event: Event) -> Result<(), Error> {
    if watch(event).is_break() { Err(Error::Interrupted) } else { Ok(()) }
}

/// Does something that may take long on a thread of its own, which is left behind when the caller wants no more.
pub(super) fn patiently<T: Send + 'static>(
    watch: &mut Watch,
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    let (sender, receiver) = sync_channel(1);
    // A receiver that is gone wants no answer.
    thread::spawn(move || drop(sender.send(work())));
    next(&receiver, watch)?.expect("the thread answers before it ends")
}

/// What comes next from a thread; `None` at its end.
fn next<T>(receiver: &Receiver<T>, watch: &mut Watch) -> Result<Option<T>, Error> {
    loop {
        match receiver.recv_timeout(TICK) {
            Ok(piece) => return Ok(Some(piece)),
            Err(RecvTimeoutError::Timeout) => tell(watch, Event::Tick)?,
            Err(RecvTimeoutError::Disconnected) => return Ok(None),
        }
    }
}

/// A file to be downloaded.
pub(super) struct Job<'a> {
    pub(super) client: &'a Client,
    pub(super) folder: &'a RepoFolder,
    pub(super) repo: &'a str,
    pub(super) commit: &'a str,
    pub(super) name: &'a str,
    pub(super) url: String,
    pub(super) head: Head,
}

impl Job<'_> {
    /// Where the file is in the end.
    pub(super) fn path(&self) -> PathBuf {
        self.folder.file(self.commit, self.name)
    }

    /// Whether it is there.
    pub(super) fn is_linked(&self) -> bool {
        fs::metadata(self.path()).is_ok_and(|file| file.len() == self.head.bytes)
    }

    /// Whether the blob is there.
    pub(super) fn is_done(&self) -> bool {
        fs::metadata(self.folder.blob(&self.head.etag)).is_ok_and(|blob| blob.len() == self.head.bytes)
    }

    /// Bytes that an earlier attempt has left.
    pub(super) fn have(&self) -> u64 {
        let have = fs::metadata(self.folder.partial(&self.head.etag)).map_or(0, |partial| partial.len());
        if have > self.head.bytes { 0 } else { have }
    }

    /// Makes the blob: downloads what is missing, compares the checksum, and lets it appear under its name.
    ///
    /// # Errors
    /// [`Error::Checksum`], after which nothing is left; [`Error::Cut`] and [`Error::Interrupted`], after which the next attempt goes on.
    pub(super) fn run(&self, watch: &mut Watch) -> Result<(), Error> {
        let blobs = self.folder.blobs();
        fs::create_dir_all(&blobs).map_err(io(&blobs, "make"))?;
        let _lock = self.lock(watch)?;
        if self.is_done() {
            return Ok(());
        }
        tell(watch, Event::File(self.name))?;
        let mut partial = Partial::open(self.folder.partial(&self.head.etag), &self.head, watch)?;
        self.complete(&mut partial, watch)?;
        let path = partial.proven(self.name)?;
        let blob = self.folder.blob(&self.head.etag);
        fs::rename(&path, &blob).map_err(io(&blob, "make"))
    }

    /// Waits until no other program writes this blob. Python's `huggingface_hub` takes the same lock.
    fn lock(&self, watch: &mut Watch) -> Result<File, Error> {
        let path = self.folder.lock(&self.head.etag);
        let folder = path.parent().expect("a lock lies in a folder");
        fs::create_dir_all(folder).map_err(io(folder, "make"))?;
        let file =
            OpenOptions::new().create(true).truncate(false).write(true).open(&path).map_err(io(&path, "open"))?;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(file),
                Err(TryLockError::WouldBlock) => {
                    tell(watch, Event::Waiting)?;
                    thread::sleep(TICK);
                }
                // Some network file systems have no locks; two writers are rarer than those.
                Err(TryLockError::Error(error)) if error.kind() == std::io::ErrorKind::Unsupported => return Ok(file),
                Err(TryLockError::Error(error)) => return Err(io(&path, "lock")(error)),
            }
        }
    }

    fn complete(&self, partial: &mut Partial, watch: &mut Watch) -> Result<(), Error> {
        let mut failures = 0;
        while partial.have < self.head.bytes {
            let before = partial.have;
            let why = match self.stream(partial, watch) {
                Ok(()) => "the connection ended early".to_owned(),
                Err(error) if error.is_transient() => error.to_string(),
                Err(error) => return Err(error),
            };
            if partial.have == self.head.bytes {
                break;
            }
            failures = if partial.have > before { 0 } else { failures + 1 };
            if failures == MAX_FAILURES {
                let (have, size) = (partial.have, self.head.bytes);
                return Err(Error::Cut { name: self.name.to_owned(), why, have, size });
            }
            tell(watch, Event::Again(&why))?;
            pause(FIRST_PAUSE * 2_u32.pow(failures), watch)?;
        }
        Ok(())
    }

    /// Downloads from where the file ends until the connection does.
    fn stream(&self, partial: &mut Partial, watch: &mut Watch) -> Result<(), Error> {
        let (sender, receiver) = sync_channel(8);
        let (client, repo, url, from) = (self.client.clone(), self.repo.to_owned(), self.url.clone(), partial.have);
        thread::spawn(move || read(&client, &repo, &url, from, &sender));
        while let Some(piece) = next(&receiver, watch)? {
            match piece? {
                Piece::Begin(from) if from != partial.have => partial.restart()?,
                Piece::Begin(_) => {}
                Piece::Bytes(bytes) => partial.append(&bytes)?,
            }
            if partial.have > self.head.bytes {
                partial.restart()?;
                let (expected, found) = ("the size that the hub names", format!("more than {} bytes", self.head.bytes));
                return Err(Error::Answer { url: self.url.clone(), expected, found });
            }
            tell(watch, Event::At(partial.have))?;
        }
        Ok(())
    }
}

fn pause(length: Duration, watch: &mut Watch) -> Result<(), Error> {
    let end = Instant::now() + length;
    while Instant::now() < end {
        thread::sleep(TICK.min(end.saturating_duration_since(Instant::now())));
        tell(watch, Event::Tick)?;
    }
    Ok(())
}

/// What a reading thread hands over.
enum Piece {
    /// The bytes that follow belong here.
    Begin(u64),
    Bytes(Vec<u8>),
}

/// Reads until the file or the connection ends, or nobody listens any more.
fn read(client: &Client, repo: &str, url: &str, from: u64, sender: &SyncSender<Result<Piece, Error>>) {
    let mut download = match client.download(repo, url, from) {
        Ok(download) => download,
        Err(error) => return drop(sender.send(Err(error))),
    };
    let mut listens = sender.send(Ok(Piece::Begin(download.from))).is_ok();
    while listens {
        let mut bytes = vec![0; PIECE];
        let piece = match download.reader.read(&mut bytes) {
            Ok(0) => return,
            Ok(n) => {
                bytes.truncate(n);
                Ok(Piece::Bytes(bytes))
            }
            Err(error) => Err(Error::Network { url: url.to_owned(), why: error.to_string() }),
        };
        listens = sender.send(piece).is_ok();
    }
}

/// A file that is not yet whole.
struct Partial {
    path: PathBuf,
    file: File,
    head: Head,
    sum: Context,
    have: u64,
}

impl Partial {
    /// Opens what an earlier attempt has left, or begins.
    fn open(path: PathBuf, head: &Head, watch: &mut Watch) -> Result<Partial, Error> {
        let options = OpenOptions::new().create(true).truncate(false).read(true).write(true).open(&path);
        let file = options.map_err(io(&path, "open"))?;
        let mut partial = Partial { sum: begun_sum(head), path, file, head: head.clone(), have: 0 };
        partial.sum_up(watch)?;
        if partial.have > partial.head.bytes {
            partial.restart()?;
        }
        Ok(partial)
    }

    fn sum_up(&mut self, watch: &mut Watch) -> Result<(), Error> {
        let mut bytes = vec![0; PIECE];
        loop {
            match self.file.read(&mut bytes).map_err(io(&self.path, "read"))? {
                0 => return Ok(()),
                n => self.sum.update(&bytes[..n]),
            }
            self.have = self.file.stream_position().map_err(io(&self.path, "read"))?;
            tell(watch, Event::At(self.have))?;
        }
    }

    fn append(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.file.write_all(bytes).map_err(io(&self.path, "write"))?;
        self.sum.update(bytes);
        self.have += bytes.len() as u64;
        Ok(())
    }

    fn restart(&mut self) -> Result<(), Error> {
        self.file.set_len(0).and_then(|()| self.file.rewind()).map_err(io(&self.path, "write"))?;
        self.sum = begun_sum(&self.head);
        self.have = 0;
        Ok(())
    }

    /// Where the whole file lies, if its checksum is right; else it is deleted.
    fn proven(self, name: &str) -> Result<PathBuf, Error> {
        self.file.sync_all().map_err(io(&self.path, "write"))?;
        let found: String = self.sum.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        if found == self.head.etag {
            return Ok(self.path);
        }
        fs::remove_file(&self.path).map_err(io(&self.path, "remove"))?;
        let algorithm = if is_sha256(&self.head) { "SHA-256" } else { "git SHA-1" };
        Err(Error::Checksum { name: name.to_owned(), algorithm, expected: self.head.etag, found })
    }
}

fn is_sha256(head: &Head) -> bool {
    head.etag.len() == 64
}

/// Git sums up a header before the bytes.
fn begun_sum(head: &Head) -> Context {
    if is_sha256(head) {
        return Context::new(&SHA256);
    }
    let mut sum = Context::new(&SHA1_FOR_LEGACY_USE_ONLY);
    sum.update(format!("blob {}\0", head.bytes).as_bytes());
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proven(etag: &str, bytes: &[u8]) -> Result<(), Error> {
        let folder = tempfile::tempdir().unwrap();
        let head = Head { etag: etag.into(), bytes: bytes.len() as u64 };
        let mut go_on = |_: Event| ControlFlow::Continue(());
        let path = folder.path().join("x.incomplete");
        fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
        let mut partial = Partial::open(path.clone(), &head, &mut go_on).unwrap();
        assert_eq!(partial.have, bytes.len() as u64 / 2);
        partial.append(&bytes[bytes.len() / 2..]).unwrap();
        let proven = partial.proven("x").map(drop);
        assert_eq!(fs::read(&path).ok().as_deref(), proven.is_ok().then_some(bytes));
        proven
    }

    /// The sums are `sha256sum`'s and `git hash-object`'s of `hello\n`.
    #[test]
    fn both_kinds_of_checksums_are_compared() {
        proven("5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03", b"hello\n").unwrap();
        proven("ce013625030ba8dba906f756967f9e9ca394464a", b"hello\n").unwrap();
        let error = proven("ce013625030ba8dba906f756967f9e9ca394464b", b"hello\n").unwrap_err().to_string();
        assert!(
            error.contains("expected the git SHA-1 ce01") && error.contains("464a; the download was deleted"),
            "{error}"
        );
    }

    #[test]
    fn what_is_longer_than_the_file_is_thrown_away() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.incomplete");
        fs::write(&path, "too long").unwrap();
        let head = Head { etag: "a".repeat(64), bytes: 3 };
        let partial = Partial::open(path.clone(), &head, &mut |_| ControlFlow::Continue(())).unwrap();
        assert_eq!((partial.have, fs::metadata(path).unwrap().len()), (0, 0));
    }

    #[test]
    fn a_caller_that_wants_no_more_does_not_wait() {
        let begun = Instant::now();
        let slow = || {
            thread::sleep(Duration::from_secs(30));
            Ok(())
        };
        let error = patiently(&mut |_| ControlFlow::Break(()), slow).unwrap_err();
        assert!(matches!(error, Error::Interrupted) && begun.elapsed() < Duration::from_secs(10));
    }
}
