//! Owns the memory that clients take, named by handles that mean nothing outside their connection. Refuses more than the
//! machine has left, and ranges that do not lie inside one buffer.

use std::collections::HashMap;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use memmap2::MmapMut;

use super::message::Described;
use super::shape::Shape;
use super::{Parting, wrong};
use crate::ggml::{Device, sys};

/// Buffers of one connection: a system maps only so many pieces of memory for a process.
const MAX_BUFFERS: usize = 8192;

/// Kernels read some bytes past the end of a row, and GPUs pad rows.
pub(super) const PAST_THE_END: usize = 1 << 16;

/// Bytes that go through this process's memory at once, on their way to a device's.
const PIECE: usize = 1 << 20;

/// What all clients together may take of this process's memory.
pub(super) struct Budget {
    limit: usize,
    used: AtomicUsize,
}

/// Taken from a budget, until it is dropped.
pub(super) struct Charge {
    budget: Arc<Budget>,
    bytes: usize,
}

impl Budget {
    /// Most of what is free now.
    pub(super) fn of_this_machine(total: usize) -> Arc<Budget> {
        let free = available().unwrap_or(total);
        Budget::of(free - free / 10)
    }

    /// So many bytes.
    pub(super) fn of(limit: usize) -> Arc<Budget> {
        Arc::new(Budget { limit, used: AtomicUsize::new(0) })
    }

    /// None if there is not enough left.
    pub(super) fn take(self: &Arc<Budget>, bytes: usize) -> Option<Charge> {
        // Others than this process's clients need memory too.
        if available().is_some_and(|free| bytes > free) {
            return None;
        }
        let more = |used: usize| used.checked_add(bytes).filter(|&sum| sum <= self.limit);
        self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok()?;
        Some(Charge { budget: self.clone(), bytes })
    }

    pub(super) fn left(&self) -> usize {
        self.limit - self.used.load(Ordering::Relaxed)
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.budget.used.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// Bytes that can be taken without driving anything out of memory, by the system and by this process's control group.
fn available() -> Option<usize> {
    let read = |path: &str| std::fs::read_to_string(path).ok();
    let field = |text: &str, name: &str| text.lines().find_map(|line| first_number(line.strip_prefix(name)?));
    let free = field(&read("/proc/meminfo")?, "MemAvailable:")?.checked_mul(1024)?;
    let of_group = || {
        let number = |name: &str| first_number(&read(&format!("/sys/fs/cgroup/{name}"))?);
        let stat = read("/sys/fs/cgroup/memory.stat")?;
        // Files in memory give way.
        let files = field(&stat, "active_file ")? + field(&stat, "inactive_file ")?;
        Some(number("memory.max")?.saturating_sub(number("memory.current")?.saturating_sub(files)))
    };
    Some(of_group().map_or(free, |of_group| of_group.min(free)))
}

fn first_number(text: &str) -> Option<usize> {
    text.split_whitespace().next()?.parse().ok()
}

/// One client's buffers.
pub(super) struct Buffers {
    budget: Arc<Budget>,
    held: HashMap<u64, Buffer>,
    next_handle: u64,
    next_base: u64,
}

struct Buffer {
    device: u32,
    /// What the client takes for its first address: an address of this process would tell where its memory is.
    base: u64,
    bytes: usize,
    /// ggml's object; it goes before the memory.
    raw: Raw,
    host: Option<(MmapMut, Charge)>,
}

struct Raw(NonNull<sys::ggml_backend_buffer>);

// SAFETY: a buffer may be used from any thread, by one at a time: by the thread of its connection.
unsafe impl Send for Raw {}

impl Drop for Raw {
    fn drop(&mut self) {
        // SAFETY: this is the only owner.
        unsafe { sys::ggml_backend_buffer_free(self.0.as_ptr()) }
    }
}

/// Bytes inside a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Place {
    pub(super) handle: u64,
    pub(super) device: u32,
    pub(super) offset: usize,
    pub(super) bytes: usize,
}

impl Buffers {
    pub(super) fn new(budget: Arc<Budget>) -> Buffers {
        const FIRST: u64 = 1 << 44;
        Buffers { budget, held: HashMap::new(), next_handle: 1, next_base: FIRST }
    }

    /// Takes memory, which begins as zeros: what others left there is none of this client's business. None without enough.
    pub(super) fn allocate(&mut self, index: u32, device: &Device, bytes: u64) -> Option<u64> {
        /// More than any alignment.
        const STEP: u64 = 1 << 20;
        let bytes = usize::try_from(bytes).ok().filter(|_| self.held.len() < MAX_BUFFERS)?;
        let base = self.next_base;
        let behind = base.checked_add(bytes as u64)?.checked_next_multiple_of(STEP)?.checked_add(STEP)?;
        let (raw, host) = if device.is_cpu() { self.map(bytes)? } else { (on_device(device, bytes)?, None) };
        self.next_base = behind;
        let handle = self.next_handle;
        self.next_handle += 1;
        self.held.insert(handle, Buffer { device: index, base, bytes, raw, host });
        Some(handle)
    }

    fn map(&self, bytes: usize) -> Option<(Raw, Option<(MmapMut, Charge)>)> {
        let mapped = bytes.checked_add(PAST_THE_END)?;
        let charge = self.budget.take(mapped)?;
        let mut map = MmapMut::map_anon(mapped).ok()?;
        // SAFETY: the memory is aligned to a page, has so many bytes, and is unmapped after the buffer is freed.
        let raw = unsafe { sys::ggml_backend_cpu_buffer_from_ptr(map.as_mut_ptr().cast(), bytes) };
        Some((NonNull::new(raw).map(Raw)?, Some((map, charge))))
    }

    pub(super) fn base(&self, handle: u64) -> Result<u64, Parting> {
        self.get(handle).map(|buffer| buffer.base)
    }

    pub(super) fn free(&mut self, handle: u64) -> Result<(), Parting> {
        self.held.remove(&handle).map(drop).ok_or_else(|| no_buffer(handle))
    }

    pub(super) fn clear(&mut self, handle: u64, value: u8) -> Result<(), Parting> {
        let buffer = self.get(handle)?;
        if buffer.bytes > 0 {
            // SAFETY: the buffer is alive.
            unsafe { sys::ggml_backend_buffer_clear(buffer.raw.0.as_ptr(), value) };
        }
        Ok(())
    }

    /// Bytes that it has.
    pub(super) fn held_bytes(&self) -> usize {
        self.held.values().map(|buffer| buffer.bytes).sum()
    }

    fn get(&self, handle: u64) -> Result<&Buffer, Parting> {
        self.held.get(&handle).ok_or_else(|| no_buffer(handle))
    }

    /// Where a tensor lies, all of it.
    pub(super) fn locate(&self, tensor: &Described, shape: &Shape) -> Result<Place, Parting> {
        let buffer = self.get(tensor.buffer)?;
        let offset = tensor.data.checked_sub(buffer.base).and_then(|offset| usize::try_from(offset).ok());
        let bytes = shape.bytes;
        match offset {
            Some(offset) if offset <= buffer.bytes && bytes <= buffer.bytes - offset => {
                Ok(Place { handle: tensor.buffer, device: buffer.device, offset, bytes })
            }
            _ => Err(wrong(format!("a tensor of {bytes} bytes outside its buffer of {} bytes", buffer.bytes))),
        }
    }

    /// Bytes from a place's first to the end of its buffer.
    pub(super) fn room(&self, place: Place) -> usize {
        self.get(place.handle).map_or(0, |buffer| buffer.bytes.saturating_sub(place.offset))
    }

    /// ggml's buffer and the address of a place.
    pub(super) fn raw(&self, place: Place) -> Result<(sys::ggml_backend_buffer_t, *mut u8), Parting> {
        let buffer = self.get(place.handle)?;
        let raw = buffer.raw.0.as_ptr();
        // SAFETY: the buffer is alive; places lie inside it.
        Ok((raw, unsafe { sys::ggml_backend_buffer_get_base(raw).cast::<u8>().wrapping_add(place.offset) }))
    }

    /// Writes bytes to a place.
    pub(super) fn write(&mut self, place: Place, bytes: &[u8]) -> Result<(), Parting> {
        assert_eq!(place.bytes, bytes.len(), "bytes of another length");
        let buffer = self.held.get_mut(&place.handle).ok_or_else(|| no_buffer(place.handle))?;
        match &mut buffer.host {
            Some((map, _)) => map[place.offset..place.offset + place.bytes].copy_from_slice(bytes),
            // SAFETY: the place lies inside the buffer, and there are so many bytes.
            None => buffer.with_bytes(place, |tensor| unsafe {
                sys::ggml_backend_tensor_set(tensor, bytes.as_ptr().cast(), 0, bytes.len());
            }),
        }
        Ok(())
    }

    /// Sets the bytes of a place to one value.
    pub(super) fn fill(&mut self, place: Place, value: u8) -> Result<(), Parting> {
        let buffer = self.held.get_mut(&place.handle).ok_or_else(|| no_buffer(place.handle))?;
        match &mut buffer.host {
            Some((map, _)) => map[place.offset..place.offset + place.bytes].fill(value),
            // SAFETY: the place lies inside the buffer.
            None => buffer.with_bytes(place, |tensor| unsafe {
                sys::ggml_backend_tensor_memset(tensor, value, 0, place.bytes);
            }),
        }
        Ok(())
    }

    /// Reads the bytes of a place.
    pub(super) fn read(&self, place: Place, bytes: &mut [u8]) -> Result<(), Parting> {
        assert_eq!(place.bytes, bytes.len(), "bytes of another length");
        let buffer = self.get(place.handle)?;
        match &buffer.host {
            Some((map, _)) => bytes.copy_from_slice(&map[place.offset..place.offset + place.bytes]),
            // SAFETY: the place lies inside the buffer, and there is room for so many bytes.
            None => buffer.with_bytes(place, |tensor| unsafe {
                sys::ggml_backend_tensor_get(tensor, bytes.as_mut_ptr().cast(), 0, bytes.len());
            }),
        }
        Ok(())
    }

    /// Copies from one place to another of the same length.
    pub(super) fn copy(&mut self, from: Place, to: Place) -> Result<(), Parting> {
        let mut piece = vec![0; PIECE.min(from.bytes)];
        for start in (0..from.bytes).step_by(PIECE) {
            let part =
                |place: Place| Place { offset: place.offset + start, bytes: PIECE.min(from.bytes - start), ..place };
            let piece = &mut piece[..part(from).bytes];
            self.read(part(from), piece)?;
            self.write(part(to), piece)?;
        }
        Ok(())
    }
}

impl Buffer {
    /// Shows ggml a place as a tensor of bytes.
    fn with_bytes(&self, place: Place, act: impl FnOnce(*mut sys::ggml_tensor)) {
        if place.bytes == 0 {
            return;
        }
        let ctx = crate::ggml::Context::new(1);
        let tensor = ctx.tensor(crate::dtype::DType::I8, &[place.bytes]).as_ptr();
        // SAFETY: tensor and buffer are alive, and the place lies inside the buffer.
        unsafe {
            (*tensor).buffer = self.raw.0.as_ptr();
            let base = sys::ggml_backend_buffer_get_base(self.raw.0.as_ptr()).cast::<u8>();
            (*tensor).data = base.wrapping_add(place.offset).cast();
        }
        act(tensor);
    }
}

/// Memory of a device other than the CPU; some of it is left for what kernels need.
fn on_device(device: &Device, bytes: usize) -> Option<Raw> {
    const RESERVE: u64 = 512 << 20;
    let free = device.memory()?.free;
    let bytes = bytes.checked_add(PAST_THE_END)?;
    if (bytes as u64).checked_add(RESERVE)? > free {
        return None;
    }
    // SAFETY: the buffer type is static; it gives an owned buffer, or null.
    let raw = unsafe { sys::ggml_backend_buft_alloc_buffer(device.buffer_type(), bytes) };
    let raw = NonNull::new(raw).map(Raw)?;
    // SAFETY: the buffer was just made.
    unsafe { sys::ggml_backend_buffer_clear(raw.0.as_ptr(), 0) };
    Some(raw)
}

fn no_buffer(handle: u64) -> Parting {
    wrong(format!("buffer {handle} is not there"))
}
