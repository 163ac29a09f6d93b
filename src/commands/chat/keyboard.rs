//! The keyboard of a chat. Stands between the terminal and the line editor, on a pseudo-terminal that the editor reads: the
//! editor gets a line when it asks for one. What is typed or pasted during an answer waits here, not echoed into it, and becomes
//! the next input; a byte that is no UTF-8 becomes U+FFFD. During an answer Ctrl-C stops it, and what waits is not sent off.

use std::fs::File;
use std::io::{self, IsTerminal, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::OFlags;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{InputModes, LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcsetattr};

use crate::commands::shared::interrupt;

/// What comes within this time of what came before belongs to it: nobody types so fast.
const AT_ONCE: Duration = Duration::from_millis(50);

/// Lines that come at once and are more than this are a pasted text, one input, although the terminal does not say so.
const MOST_LINES: usize = 8;

/// How long the editor may take to say what it makes of a line.
const PATIENCE: Duration = Duration::from_millis(300);

/// What may wait at most; the terminal keeps the rest.
const MOST_BYTES: usize = 64 << 20;

const PASTE: (&str, &str) = ("\x1b[200~", "\x1b[201~");
const CTRL_C: char = '\x03';
const CTRL_Z: char = '\x1a';
const CTRL_BACKSLASH: char = '\x1c';

/// See the module.
pub(super) struct Keyboard {
    terminal: Terminal,
    shared: Shared,
}

/// What the editor says to the thread that feeds it.
#[derive(Clone)]
pub(super) struct Shared {
    wants: Arc<Mutex<Wants>>,
    wake: Arc<UnixStream>,
}

/// Whether the editor reads.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Wants {
    /// It does not: an answer is being given.
    Nothing,
    Input,
    /// It got a line since then, and may want another.
    Perhaps(Instant),
    /// The chat is over.
    End,
}

impl Keyboard {
    /// Takes the place of stdin. `None` where it is no terminal, or there are no pseudo-terminals.
    pub(super) fn start() -> Option<Keyboard> {
        // The editor reads another terminal than stdin where the answers go elsewhere, and edits nothing on a dumb one.
        let dumb = std::env::var_os("TERM").is_some_and(|term| ["dumb", "cons25", "emacs"].iter().any(|t| *t == term));
        if dumb || !io::stdin().is_terminal() || !io::stdout().is_terminal() {
            return None;
        }
        Keyboard::between().ok()
    }

    fn between() -> io::Result<Keyboard> {
        let terminal = Terminal::new()?;
        let (master, slave) = pseudo_terminal(&terminal.cooked)?;
        let (wake, woken) = UnixStream::pair()?;
        woken.set_nonblocking(true)?;
        let shared = Shared { wants: Arc::new(Mutex::new(Wants::Nothing)), wake: Arc::new(wake) };
        let feeder = Feeder {
            terminal: terminal.try_clone()?,
            shared: shared.clone(),
            woken,
            master: File::from(master),
            slave: slave.try_clone()?,
            decoder: Decoder::default(),
            waiting: Waiting::default(),
            is_open: true,
        };
        rustix::stdio::dup2_stdin(&slave)?;
        terminal.make_raw();
        let restored = terminal.try_clone()?;
        interrupt::before_end(move |_| restored.make_cooked());
        std::thread::Builder::new().name("keyboard".into()).spawn(move || feeder.run())?;
        Ok(Keyboard { terminal, shared })
    }

    /// The editor begins to read an input.
    pub(super) fn begin(&self) {
        // Whoever stopped the program and went on may have changed it.
        self.terminal.make_raw();
        self.shared.say(Wants::Input);
    }

    /// The editor has an input.
    pub(super) fn end(&self) {
        self.shared.say(Wants::Nothing);
        // The editor has switched this off, and a paste during the answer shall be told from lines.
        let _ = (&self.terminal.file).write_all(b"\x1b[?2004h");
    }

    pub(super) fn shared(&self) -> Shared {
        self.shared.clone()
    }
}

impl Drop for Keyboard {
    fn drop(&mut self) {
        self.shared.say(Wants::End);
        let _ = rustix::stdio::dup2_stdin(&self.terminal.file);
        self.terminal.make_cooked();
    }
}

impl Shared {
    /// The input has more lines than the one that the editor got.
    pub(super) fn more(&self) {
        self.say(Wants::Input);
    }

    fn say(&self, wants: Wants) {
        *self.wants() = wants;
        let _ = (&*self.wake).write_all(b"!");
    }

    fn wants(&self) -> MutexGuard<'_, Wants> {
        self.wants.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The terminal itself, and how it was found.
struct Terminal {
    file: File,
    cooked: Termios,
}

impl Terminal {
    fn new() -> io::Result<Terminal> {
        let file = File::from(rustix::io::fcntl_dupfd_cloexec(io::stdin(), 3)?);
        let cooked = tcgetattr(&file)?;
        Ok(Terminal { file, cooked })
    }

    fn try_clone(&self) -> io::Result<Terminal> {
        Ok(Terminal { file: self.file.try_clone()?, cooked: self.cooked.clone() })
    }

    /// Every key comes as it is pressed, and none is shown.
    fn make_raw(&self) {
        let mut raw = self.cooked.clone();
        raw.local_modes -= LocalModes::ICANON | LocalModes::ECHO | LocalModes::IEXTEN | LocalModes::ISIG;
        raw.input_modes -= InputModes::BRKINT
            | InputModes::ICRNL
            | InputModes::INLCR
            | InputModes::INPCK
            | InputModes::ISTRIP
            | InputModes::IXON;
        raw.special_codes[SpecialCodeIndex::VMIN] = 1;
        raw.special_codes[SpecialCodeIndex::VTIME] = 0;
        let _ = tcsetattr(&self.file, OptionalActions::Drain, &raw);
    }

    fn make_cooked(&self) {
        let _ = (&self.file).write_all(b"\x1b[?2004l");
        let _ = tcsetattr(&self.file, OptionalActions::Drain, &self.cooked);
    }
}

/// A pseudo-terminal set up as the terminal is, but that nothing is echoed on it. Its ends: ours, the editor's.
fn pseudo_terminal(like: &Termios) -> io::Result<(OwnedFd, OwnedFd)> {
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY)?;
    grantpt(&master)?;
    unlockpt(&master)?;
    let name = ptsname(&master, Vec::new())?;
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let slave = rustix::fs::open(std::ffi::OsStr::from_bytes(name.as_bytes()), flags, rustix::fs::Mode::empty())?;
    let mut modes = like.clone();
    modes.local_modes -= LocalModes::ECHO | LocalModes::ECHONL;
    tcsetattr(&slave, OptionalActions::Now, &modes)?;
    Ok((master, slave))
}

/// The thread between the terminal and the editor.
struct Feeder {
    terminal: Terminal,
    shared: Shared,
    woken: UnixStream,
    master: File,
    slave: OwnedFd,
    decoder: Decoder,
    waiting: Waiting,
    is_open: bool,
}

impl Feeder {
    fn run(mut self) {
        loop {
            let wants = *self.shared.wants();
            if wants == Wants::End || self.feed(wants).is_err() || self.listen(wants).is_err() {
                return;
            }
        }
    }

    /// Waits for a key, for the editor, or for time to pass.
    fn listen(&mut self, wants: Wants) -> io::Result<()> {
        let until = match wants {
            Wants::Perhaps(since) => Some(since + PATIENCE),
            Wants::Input => self.waiting.settles(),
            Wants::Nothing | Wants::End => None,
        };
        let timeout = until.map(|until| until.saturating_duration_since(Instant::now()) + Duration::from_millis(1));
        let timeout = timeout.map(|t| Timespec { tv_sec: t.as_secs() as i64, tv_nsec: i64::from(t.subsec_nanos()) });
        let keys = self.is_open && self.waiting.len() < MOST_BYTES;
        let mut fds = vec![PollFd::new(&self.woken, PollFlags::IN)];
        if keys {
            fds.push(PollFd::new(&self.terminal.file, PollFlags::IN));
        }
        if let Err(e) = poll(&mut fds, timeout.as_ref())
            && e != rustix::io::Errno::INTR
        {
            return Err(e.into());
        }
        let has_keys = fds.get(1).is_some_and(|fd| !fd.revents().is_empty());
        while self.woken.read(&mut [0; 64]).is_ok_and(|n| n > 0) {}
        if has_keys {
            self.take();
        }
        // The key was for something else, as in a list of completions.
        let mut wants = self.shared.wants();
        if let Wants::Perhaps(since) = *wants
            && since.elapsed() >= PATIENCE
        {
            *wants = Wants::Input;
        }
        Ok(())
    }

    /// Takes what the terminal has.
    fn take(&mut self) {
        let mut bytes = [0; 4096];
        match self.terminal.file.read(&mut bytes) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Ok(n) if n > 0 => {
                let text = self.decoder.push(&bytes[..n]);
                self.typed(&text);
            }
            // The terminal is gone: as if whoever types left.
            _ => {
                self.is_open = false;
                self.waiting.push("\x15\x04");
            }
        }
    }

    fn typed(&mut self, text: &str) {
        let mut rest = text;
        while let Some(at) = rest.find([CTRL_C, CTRL_Z, CTRL_BACKSLASH]) {
            let (before, key) = rest.split_at(at);
            self.waiting.push(before);
            rest = &key[1..];
            let answers = *self.shared.wants() == Wants::Nothing;
            match key.chars().next() {
                Some(CTRL_C) if answers => {
                    self.waiting.keep();
                    interrupt::press();
                }
                Some(CTRL_Z) => self.stop(answers),
                Some(CTRL_BACKSLASH) if answers => {
                    self.terminal.make_cooked();
                    let _ = signal_hook::low_level::emulate_default_handler(signal_hook::consts::SIGQUIT);
                }
                _ => self.waiting.push(&key[..1]),
            }
        }
        self.waiting.push(rest);
    }

    /// Stops the program until the shell goes on with it. At the prompt the editor does it, which then draws its line anew.
    fn stop(&mut self, answers: bool) {
        self.terminal.make_cooked();
        if answers {
            let _ = signal_hook::low_level::raise(signal_hook::consts::SIGTSTP);
        } else {
            let _ = self.master.write_all(&[CTRL_Z as u8]);
            std::thread::sleep(Duration::from_millis(100));
        }
        self.terminal.make_raw();
    }

    /// Gives the editor what it wants of what waits, up to the end of a line.
    fn feed(&mut self, wants: Wants) -> io::Result<()> {
        if wants != Wants::Input || !self.editor_reads() {
            return Ok(());
        }
        while let Some(piece) = self.waiting.next() {
            let is_line = piece.ends_with(['\r', '\n']);
            if is_line {
                // Said before it is written: the answer of the editor comes afterwards.
                let mut wants = self.shared.wants();
                if *wants != Wants::Input {
                    self.waiting.put_back(piece);
                    return Ok(());
                }
                *wants = Wants::Perhaps(Instant::now());
            }
            self.master.write_all(piece.as_bytes())?;
            if is_line {
                break;
            }
        }
        Ok(())
    }

    /// Waits until the editor has set up its side, or keys would be taken for those of a line that the system edits.
    fn editor_reads(&self) -> bool {
        for _ in 0..500 {
            if tcgetattr(&self.slave).is_ok_and(|modes| !modes.local_modes.contains(LocalModes::ICANON)) {
                return true;
            }
            if *self.shared.wants() != Wants::Input {
                return false;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        false
    }
}

/// Makes text of bytes that come in pieces.
#[derive(Default)]
struct Decoder {
    begun: Vec<u8>,
}

impl Decoder {
    fn push(&mut self, bytes: &[u8]) -> String {
        self.begun.extend_from_slice(bytes);
        let mut text = String::new();
        let mut left = 0;
        for chunk in self.begun.utf8_chunks() {
            text += chunk.valid();
            let end = chunk.valid().len() + chunk.invalid().len();
            let is_last = left + end == self.begun.len();
            if is_last && std::str::from_utf8(chunk.invalid()).is_err_and(|e| e.error_len().is_none()) {
                // The rest of the character may follow.
                left += chunk.valid().len();
                break;
            }
            left += end;
            if !chunk.invalid().is_empty() {
                text.push(char::REPLACEMENT_CHARACTER);
            }
        }
        self.begun.drain(..left);
        text
    }
}

/// What was typed and is not yet the editor's.
#[derive(Default)]
struct Waiting {
    text: String,
    /// Where what came at once begins, and when its last part came.
    burst: Option<(usize, Instant)>,
}

impl Waiting {
    fn len(&self) -> usize {
        self.text.len()
    }

    fn push(&mut self, text: &str) {
        if text.is_empty() {
            return;
        }
        let now = Instant::now();
        match &mut self.burst {
            Some((_, last)) if now - *last < AT_ONCE => *last = now,
            _ => {
                self.join_lines();
                self.burst = Some((self.text.len(), now));
            }
        }
        self.text += text;
    }

    /// When it is clear what the last part is; `None` when it is clear already.
    fn settles(&self) -> Option<Instant> {
        let (start, last) = self.burst?;
        let burst = &self.text[start..];
        let lines = burst.trim_end_matches(LINE_ENDS).contains(LINE_ENDS) && !burst.contains(PASTE.0);
        let begins_paste = (2..PASTE.0.len()).any(|n| burst.ends_with(&PASTE.0[..n]));
        (lines || begins_paste).then_some(last + AT_ONCE)
    }

    /// Makes one pasted text of many lines that came at once.
    fn join_lines(&mut self) {
        let Some((start, _)) = self.burst.take() else { return };
        let burst = &self.text[start..];
        if burst.contains(PASTE.0) || burst.matches('\r').count().max(burst.matches('\n').count()) <= MOST_LINES {
            return;
        }
        let sent = if burst.ends_with(LINE_ENDS) { "\r" } else { "" };
        let paste = format!("{}{sent}", pasted(burst));
        self.text.replace_range(start.., &paste);
    }

    /// All of it as one text that is not sent off.
    fn keep(&mut self) {
        self.burst = None;
        let text = self.text.replace(PASTE.0, "").replace(PASTE.1, "");
        self.text = if text.is_empty() { text } else { pasted(&text) };
    }

    /// The next line with its end, or what there is of it; a pasted text by itself.
    fn next(&mut self) -> Option<String> {
        match self.settles() {
            Some(when) if when > Instant::now() => return None,
            _ => self.join_lines(),
        }
        let end = match self.text.find(PASTE.0) {
            Some(0) => self.text.find(PASTE.1)? + PASTE.1.len(),
            paste => {
                let before = &self.text[..paste.unwrap_or(self.text.len())];
                before.find(LINE_ENDS).map_or(before.len(), |at| at + 1)
            }
        };
        let piece: String = self.text.drain(..end).collect();
        Some(piece).filter(|piece| !piece.is_empty())
    }

    fn put_back(&mut self, piece: String) {
        self.text.insert_str(0, &piece);
    }
}

const LINE_ENDS: [char; 2] = ['\r', '\n'];

/// A text as a terminal brings one that is pasted.
fn pasted(text: &str) -> String {
    // What begins with this is no text, and could end the paste.
    let text = text.trim_end_matches(LINE_ENDS).replace('\x1b', "");
    format!("{}{text}{}", PASTE.0, PASTE.1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pieces(waiting: &mut Waiting) -> Vec<String> {
        std::thread::sleep(AT_ONCE);
        std::iter::from_fn(|| waiting.next()).collect()
    }

    #[test]
    fn bytes_become_text() {
        let mut decoder = Decoder::default();
        assert_eq!(decoder.push(b"caf\xe9\r"), "caf\u{fffd}\r");
        assert_eq!([&b"\xe2"[..], b"\x82", b"\xac!"].map(|bytes| decoder.push(bytes)).concat(), "€!");
        assert_eq!(decoder.push(b"\xff\xfe"), "\u{fffd}\u{fffd}");
    }

    #[test]
    fn lines_come_one_by_one_and_many_at_once_are_one_text() {
        let mut waiting = Waiting::default();
        waiting.push("one\rtwo\rthr");
        assert_eq!(pieces(&mut waiting), ["one\r", "two\r", "thr"]);
        let many = "a line\r".repeat(200);
        waiting.push(&many[..700]);
        waiting.push(&many[700..]);
        assert_eq!(waiting.next(), None, "more may come");
        assert_eq!(pieces(&mut waiting), [format!("\x1b[200~{}\x1b[201~", many.trim_end()), "\r".to_owned()]);
        waiting.push("a\r\x1b[200~b\rc\x1b[201~d\r");
        assert_eq!(pieces(&mut waiting), ["a\r", "\x1b[200~b\rc\x1b[201~", "d\r"]);
    }

    #[test]
    fn what_waits_when_an_answer_is_stopped_is_kept() {
        let mut waiting = Waiting::default();
        waiting.keep();
        assert_eq!(pieces(&mut waiting), [""; 0]);
        waiting.push("one\rtwo\r");
        waiting.keep();
        assert_eq!(pieces(&mut waiting), ["\x1b[200~one\rtwo\x1b[201~"]);
    }
}
