//! Owns the way of a file to its name, whatever is in it: it appears complete or not at all. Where the name is a device's or a
//! pipe's, it is written into, and never replaced.

pub mod unfinished;

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use unfinished::Unfinished;

/// A file on its way. Dropped before [`Closed::publish`], it leaves nothing.
#[derive(Debug)]
pub struct Output {
    file: File,
    /// Where it lies until then, and where it belongs; none for what is written into.
    way: Option<(Unfinished, PathBuf)>,
}

/// A file that is complete, under another name.
#[derive(Debug)]
pub struct Closed {
    way: Option<(Unfinished, PathBuf)>,
}

impl Output {
    /// Begins a file that shall be at `path`. A link stays one: what it leads to is replaced.
    ///
    /// # Errors
    /// Where no file can be: a directory, no folder, nobody who reads the pipe.
    pub fn create(path: &Path) -> io::Result<Output> {
        if is_special(path) {
            return Ok(Output { file: open_special(path)?, way: None });
        }
        let target = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        check_place(&target)?;
        let (file, temporary) = unfinished::beside(&target)?;
        Ok(Output { file, way: Some((temporary, target)) })
    }

    /// What to write to.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Brings to the disk what is written so far.
    pub fn sync(&self) -> io::Result<()> {
        // Pipes and terminals have nothing to bring anywhere, and say so.
        if self.way.is_some() { self.file.sync_data() } else { Ok(()) }
    }

    /// Brings all of it to the disk.
    pub fn close(self) -> io::Result<Closed> {
        if self.way.is_some() {
            self.file.sync_all()?;
        }
        Ok(Closed { way: self.way })
    }
}

impl Closed {
    /// Lets the file appear under its name, and lasting.
    pub fn publish(self) -> io::Result<()> {
        let Some((temporary, target)) = self.way else { return Ok(()) };
        temporary.finish(&target)?;
        // Only Unix lets a folder be synced; elsewhere the rename alone has to do.
        #[cfg(unix)]
        File::open(folder_of(&target)).and_then(|folder| folder.sync_all())?;
        Ok(())
    }
}

/// Refuses where no file can be.
///
/// # Errors
/// Where `path` is a directory, or lies in none.
pub fn check_place(path: &Path) -> io::Result<()> {
    if path.is_dir() || path.file_name().is_none() {
        return Err(io::Error::new(io::ErrorKind::IsADirectory, "it is a directory"));
    }
    let folder = folder_of(path);
    match fs::metadata(folder) {
        Ok(facts) if facts.is_dir() => Ok(()),
        Ok(_) => Err(io::Error::new(io::ErrorKind::NotADirectory, format!("`{}` is no directory", folder.display()))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Err(io::Error::new(error.kind(), format!("there is no directory `{}`", folder.display())))
        }
        Err(error) => Err(error),
    }
}

/// Whether two names lead to one file, through links of both kinds.
pub fn is_same(a: &Path, b: &Path) -> bool {
    #[cfg(unix)]
    if let (Ok(a), Ok(b)) = (fs::metadata(a), fs::metadata(b)) {
        use std::os::unix::fs::MetadataExt;
        return (a.dev(), a.ino()) == (b.dev(), b.ino());
    }
    let whole = |path: &Path| {
        let folder = fs::canonicalize(folder_of(path)).ok()?;
        fs::canonicalize(path).ok().or_else(|| Some(folder.join(path.file_name()?)))
    };
    whole(a).is_some_and(|a| whole(b) == Some(a))
}

/// Whether something is there that is neither a file nor a directory: a device, a pipe, a socket.
pub fn is_special(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|facts| !facts.is_file() && !facts.is_dir())
}

/// What is at a path, in words: `a directory`, `a pipe` ...
pub fn kind(facts: &fs::Metadata) -> &'static str {
    #[cfg(unix)]
    {
        use std::os::unix::fs::FileTypeExt;
        let kind = facts.file_type();
        if kind.is_fifo() {
            return "a pipe";
        }
        if kind.is_char_device() || kind.is_block_device() {
            return "a device";
        }
        if kind.is_socket() {
            return "a socket";
        }
    }
    match facts.is_dir() {
        true => "a directory",
        false if facts.is_file() => "a file",
        false => "something else",
    }
}

/// Opens a file that must be one: what has no end and what has no length is refused before it is opened, for opening a pipe
/// would wait for somebody who writes.
///
/// # Errors
/// Where it cannot be opened, or is no regular file.
pub fn open_regular(path: &Path) -> io::Result<File> {
    let facts = fs::metadata(path)?;
    if !facts.is_file() {
        let what = format!("expected a regular file, found {}", kind(&facts));
        return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
    }
    File::open(path)
}

/// The bytes of a regular file.
///
/// # Errors
/// As [`open_regular`], and where there are more than `limit`.
pub fn read_regular(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    open_regular(path)?.take(limit + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        let what = format!("expected at most {} MiB, found more", limit >> 20);
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, what));
    }
    Ok(bytes)
}

#[cfg(unix)]
fn open_special(path: &Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    use std::time::{Duration, Instant};

    use rustix::fs::{OFlags, fcntl_setfl};
    use rustix::io::Errno;

    /// How long a reader of a pipe is waited for.
    const PATIENCE: Duration = Duration::from_secs(5);

    if kind(&fs::metadata(path)?) != "a pipe" {
        return OpenOptions::new().write(true).open(path);
    }
    let end = Instant::now() + PATIENCE;
    loop {
        // Opened otherwise, it would wait for ever for somebody who reads.
        match OpenOptions::new().write(true).custom_flags(OFlags::NONBLOCK.bits() as i32).open(path) {
            Ok(file) => {
                fcntl_setfl(&file, OFlags::empty())?;
                return Ok(file);
            }
            Err(error) if error.raw_os_error() != Some(Errno::NXIO.raw_os_error()) => return Err(error),
            Err(_) if Instant::now() > end => return Err(io::Error::other("nobody reads this pipe")),
            Err(_) => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}

#[cfg(not(unix))]
fn open_special(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).open(path)
}

fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn written(path: &Path, text: &str) -> io::Result<()> {
        let output = Output::create(path)?;
        output.file().write_all(text.as_bytes())?;
        output.close()?.publish()
    }

    #[test]
    fn a_file_appears_complete_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        fs::write(&path, "old").unwrap();
        let output = Output::create(&path).unwrap();
        output.file().write_all(b"half").unwrap();
        drop(output.close().unwrap());
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        written(&path, "new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
    }

    #[test]
    fn places_where_no_file_can_be_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let error = |path: &Path| Output::create(path).unwrap_err().to_string();
        assert_eq!(error(folder.path()), "it is a directory");
        let missing = folder.path().join("a/b");
        assert_eq!(error(&missing), format!("there is no directory `{}`", missing.parent().unwrap().display()));
        fs::write(folder.path().join("a"), "").unwrap();
        assert!(error(&missing).ends_with("is no directory"), "{}", error(&missing));
    }

    #[cfg(unix)]
    #[test]
    fn links_stay_and_lead_to_what_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let [path, link, other] = ["x", "link", "other"].map(|name| folder.path().join(name));
        fs::write(&path, "old").unwrap();
        std::os::unix::fs::symlink("x", &link).unwrap();
        fs::hard_link(&path, &other).unwrap();
        assert!(is_same(&path, &link) && is_same(&path, &other));
        written(&link, "new").unwrap();
        assert_eq!((fs::read(&path).unwrap(), fs::read_link(&link).unwrap()), (b"new".to_vec(), "x".into()));
        assert!(!is_same(&path, &other), "inputs under another name stay");
        let [a, b] = ["not/../not", "not"].map(|name| folder.path().join(name));
        assert!(!is_same(&a, &path) && is_same(&b, &folder.path().join("./not")));
    }

    #[cfg(unix)]
    #[test]
    fn devices_are_written_into() {
        use std::os::unix::fs::FileTypeExt;
        written(Path::new("/dev/null"), "x").unwrap();
        assert!(fs::symlink_metadata("/dev/null").unwrap().file_type().is_char_device());
        assert!(written(Path::new("/dev/full"), "x").is_err());
        assert!(open_regular(Path::new("/dev/zero")).unwrap_err().to_string().ends_with("found a device"));
    }
}
