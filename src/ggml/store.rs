//! Owns tensors that keep their data: weights, caches, hidden states. Refuses to free what a graph still reads.

use std::any::Any;
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, MutexGuard};

use memmap2::MmapMut;

use super::context::{Context, Tensor};
use super::device::{Content, Device, cpu};
use super::{Error, sys};
use crate::dtype::DType;

/// Tensors with data, shared by everything that reads them. Filled by a [`StoreBuilder`].
pub struct Store {
    ctx: Context,
    /// Never read, only kept: what tensors lie in. It grows while a [`StoreBuilder`] adds tensors.
    memory: Mutex<Memory>,
}

#[derive(Default)]
struct Memory {
    buffers: Vec<Buffer>,
    mapped: Vec<Arc<dyn Any + Send + Sync>>,
    arenas: Vec<MmapMut>,
}

// SAFETY: a tensor's data is written by the `StoreBuilder` before the tensor is handed out, or by whoever alone runs
// graphs on it (a sequence, which is `&mut` while it does). The builder alone adds to the context, which others only
// compare with.
unsafe impl Send for Store {}
// SAFETY: see above.
unsafe impl Sync for Store {}

/// A tensor of a shared store. Keeps the store alive.
#[derive(Clone)]
pub struct Stored {
    store: Arc<Store>,
    raw: NonNull<sys::ggml_tensor>,
}

// SAFETY: the description of a tensor does not change once it is handed out; its data follows the rules of `Store`.
unsafe impl Send for Stored {}
// SAFETY: see above.
unsafe impl Sync for Stored {}

impl Stored {
    /// The handle, for use in graphs.
    pub fn t(&self) -> Tensor<'_> {
        // SAFETY: the tensor lies in the store's context, which `self` keeps alive.
        unsafe { Tensor::from_raw(self.raw) }
    }

    /// The store that holds the data.
    pub fn store(&self) -> &Arc<Store> {
        &self.store
    }

    /// Whether the data lies in this process's memory.
    pub fn is_host(&self) -> bool {
        // SAFETY: the tensor has a buffer, which the store keeps.
        unsafe { sys::ggml_backend_buffer_is_host((*self.t().as_ptr()).buffer) }
    }

    /// Copies bytes out of the tensor, from byte `offset` on.
    pub fn read(&self, offset: usize, bytes: &mut [u8]) {
        assert!(offset + bytes.len() <= self.t().nbytes(), "read past the end of {:?}", self.t());
        // SAFETY: the tensor has data and the range lies inside it.
        unsafe { sys::ggml_backend_tensor_get(self.t().as_ptr(), bytes.as_mut_ptr().cast(), offset, bytes.len()) }
    }

    /// Overwrites bytes of the tensor, from byte `offset` on. The caller alone computes with this store meanwhile.
    pub fn write(&mut self, offset: usize, bytes: &[u8]) {
        assert!(offset + bytes.len() <= self.t().nbytes(), "write past the end of {:?}", self.t());
        // SAFETY: the tensor has data and the range lies inside it.
        unsafe { sys::ggml_backend_tensor_set(self.t().as_ptr(), bytes.as_ptr().cast(), offset, bytes.len()) }
    }

    /// Sets bytes of the tensor to zero. The caller alone computes with this store meanwhile.
    pub fn clear(&mut self, offset: usize, len: usize) {
        assert!(offset + len <= self.t().nbytes(), "clear past the end of {:?}", self.t());
        // SAFETY: the tensor has data and the range lies inside it.
        unsafe { sys::ggml_backend_tensor_memset(self.t().as_ptr(), 0, offset, len) }
    }
}

impl Store {
    pub(super) fn context(&self) -> &Context {
        &self.ctx
    }
}

/// Adds tensors to a store, each with its data or with room for it.
pub struct StoreBuilder {
    store: Arc<Store>,
    /// Where tensors go, if not into this process's memory.
    device: Option<Arc<Device>>,
    /// Bytes left in the last arena.
    room: usize,
}

impl StoreBuilder {
    /// A store with room for `n_tensors` tensors.
    pub fn new(n_tensors: usize) -> StoreBuilder {
        super::init();
        let store = Store { ctx: Context::new(n_tensors), memory: Mutex::default() };
        StoreBuilder { store: Arc::new(store), device: None, room: 0 }
    }

    /// Tensors from now on lie in a device's memory.
    pub fn place_on(&mut self, device: &Arc<Device>) {
        self.device = (!device.is_cpu()).then(|| device.clone());
    }

    /// Whether tensors go into this process's memory.
    pub fn is_host(&self) -> bool {
        self.device.is_none()
    }

    /// A tensor whose bytes `content` gives, in the device's memory. As a matrix to multiply by it keeps the type that
    /// it has.
    pub fn add_content(
        &mut self,
        name: &str,
        dtype: DType,
        shape: &[usize],
        content: Content,
    ) -> Result<Stored, Error> {
        let raw = self.allocate(name, dtype, shape, self.buffer_type())?;
        match self.device.clone() {
            Some(device) => {
                device.fill(raw, content);
                device.check()?;
            }
            None => {
                let mut bytes = Vec::new();
                content(&mut |piece| bytes.extend_from_slice(piece));
                set(raw, &bytes);
            }
        }
        Ok(self.stored(raw))
    }

    /// A tensor whose data stays where it is, inside `owner`. `None` if ggml cannot use it there (its alignment);
    /// nothing is added then.
    pub fn add_mapped<O, F>(
        &mut self,
        name: &str,
        dtype: DType,
        shape: &[usize],
        owner: &Arc<O>,
        data: F,
    ) -> Option<Stored>
    where
        O: Any + Send + Sync,
        F: FnOnce(&O) -> &[u8],
    {
        let bytes = data(owner);
        if !(bytes.as_ptr() as usize).is_multiple_of(sys_alignment()) {
            return None;
        }
        let raw = self.tensor(name, dtype, shape);
        let tensor = self.stored(raw);
        assert_eq!(bytes.len(), tensor.t().nbytes(), "{name}: data and shape differ");
        // ggml reads the bytes only, so that they may belong to a file.
        self.attach(raw, bytes.as_ptr().cast_mut(), bytes.len());
        self.memory().mapped.push(owner.clone());
        Some(tensor)
    }

    /// A matrix to multiply by, its rows in `parts` one after the other. Where ggml has a layout of its own for such
    /// matrices on this processor, they are stored in it.
    pub fn add_matrix(
        &mut self,
        name: &str,
        dtype: DType,
        shape: [usize; 2],
        parts: &[&[u8]],
    ) -> Result<Stored, Error> {
        let buft = cpu::repack_buffer_type(dtype, shape).unwrap_or_else(cpu::buffer_type);
        let raw = self.allocate(name, dtype, &shape, buft)?;
        match parts {
            [one] => set(raw, one),
            parts => set(raw, &parts.concat()),
        }
        Ok(self.stored(raw))
    }

    /// Whether [`StoreBuilder::add_matrix`] would store such a matrix in a layout of ggml's own.
    pub fn repacks(dtype: DType, shape: [usize; 2]) -> bool {
        cpu::repack_buffer_type(dtype, shape).is_some()
    }

    /// A tensor of bytes in large pages of this process's memory, which `fill` writes: for what is read from end to
    /// end.
    pub fn add_in_large_pages(
        &mut self,
        name: &str,
        shape: [usize; 2],
        fill: impl FnOnce(&mut [u8]),
    ) -> Result<Stored, Error> {
        let raw = self.tensor(name, DType::I8, &shape);
        let (start, len) = self.place(shape.iter().product())?;
        // SAFETY: the place is this tensor's alone, and lives as long as the store.
        fill(unsafe { std::slice::from_raw_parts_mut(start, len) });
        self.attach(raw, start, len);
        Ok(self.stored(raw))
    }

    /// A tensor readable by every operation, with this content.
    pub fn add_plain(&mut self, name: &str, dtype: DType, shape: &[usize], data: &[u8]) -> Result<Stored, Error> {
        if !self.is_host() {
            let data = data.to_vec();
            return self.add_content(name, dtype, shape, Arc::new(move |sink| sink(&data)));
        }
        let raw = self.allocate(name, dtype, shape, cpu::buffer_type())?;
        set(raw, data);
        Ok(self.stored(raw))
    }

    /// A tensor whose content is not defined yet; on a device that is not the CPU it begins as zeros.
    pub fn add_empty(&mut self, name: &str, dtype: DType, shape: &[usize]) -> Result<Stored, Error> {
        let raw = self.allocate(name, dtype, shape, self.buffer_type())?;
        if let Some(device) = &self.device {
            // SAFETY: the tensor was just allocated.
            unsafe { sys::ggml_backend_tensor_memset(raw.as_ptr(), 0, 0, sys::ggml_nbytes(raw.as_ptr())) };
            device.check()?;
        }
        Ok(self.stored(raw))
    }

    fn buffer_type(&self) -> sys::ggml_backend_buffer_type_t {
        self.device.as_ref().map_or_else(cpu::buffer_type, |device| device.buffer_type())
    }

    /// The handle of a tensor that has its memory.
    fn stored(&self, raw: NonNull<sys::ggml_tensor>) -> Stored {
        Stored { store: self.store.clone(), raw }
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.store.memory.lock().expect("nothing panics while it is held")
    }

    /// Gives a tensor memory that the store keeps mapped or in an arena.
    fn attach(&mut self, raw: NonNull<sys::ggml_tensor>, start: *mut u8, len: usize) {
        // SAFETY: the memory has the tensor's size and lives as long as the store.
        unsafe {
            let buffer = sys::ggml_backend_cpu_buffer_from_ptr(start.cast(), len);
            let buffer = Buffer(NonNull::new(buffer).expect("ggml wraps memory"));
            sys::ggml_backend_tensor_alloc(buffer.0.as_ptr(), raw.as_ptr(), start.cast());
            self.memory().buffers.push(buffer);
        }
    }

    /// Memory in large pages where the system has them: weights are read from end to end for every token, and each page
    /// costs a look-up.
    fn place(&mut self, bytes: usize) -> Result<(*mut u8, usize), Error> {
        /// Untouched memory costs nothing, so a small model may leave most of it.
        const ARENA_BYTES: usize = 256 << 20;
        let step = bytes.next_multiple_of(sys_alignment());
        let mut memory = self.store.memory.lock().expect("nothing panics while it is held");
        if self.room < step {
            let len = step.max(ARENA_BYTES);
            let arena = MmapMut::map_anon(len).map_err(|_| out_of_memory(None, "packed weights", len))?;
            #[cfg(target_os = "linux")]
            let _ = arena.advise(memmap2::Advice::HugePage); // a system without them is slower, no more
            memory.arenas.push(arena);
            self.room = len;
        }
        let arena = memory.arenas.last_mut().expect("just made if there was none");
        let start = arena.len() - self.room;
        self.room -= step;
        Ok((arena[start..start + bytes].as_mut_ptr(), bytes))
    }

    fn allocate(
        &mut self,
        name: &str,
        dtype: DType,
        shape: &[usize],
        buft: sys::ggml_backend_buffer_type_t,
    ) -> Result<NonNull<sys::ggml_tensor>, Error> {
        let tensor = self.tensor(name, dtype, shape);
        let raw = tensor.as_ptr();
        // SAFETY: the buffer type is static; the new buffer has the size it asks for this tensor, which starts at its
        // base, and the store keeps it as long as the tensor.
        unsafe {
            let bytes = sys::ggml_backend_buft_get_alloc_size(buft, raw);
            let buffer = NonNull::new(sys::ggml_backend_buft_alloc_buffer(buft, bytes))
                .map(Buffer)
                .ok_or_else(|| out_of_memory(self.device.as_deref(), "tensor data", bytes));
            if let (Err(_), Some(device)) = (&buffer, &self.device) {
                device.check()?;
            }
            let buffer = buffer?;
            let base = sys::ggml_backend_buffer_get_base(buffer.0.as_ptr());
            sys::ggml_backend_tensor_alloc(buffer.0.as_ptr(), raw, base);
            self.memory().buffers.push(buffer);
        }
        Ok(tensor)
    }

    fn tensor(&mut self, name: &str, dtype: DType, shape: &[usize]) -> NonNull<sys::ggml_tensor> {
        let raw = self.store.ctx.tensor(dtype, shape).named(name, None).as_ptr();
        NonNull::new(raw).expect("a tensor handle is never null")
    }
}

fn out_of_memory(device: Option<&Device>, what: &'static str, bytes: usize) -> Error {
    Error::OutOfMemory { device: device.map_or_else(|| "CPU".to_owned(), Device::label), what, bytes }
}

fn set(raw: NonNull<sys::ggml_tensor>, data: &[u8]) {
    // SAFETY: the tensor is allocated; its size is compared before the copy.
    unsafe {
        assert_eq!(sys::ggml_nbytes(raw.as_ptr()), data.len(), "data and shape differ");
        sys::ggml_backend_tensor_set(raw.as_ptr(), data.as_ptr().cast(), 0, data.len());
    }
}

fn sys_alignment() -> usize {
    // SAFETY: asks a static object.
    unsafe { sys::ggml_backend_buft_get_alignment(cpu::buffer_type()) }
}

struct Buffer(NonNull<sys::ggml_backend_buffer>);

impl Drop for Buffer {
    fn drop(&mut self) {
        // SAFETY: this is the only owner.
        unsafe { sys::ggml_backend_buffer_free(self.0.as_ptr()) }
    }
}
