//! Owns an open model file: the maps of its parts and the tensor directory over all of them. Refuses incomplete or
//! inconsistent sets of parts.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use memmap2::Mmap;

use super::header::duplicate;
use super::{Error, Header, Metadata, TensorInfo};
use crate::files;

/// An open GGUF file, or all parts of a split one. The data is mapped, not read.
#[derive(Debug)]
pub struct File {
    path: PathBuf,
    version: u32,
    metadata: Metadata,
    tensors: Vec<TensorInfo>,
    by_name: HashMap<String, usize>,
    alignment: usize,
    parts: Vec<Mapped>,
}

impl File {
    /// Opens a file and checks its header. Of a split file, `path` must name the first part
    /// (`NAME-00001-of-0000N.gguf`); the others are found beside it.
    pub fn open(path: &Path) -> Result<File, Error> {
        let (map, header) = open_part(path)?;
        let n_parts = split_u32(&header, "split.count")?.unwrap_or(1).max(1);
        let mut file = File {
            path: path.to_owned(),
            version: header.version,
            metadata: header.metadata,
            tensors: header.tensors,
            by_name: HashMap::new(),
            alignment: header.alignment,
            parts: vec![map],
        };
        if n_parts > 1 {
            file.open_others(n_parts)?;
        }
        file.index_names()?;
        Ok(file)
    }

    /// The path given to `open`.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The format version, 2 or 3.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// The key-value pairs (of a split file, the first part's).
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// All tensors, in the file's order.
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    /// The tensor with this name.
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        self.by_name.get(name).map(|&i| &self.tensors[i])
    }

    /// The bytes of a tensor of this file.
    pub fn data(&self, tensor: &TensorInfo) -> &[u8] {
        &self.parts[tensor.part][tensor.start..tensor.start + tensor.bytes]
    }

    /// Tells the system that a tensor's bytes will not be needed soon: their memory counts no more, and they are read from
    /// the file again if they are asked for.
    pub fn release(&self, tensor: &TensorInfo) {
        self.release_range(tensor, 0..tensor.bytes);
    }

    /// As [`File::release`], for some of a tensor's bytes.
    pub fn release_range(&self, tensor: &TensorInfo, bytes: Range<usize>) {
        assert!(bytes.end <= tensor.bytes, "release_range: {bytes:?} of {} bytes", tensor.bytes);
        #[cfg(unix)]
        if !bytes.is_empty() {
            let dont_need = memmap2::UncheckedAdvice::DontNeed;
            let start = tensor.start + bytes.start;
            // SAFETY: the map is of a file and never written to, so that dropped pages come back as they were.
            #[allow(unsafe_code)]
            let _ = unsafe { self.parts[tensor.part].unchecked_advise_range(dont_need, start, bytes.len()) };
        }
    }

    /// The alignment of every tensor's data (of a split file, the smallest of its parts').
    pub fn alignment(&self) -> usize {
        self.alignment
    }

    /// How many files the model consists of.
    pub fn n_parts(&self) -> usize {
        self.parts.len()
    }

    /// The files of all parts.
    pub fn part_paths(&self) -> Vec<PathBuf> {
        part_paths(&self.path)
    }

    /// Bytes of all parts together.
    pub fn file_bytes(&self) -> u64 {
        self.parts.iter().map(|map| map.len() as u64).sum()
    }

    fn open_others(&mut self, n_parts: u32) -> Result<(), Error> {
        let stem = self.check_first(n_parts)?;
        for no in 1..n_parts {
            let path = self.path.with_file_name(part_name(&stem, no, n_parts));
            let (map, header) = open_part(&path).map_err(|e| name_missing(e, &path, no, n_parts))?;
            for (key, expected) in [("split.no", no), ("split.count", n_parts)] {
                let found = split_u32(&header, key)?;
                if found != Some(expected) {
                    let found = found.map_or("no such key".into(), |n| n.to_string());
                    return Err(Error::invalid(&path, format_args!("`{key}`"), expected, found));
                }
            }
            self.alignment = self.alignment.min(header.alignment);
            self.tensors.extend(header.tensors.into_iter().map(|t| TensorInfo { part: self.parts.len(), ..t }));
            self.parts.push(map);
        }
        self.check_tensor_count()
    }

    /// Checks that the open file is the first of its set; returns the name before `-00001-of-`.
    fn check_first(&self, n_parts: u32) -> Result<String, Error> {
        let name = self.path.file_name().unwrap_or_default().to_string_lossy();
        let no = self.metadata.u32("split.no")?.unwrap_or(0);
        let stem = no.checked_add(1).and_then(|_| name.strip_suffix(&part_name("", no, n_parts)));
        if no != 0 {
            let e = Error::invalid(&self.path, "`split.no`", "0, the first part", no);
            let hint = |stem| format!("open `{}` instead", part_name(stem, 0, n_parts));
            return Err(e.with_hint(hint(stem.unwrap_or("NAME"))));
        }
        stem.map(str::to_owned).ok_or_else(|| {
            let expected = format!("`{}`, the first of {n_parts} parts", part_name("NAME", 0, n_parts));
            Error::invalid(&self.path, "file name", expected, format_args!("`{name}`"))
        })
    }

    fn check_tensor_count(&self) -> Result<(), Error> {
        let found = self.tensors.len();
        match self.metadata.u32("split.tensors.count")? {
            Some(n) if n as usize != found => {
                let found = format!("{found} in the {} parts", self.parts.len());
                Err(Error::invalid(&self.path, "`split.tensors.count`", format_args!("{n} tensors"), found))
            }
            _ => Ok(()),
        }
    }

    fn index_names(&mut self) -> Result<(), Error> {
        self.by_name.reserve(self.tensors.len());
        for (i, t) in self.tensors.iter().enumerate() {
            if self.by_name.insert(t.name.clone(), i).is_some() {
                return Err(duplicate(&self.path, "tensor", &t.name));
            }
        }
        Ok(())
    }
}

fn open_part(path: &Path) -> Result<(Mapped, Header), Error> {
    let map = Mapped::new(map(path)?, path);
    let header = Header::parse(path, &map)?;
    Ok((map, header))
}

#[allow(unsafe_code)]
fn map(path: &Path) -> Result<Mmap, Error> {
    // Asked before opening: opening a pipe would wait for a writer.
    let facts = fs::metadata(path).map_err(|e| Error::io(path, "open", e))?;
    if !facts.is_file() {
        return Err(Error::invalid(path, "file", "a regular file", files::kind(&facts)));
    }
    let file = fs::File::open(path).map_err(|e| Error::io(path, "open", e))?;
    // SAFETY: the map is private to `File` and only read; that nobody rewrites a model file while it is in use is
    // the one promise the operating system cannot enforce.
    unsafe { Mmap::map(&file) }.map_err(|e| Error::io(path, "map", e))
}

/// The files that a model consists of by the name of its first: all parts of a split one, whether or not they are there.
pub fn part_paths(first: &Path) -> Vec<PathBuf> {
    let name = first.file_name().unwrap_or_default().to_string_lossy();
    let count = || name.strip_suffix(".gguf")?.rsplit_once("-of-")?.1.parse::<u16>().ok();
    let n = count().map_or(1, u32::from);
    match name.strip_suffix(&part_name("", 0, n)) {
        Some(stem) if n > 1 => (0..n).map(|no| first.with_file_name(part_name(stem, no, n))).collect(),
        _ => vec![first.to_owned()],
    }
}

/// A map whose pages may vanish: who cuts the file while it is mapped ends the process with SIGBUS. Registered, so that
/// [`name_cut_files`] can say which file it was.
#[derive(Debug)]
struct Mapped {
    map: Mmap,
    /// What the handler writes, by its address.
    _message: Box<[u8]>,
    slot: Option<usize>,
}

impl Mapped {
    fn new(map: Mmap, path: &Path) -> Mapped {
        let message = format!(
            "error: the file became shorter while it was in use: `{}`\nhint: copy or download it again, and start anew\n",
            path.display().to_string().escape_debug()
        );
        let message = message.into_bytes().into_boxed_slice();
        let slot = cut::register(&map, &message);
        Mapped { map, _message: message, slot }
    }
}

impl std::ops::Deref for Mapped {
    type Target = Mmap;

    fn deref(&self) -> &Mmap {
        &self.map
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        if let Some(slot) = self.slot {
            cut::forget(slot);
        }
    }
}

/// Makes a model file that is cut while it is mapped an error with its name and exit code 1, for the rest of the program. For
/// programs: a library must not take over signals by itself.
pub fn name_cut_files() {
    cut::handle();
}

/// What a handler of signals may look at: numbers that others set.
#[cfg(unix)]
#[allow(unsafe_code)]
mod cut {
    use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering::SeqCst};

    /// Maps beyond these have no name in the message; few programs have as many.
    const MOST: usize = 1024;

    struct Slot {
        start: AtomicUsize,
        /// 0 while the slot is free, 1 while it is being filled.
        end: AtomicUsize,
        message: AtomicPtr<u8>,
        message_bytes: AtomicUsize,
    }

    static SLOTS: [Slot; MOST] = [const {
        Slot {
            start: AtomicUsize::new(0),
            end: AtomicUsize::new(0),
            message: AtomicPtr::new(std::ptr::null_mut()),
            message_bytes: AtomicUsize::new(0),
        }
    }; MOST];

    pub(super) fn register(map: &[u8], message: &[u8]) -> Option<usize> {
        let i = SLOTS.iter().position(|slot| slot.end.compare_exchange(0, 1, SeqCst, SeqCst).is_ok())?;
        let (slot, range) = (&SLOTS[i], map.as_ptr_range());
        slot.start.store(range.start as usize, SeqCst);
        slot.message.store(message.as_ptr().cast_mut(), SeqCst);
        slot.message_bytes.store(message.len(), SeqCst);
        slot.end.store((range.end as usize).max(1), SeqCst);
        Some(i)
    }

    pub(super) fn forget(slot: usize) {
        SLOTS[slot].start.store(usize::MAX, SeqCst);
        SLOTS[slot].end.store(0, SeqCst);
    }

    pub(super) fn handle() {
        let on_cut: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void) = on_cut;
        // SAFETY: the action is complete, and the handler does only what a handler may. That the system refuses it leaves the
        // program as it was.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = on_cut as usize;
            action.sa_flags = libc::SA_SIGINFO;
            libc::sigemptyset(&mut action.sa_mask);
            libc::sigaction(libc::SIGBUS, &action, std::ptr::null_mut());
        }
    }

    extern "C" fn on_cut(_: libc::c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
        // SAFETY: the system gives the address of the access; a slot that contains it belongs to a map that the thread at fault
        // reads, so that its message is alive. Only functions that a handler may call are called.
        unsafe {
            let at = (*info).si_addr() as usize;
            for slot in &SLOTS {
                if (slot.start.load(SeqCst)..slot.end.load(SeqCst)).contains(&at) {
                    let (message, n) = (slot.message.load(SeqCst), slot.message_bytes.load(SeqCst));
                    libc::write(2, message.cast_const().cast(), n);
                    libc::_exit(1);
                }
            }
            // Something else: as if there were no handler.
            libc::signal(libc::SIGBUS, libc::SIG_DFL);
            libc::raise(libc::SIGBUS);
        }
    }
}

#[cfg(not(unix))]
mod cut {
    pub(super) fn register(_: &[u8], _: &[u8]) -> Option<usize> {
        None
    }

    pub(super) fn forget(_: usize) {}

    pub(super) fn handle() {}
}

fn split_u32(header: &Header, key: &str) -> Result<Option<u32>, Error> {
    header.metadata.u32(key)
}

fn part_name(stem: &str, no: u32, n_parts: u32) -> String {
    format!("{stem}-{:05}-of-{n_parts:05}.gguf", no + 1)
}

/// Says that a file which is not there is a missing part.
fn name_missing(e: Error, path: &Path, no: u32, n_parts: u32) -> Error {
    match e {
        Error::Io { source, .. } if source.kind() == io::ErrorKind::NotFound => {
            let field = format!("part {} of {n_parts}", no + 1);
            Error::invalid(path, field, "a file beside the first part", "none")
        }
        e => e,
    }
}
