//! Owns a worker as the devices see it: its session, and the buffer types through which ggml uses its memory.

use std::collections::BTreeMap;
use std::ops::Deref;
use std::sync::{Arc, Mutex, Weak};

use super::buffer::BufferType;
use super::session::Session;
use super::token::Token;
use crate::ggml::{Error, sys};

/// Another machine that computes, reached by ggml's RPC protocol.
pub(in crate::ggml) struct Worker {
    session: Arc<Session>,
    /// One for each of its devices.
    buffer_types: Vec<BufferType>,
}

impl Worker {
    /// The worker at `host:port`, over the connection that this process has to it already, since ggml's serves one connection
    /// at a time, or over a new one.
    pub(in crate::ggml) fn connect(endpoint: &str, token: Option<Token>) -> Result<Arc<Worker>, Error> {
        static KNOWN: Mutex<BTreeMap<String, Weak<Session>>> = Mutex::new(BTreeMap::new());
        let mut known = KNOWN.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some(session) = known.get(endpoint).and_then(Weak::upgrade) {
            session.revive()?;
            return Ok(Arc::new(Worker::of(session)));
        }
        let session = Arc::new(Session::open(endpoint, token)?);
        known.insert(endpoint.to_owned(), Arc::downgrade(&session));
        Ok(Arc::new(Worker::of(session)))
    }

    fn of(session: Arc<Session>) -> Worker {
        let buffer_types = (0..session.n_devices()).map(|device| BufferType::new(session.clone(), device)).collect();
        Worker { session, buffer_types }
    }

    pub(in crate::ggml) fn buffer_type(&self, device: u32) -> sys::ggml_backend_buffer_type_t {
        self.buffer_types[device as usize].as_ptr()
    }
}

impl Deref for Worker {
    type Target = Session;

    fn deref(&self) -> &Session {
        &self.session
    }
}
