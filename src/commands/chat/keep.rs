//! Keeps the conversation of a chat that a signal ends. Owns a copy of what was said so far, which the thread that hears
//! signals writes while the chat may still compute.

use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chrono::Local;

use super::conversation::Conversation;
use super::store::{self, ModelId};
use crate::commands::shared::{chain, interrupt, note};
use crate::model::Model;

/// How long an answer may take to come to its end.
const PATIENCE: Duration = Duration::from_secs(1);

/// See the module.
pub(super) struct Keeper(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    idle: Condvar,
}

struct State {
    conversation: Conversation,
    model: ModelId,
    is_busy: bool,
    /// The program ends: nothing begins any more.
    ends: bool,
}

impl Keeper {
    /// Keeps the conversation if a signal comes.
    pub(super) fn new(conversation: &Conversation, model: &Model) -> Keeper {
        let (conversation, model) = (conversation.clone(), ModelId::of(model));
        let state = Mutex::new(State { conversation, model, is_busy: false, ends: false });
        let keeper = Keeper(Arc::new(Shared { state, idle: Condvar::new() }));
        let shared = Arc::clone(&keeper.0);
        interrupt::before_end(move |from_outside| {
            if from_outside {
                shared.keep();
            }
        });
        keeper
    }

    /// An input is carried out.
    pub(super) fn begin(&self) {
        let mut state = self.0.state();
        state.is_busy = true;
        wait_if_it_ends(state);
    }

    /// It is carried out, and this is what was said.
    pub(super) fn done(&self, conversation: &Conversation, model: &Model) {
        let mut state = self.0.state();
        state.conversation = conversation.clone();
        state.model = ModelId::of(model);
        state.is_busy = false;
        self.0.idle.notify_all();
        wait_if_it_ends(state);
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn keep(&self) {
        let mut state = self.state();
        state.ends = true;
        let waited = self.idle.wait_timeout_while(state, PATIENCE, |state| state.is_busy);
        let (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        if state.conversation.messages().is_empty() {
            return;
        }
        let Some(path) = state_folder().map(|folder| folder.join(name())) else { return };
        match store::write(&path, &state.conversation, &state.model) {
            Ok(()) => {
                note(format_args!("(ended by a signal; the conversation is kept: `/load {}` goes on)", path.display()))
            }
            Err(error) => note(format_args!("error: {}", chain(&error))),
        }
    }
}

/// Holds the chat back while its conversation is written.
fn wait_if_it_ends(state: MutexGuard<'_, State>) {
    let ends = state.ends;
    drop(state);
    if ends {
        loop {
            std::thread::park();
        }
    }
}

/// Several chats may end at once.
fn name() -> String {
    format!("ended-{}-{}.json", Local::now().format("%Y%m%d-%H%M%S"), std::process::id())
}

/// The user's folder for what this program keeps; `None` where there is none and none can be made.
pub(super) fn state_folder() -> Option<PathBuf> {
    let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let state = absolute("XDG_STATE_HOME").or_else(|| Some(absolute("HOME")?.join(".local/state")))?;
    let folder = state.join("curtail");
    std::fs::create_dir_all(&folder).ok()?;
    Some(folder)
}
