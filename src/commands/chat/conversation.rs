//! Owns what was said, as messages and as the exact tokens of it. Refuses to touch the session.

use std::fs::File;
use std::io::{BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::Context;
use serde::{Deserialize, Serialize};

use crate::session::Session;
use crate::tokenizer::{ChatTemplate, Message, Special, TokenId, Tokenizer};

/// A conversation as `/save` writes it.
#[derive(Serialize, Deserialize)]
pub(super) struct Conversation {
    pub(super) messages: Vec<Message>,
    /// The text of a rendered conversation up to its last answer, and its tokens as they were generated: encoding the
    /// text again could cut it differently, and the cache would be lost.
    #[serde(default)]
    known: Option<(String, Vec<TokenId>)>,
    /// The text behind the tokens that [`Conversation::ids`] gave last.
    #[serde(skip)]
    prompt_text: Option<String>,
}

impl Conversation {
    pub(super) fn new(system: Option<String>) -> Conversation {
        let system = system.map(|content| Message { role: "system".to_owned(), content });
        Conversation { messages: system.into_iter().collect(), known: None, prompt_text: None }
    }

    /// Replaces the system message and forgets the rest.
    pub(super) fn restart(&mut self, system: Option<String>) {
        *self = Conversation::new(system.or_else(|| self.system().map(str::to_owned)));
    }

    pub(super) fn system(&self) -> Option<&str> {
        self.messages.first().filter(|m| m.role == "system").map(|m| m.content.as_str())
    }

    /// Takes back the last exchange. False if there is none.
    pub(super) fn undo(&mut self) -> bool {
        let Some(last_user) = self.messages.iter().rposition(|m| m.role == "user") else { return false };
        self.messages.truncate(last_user);
        true
    }

    /// Takes back the last answer only. False if there is none.
    pub(super) fn take_back_answer(&mut self) -> bool {
        let answered = self.messages.last().is_some_and(|m| m.role == "assistant");
        if answered {
            self.messages.pop();
        }
        answered
    }

    /// The tokens from which the next answer continues.
    pub(super) fn ids(
        &mut self,
        tokenizer: &Tokenizer,
        template: Option<&ChatTemplate>,
    ) -> anyhow::Result<Vec<TokenId>> {
        let text = self.text(template)?;
        let known = self.known.as_ref().and_then(|(known, ids)| Some((text.strip_prefix(known.as_str())?, ids)));
        let ids = match known {
            Some((rest, ids)) => [ids.as_slice(), &tokenizer.encode(rest, Special::Parse)].concat(),
            None => tokenizer.encode_with_bos(&text, Special::Parse),
        };
        self.prompt_text = Some(text);
        Ok(ids)
    }

    /// Keeps an answer and the tokens that it was made of.
    pub(super) fn answered(&mut self, prompt: Vec<TokenId>, tokens: Vec<TokenId>, text: String) {
        self.known = self.prompt_text.take().map(|prompt_text| (prompt_text + &text, [prompt, tokens].concat()));
        self.messages.push(Message { role: "assistant".to_owned(), content: text });
    }

    /// In the model's template; without one the conversation is its texts, one after the other.
    fn text(&self, template: Option<&ChatTemplate>) -> anyhow::Result<String> {
        match template {
            Some(template) => Ok(template.render(&self.messages, true)?),
            None => Ok(self.messages.iter().map(|m| m.content.as_str()).collect()),
        }
    }

    /// Writes the messages to `path` and the session's state beside it, each completely or not at all.
    pub(super) fn save(&self, path: &Path, session: &Session) -> anyhow::Result<()> {
        write_whole(path, &mut |out| {
            serde_json::to_writer_pretty(&mut *out, self)?;
            Ok(writeln!(out)?)
        })?;
        write_whole(&state_path(path), &mut |out| Ok(session.save_state(out)?))
    }

    /// Reads what [`Conversation::save`] wrote. The second result says why the state could not be used, if so.
    pub(super) fn load(path: &Path, session: &mut Session) -> anyhow::Result<(Conversation, Option<String>)> {
        let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
        let conversation = serde_json::from_reader(BufReader::new(file))
            .with_context(|| format!("{}: expected a saved conversation", path.display()))?;
        let loaded = File::open(state_path(path))
            .map_err(anyhow::Error::from)
            .and_then(|state| Ok(session.load_state(&mut BufReader::new(state))?));
        Ok((conversation, loaded.err().map(|e| format!("{}: {e:#}", state_path(path).display()))))
    }
}

fn state_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".state");
    name.into()
}

fn write_whole(path: &Path, fill: &mut dyn FnMut(&mut dyn Write) -> anyhow::Result<()>) -> anyhow::Result<()> {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let place = || format!("cannot write {}", path.display());
    let mut temporary = tempfile::NamedTempFile::new_in(folder).with_context(place)?;
    let mut out = BufWriter::new(temporary.as_file_mut());
    fill(&mut out).with_context(place)?;
    out.flush().with_context(place)?;
    drop(out);
    temporary.as_file().sync_all().with_context(place)?;
    temporary.persist(path).map_err(|e| e.error).with_context(place)?;
    Ok(())
}
