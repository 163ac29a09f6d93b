//! Text that people bring: prompts, JSON Lines, tables, TOML, saved conversations, from files and pipes of any system. Owns what
//! an editor or a shell puts around the words, the byte-order mark and the ends of lines, and the bound on what is read.
//! Refuses folders and devices, which end nowhere, and names the line that is no UTF-8.

use std::fs::File;
use std::io::{self, BufRead, ErrorKind, Read};
use std::path::Path;
use std::time::Duration;

/// The longest prompt, chat template or other text that a model reads as one: more than any context holds.
pub const PROMPT_BYTES: u64 = 64 << 20;

/// The longest line of JSON Lines: a prompt may be spelt as token ids.
pub const LINE_BYTES: u64 = 256 << 20;

/// The largest text that is measured on, or from which examples come.
pub const CORPUS_BYTES: u64 = 2 << 30;

/// The largest file of settings: a task, a plan, a list of tensor types.
pub const SETTINGS_BYTES: u64 = 16 << 20;

/// The largest file that this program kept for itself: a conversation, a scan.
pub const KEPT_BYTES: u64 = 256 << 20;

/// How long a named pipe may stay without anybody who writes.
const PATIENCE: Duration = Duration::from_secs(5);

/// Opens a file, or a pipe that somebody writes to.
///
/// # Errors
/// When it cannot be opened, is a folder or a device, or is a pipe to which nobody writes.
pub fn open(path: &Path) -> io::Result<File> {
    let file = options().open(path)?;
    refuse_endless(&file)?;
    wait_for_writer(&file)?;
    Ok(file)
}

/// The bytes of a file.
///
/// # Errors
/// As [`open`], and when there are more than `limit`.
pub fn read_bytes(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    bounded(open(path)?, limit)
}

/// The text of a file, without a byte-order mark, each line ended by `\n` alone.
///
/// # Errors
/// As [`read_bytes`], and when it is not UTF-8.
///
/// ```
/// # let dir = tempfile::tempdir()?;
/// let path = dir.path().join("prompt.txt");
/// std::fs::write(&path, b"\xef\xbb\xbfName a colour.\r\n")?;
/// assert_eq!(curtail::text::read(&path, curtail::text::PROMPT_BYTES)?, "Name a colour.\n");
/// # Ok::<(), std::io::Error>(())
/// ```
pub fn read(path: &Path, limit: u64) -> io::Result<String> {
    decode(read_bytes(path, limit)?)
}

/// As [`read`], of what stdin brings until its end.
///
/// # Errors
/// As [`read`].
pub fn read_stdin(limit: u64) -> io::Result<String> {
    decode(bounded(io::stdin().lock(), limit)?)
}

/// Bytes as text: see [`read`].
///
/// # Errors
/// When they are not UTF-8.
pub fn decode(bytes: Vec<u8>) -> io::Result<String> {
    refuse_utf16(&bytes)?;
    let mut text = String::from_utf8(bytes).map_err(|e| {
        let at = e.utf8_error().valid_up_to();
        let line = 1 + e.as_bytes()[..at].iter().filter(|&&byte| byte == b'\n').count();
        io::Error::new(ErrorKind::InvalidData, format!("line {line} is not valid UTF-8: {}", place(e.as_bytes(), at)))
    })?;
    if text.starts_with(MARK) {
        text.drain(..MARK.len_utf8());
    }
    // Most texts have none, and a copy of a large one costs.
    Ok(if text.contains("\r\n") { text.replace("\r\n", "\n") } else { text })
}

/// The lines that a reader brings, each without its end, the first without a byte-order mark.
pub fn lines<R: BufRead>(reader: R, limit: u64) -> Lines<R> {
    Lines { reader, limit, is_first: true, is_over: false }
}

/// See [`lines`]. A line that is not UTF-8 is an error, and the next call goes on behind it.
#[derive(Debug)]
pub struct Lines<R> {
    reader: R,
    limit: u64,
    is_first: bool,
    is_over: bool,
}

impl<R: BufRead> Iterator for Lines<R> {
    type Item = io::Result<String>;

    fn next(&mut self) -> Option<io::Result<String>> {
        let no_text = |problem| io::Error::new(ErrorKind::InvalidData, problem);
        self.next_lossy().map(|line| line.and_then(|(line, problem)| problem.map_or(Ok(line), |p| Err(no_text(p)))))
    }
}

impl<R: BufRead> Lines<R> {
    /// The next line, and what of it is not UTF-8: it reads as U+FFFD.
    ///
    /// # Errors
    /// When there is nothing more to come after it: the line is too long, or reading fails.
    pub fn next_lossy(&mut self) -> Option<io::Result<(String, Option<String>)>> {
        if self.is_over {
            return None;
        }
        let line = self.line().transpose();
        self.is_over = !matches!(line, Some(Ok(_)));
        line
    }

    fn line(&mut self) -> io::Result<Option<(String, Option<String>)>> {
        let mut bytes = Vec::new();
        self.reader.by_ref().take(self.limit + 1).read_until(b'\n', &mut bytes)?;
        if bytes.is_empty() {
            return Ok(None);
        }
        if bytes.len() as u64 > self.limit {
            return Err(too_much(self.limit));
        }
        let is_first = std::mem::take(&mut self.is_first);
        if is_first {
            refuse_utf16(&bytes)?;
        }
        for end in [b'\n', b'\r'] {
            if bytes.last() == Some(&end) {
                bytes.pop();
            }
        }
        let (line, problem) = match String::from_utf8(bytes) {
            Ok(line) => (line, None),
            Err(e) => {
                let problem = format!("not valid UTF-8: {}", place(e.as_bytes(), e.utf8_error().valid_up_to()));
                (String::from_utf8_lossy(e.as_bytes()).into_owned(), Some(problem))
            }
        };
        let without_mark = line.strip_prefix(MARK).filter(|_| is_first).map(str::to_owned);
        Ok(Some((without_mark.unwrap_or(line), problem)))
    }
}

/// The byte-order mark.
const MARK: char = '\u{feff}';

/// The byte that cannot be read, with its column.
fn place(bytes: &[u8], at: usize) -> String {
    let line = bytes[..at].rsplit(|&byte| byte == b'\n').next().unwrap_or_default();
    format!("byte 0x{:02x} in column {}", bytes[at], 1 + String::from_utf8_lossy(line).chars().count())
}

/// Some editors call it "Unicode".
fn refuse_utf16(bytes: &[u8]) -> io::Result<()> {
    let is_utf16 = bytes.starts_with(b"\xff\xfe") || bytes.starts_with(b"\xfe\xff");
    let said = "it is UTF-16, as its byte-order mark says\nhint: save it as UTF-8";
    // Lines cannot be told apart in it, so this is no error that a reader gets over.
    if is_utf16 { Err(io::Error::new(ErrorKind::Unsupported, said)) } else { Ok(()) }
}

fn bounded(reader: impl Read, limit: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    reader.take(limit + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit { Err(too_much(limit)) } else { Ok(bytes) }
}

fn too_much(limit: u64) -> io::Error {
    let most = if limit < 1 << 20 { format!("{limit} bytes") } else { format!("{} MiB", limit >> 20) };
    io::Error::new(ErrorKind::FileTooLarge, format!("expected at most {most}, found more"))
}

#[cfg(unix)]
fn options() -> std::fs::OpenOptions {
    use std::os::unix::fs::OpenOptionsExt;

    let mut options = File::options();
    // Opening a named pipe would otherwise wait for somebody who writes, for ever.
    options.read(true).custom_flags(rustix::fs::OFlags::NONBLOCK.bits() as i32);
    options
}

#[cfg(not(unix))]
fn options() -> std::fs::OpenOptions {
    let mut options = File::options();
    options.read(true);
    options
}

#[cfg(unix)]
fn refuse_endless(file: &File) -> io::Result<()> {
    use std::io::IsTerminal;
    use std::os::unix::fs::FileTypeExt;

    let kind = file.metadata()?.file_type();
    let (what, error) = match () {
        () if kind.is_dir() => ("a folder", ErrorKind::IsADirectory),
        // Whoever types ends with Ctrl-D.
        () if kind.is_char_device() && !file.is_terminal() => ("a device", ErrorKind::InvalidInput),
        () if kind.is_block_device() => ("a device", ErrorKind::InvalidInput),
        () => return Ok(()),
    };
    Err(io::Error::new(error, format!("it is {what}, not a file")))
}

#[cfg(not(unix))]
fn refuse_endless(file: &File) -> io::Result<()> {
    let is_folder = file.metadata()?.is_dir();
    if is_folder { Err(io::Error::new(ErrorKind::IsADirectory, "it is a folder, not a file")) } else { Ok(()) }
}

/// Waits until a pipe has a first byte or a writer that is done, then lets reads wait again.
#[cfg(unix)]
fn wait_for_writer(file: &File) -> io::Result<()> {
    use std::os::unix::fs::FileTypeExt;

    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};

    if file.metadata()?.file_type().is_fifo() {
        let timeout = Timespec { tv_sec: PATIENCE.as_secs() as i64, tv_nsec: 0 };
        let silent = poll(&mut [PollFd::new(file, PollFlags::IN)], Some(&timeout))? == 0;
        // A read finds the end where nobody writes, and would have to wait where somebody takes his time.
        if silent && { file }.read(&mut [0]).is_ok_and(|n| n < 2) {
            let said = format!("it is a pipe, and nobody wrote to it for {} seconds", PATIENCE.as_secs());
            return Err(io::Error::new(ErrorKind::TimedOut, said));
        }
    }
    Ok(fcntl_setfl(file, fcntl_getfl(file)? - OFlags::NONBLOCK)?)
}

#[cfg(not(unix))]
fn wait_for_writer(_: &File) -> io::Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_of_all_systems_read_alike() {
        for text in ["a\nb\n", "\u{feff}a\nb\n", "a\r\nb\r\n", "\u{feff}a\r\nb\r\n"] {
            assert_eq!(decode(text.into()).unwrap(), "a\nb\n");
            assert_eq!(lines(text.as_bytes(), 99).map(Result::unwrap).collect::<Vec<_>>(), ["a", "b"]);
        }
        assert_eq!(decode(b"a\rb".to_vec()).unwrap(), "a\rb");
        assert_eq!(decode(Vec::new()).unwrap(), "");
        assert_eq!(lines(&b"\n\r\nlast"[..], 99).map(Result::unwrap).collect::<Vec<_>>(), ["", "", "last"]);
    }

    #[test]
    fn what_is_no_utf_8_is_named() {
        let error = decode(b"a\ncaf\xe9 b".to_vec()).unwrap_err().to_string();
        assert_eq!(error, "line 2 is not valid UTF-8: byte 0xe9 in column 4");
        let read: Vec<_> = lines(&b"caf\xe9\nb"[..], 99).map(|line| line.map_err(|e| e.to_string())).collect();
        assert_eq!(read, [Err("not valid UTF-8: byte 0xe9 in column 4".to_owned()), Ok("b".to_owned())]);
        assert!(decode(b"\xff\xfea\0".to_vec()).unwrap_err().to_string().contains("UTF-16"));
        assert_eq!(lines(&b"\xff\xfea\0\n\0b\0"[..], 99).count(), 1);
    }

    #[test]
    fn nothing_is_read_without_a_bound() {
        assert!(bounded(io::repeat(b'a'), 1 << 20).unwrap_err().to_string().contains("at most 1 MiB"));
        let mut endless = lines(io::BufReader::new(io::repeat(b'a')), 1 << 20);
        assert!(endless.next().unwrap().is_err() && endless.next().is_none());
    }

    #[cfg(unix)]
    #[test]
    fn folders_and_devices_are_no_files() {
        for (path, said) in [("/", "it is a folder"), ("/dev/zero", "it is a device"), ("/dev/null", "it is a device")]
        {
            let error = read(Path::new(path), 99).unwrap_err().to_string();
            assert!(error.starts_with(said), "{path}: {error}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn a_pipe_that_somebody_writes_to_is_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pipe");
        assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
        std::thread::scope(|scope| {
            scope.spawn(|| std::fs::write(&path, "late").unwrap());
            assert_eq!(read(&path, 99).unwrap(), "late");
        });
        assert!(read(&path, 99).unwrap_err().to_string().contains("nobody wrote"));
    }
}
