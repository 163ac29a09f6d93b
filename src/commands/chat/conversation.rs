//! What was said, and the token ids it became. Owns messages and their rendering; keeps generated text as exactly
//! the ids that were generated, so that rendering the next turn does not lose the sequence's cache.

use serde::{Deserialize, Serialize};

use crate::commands::shared::template;
use crate::tokenizer::{ChatTemplate, Message, Rendered, TokenId, Tokenizer};

/// A conversation between a user and a model.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Conversation {
    system: Option<String>,
    messages: Vec<Message>,
    /// Messages at the beginning that a shifted context no longer shows to the model.
    forgotten: usize,
    /// The rendered text in pieces whose ids are known, from its beginning.
    pieces: Vec<Piece>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Piece {
    text: String,
    tokens: Vec<TokenId>,
}

impl Conversation {
    pub(super) fn new(system: Option<String>) -> Conversation {
        Conversation { system, ..Conversation::default() }
    }

    pub(super) fn system(&self) -> Option<&str> {
        self.system.as_deref()
    }

    /// Changes what stands before the first message; what was said stays.
    pub(super) fn set_system(&mut self, system: Option<String>) {
        self.system = system;
    }

    pub(super) fn messages(&self) -> &[Message] {
        &self.messages
    }

    pub(super) fn push_user(&mut self, text: String) {
        self.messages.push(Message { role: USER.into(), content: text });
    }

    /// Adds the model's answer. `tokens` are the ids of exactly this text, if there are such.
    pub(super) fn push_answer(&mut self, text: String, tokens: Option<&[TokenId]>) {
        if let Some(tokens) = tokens.filter(|tokens| !tokens.is_empty()) {
            self.pieces.push(Piece { text: text.clone(), tokens: tokens.to_vec() });
        }
        self.messages.push(Message { role: ASSISTANT.into(), content: text });
    }

    /// Takes back the last user message and the answer to it. False when there is none.
    pub(super) fn undo(&mut self) -> bool {
        self.pop_answer();
        let undone = self.messages.pop().is_some();
        self.forgotten = self.forgotten.min(self.messages.len());
        undone
    }

    /// Takes back the last answer, so that another can be given. False when nothing was asked.
    pub(super) fn pop_answer(&mut self) -> bool {
        if self.messages.last().is_some_and(|m| m.role == ASSISTANT) {
            self.messages.pop();
        }
        !self.messages.is_empty()
    }

    /// Hides the oldest exchange from the model. False when only the last message is left.
    pub(super) fn forget_oldest(&mut self) -> bool {
        let next = (self.forgotten + 1..self.messages.len()).find(|&i| self.messages[i].role == USER);
        self.forgotten = next.unwrap_or(self.forgotten);
        next.is_some()
    }

    /// The ids of the conversation so far, ready for the model's next answer.
    pub(super) fn tokens(
        &mut self,
        tokenizer: &Tokenizer,
        template: Option<&ChatTemplate>,
    ) -> anyhow::Result<Vec<TokenId>> {
        let rendered = self.render(template)?;
        let text = rendered.as_str();
        let mut at = 0;
        let known = self.pieces.iter().take_while(|piece| {
            let fits = text[at..].starts_with(&piece.text);
            at += if fits { piece.text.len() } else { 0 };
            fits
        });
        let known = known.count();
        self.pieces.truncate(known);
        let rest = rendered.after(at);
        if !rest.as_str().is_empty() {
            let new = tokenizer.encode_rendered(&rest);
            // Ids can only be joined where a special token parts the text: everywhere else a word, or the space that
            // some tokenizers put before it, could span the joint.
            if at > 0 && new.first().is_some_and(|&id| tokenizer.is_control(id)) {
                self.pieces.push(Piece { text: rest.as_str().to_owned(), tokens: new });
            } else {
                let tokens = tokenizer.encode_rendered_with_bos(&rendered);
                self.pieces = vec![Piece { text: text.to_owned(), tokens }];
            }
        }
        Ok(self.pieces.iter().flat_map(|piece| piece.tokens.iter().copied()).collect())
    }

    /// The ids of the system prompt alone: what a shifted context must keep.
    pub(super) fn system_tokens(&self, tokenizer: &Tokenizer, template: Option<&ChatTemplate>) -> Vec<TokenId> {
        // A template may refuse a conversation without a user; then only the beginning of the text is kept.
        let text = match (template, &self.system) {
            (Some(template), Some(system)) => template.render(&[message(SYSTEM, system)], false).unwrap_or_default(),
            _ => Rendered::default(),
        };
        tokenizer.encode_rendered_with_bos(&text)
    }

    /// Forgets the known ids: they are another tokenizer's.
    pub(super) fn forget_tokens(&mut self) {
        self.pieces.clear();
    }

    /// Refuses what this program could not have written for a vocabulary of `n_vocab`: the field, what was expected and found.
    pub(super) fn check(&self, n_vocab: usize) -> Result<(), String> {
        for (i, message) in self.messages.iter().enumerate() {
            let expected = [USER, ASSISTANT][i % 2];
            if message.role != expected {
                return Err(format!("messages[{i}].role: expected {expected:?}, found {:?}", message.role));
            }
        }
        for (i, piece) in self.pieces.iter().enumerate() {
            if let Some(id) = piece.tokens.iter().find(|id| **id as usize >= n_vocab) {
                return Err(format!("pieces[{i}].tokens: expected ids below {n_vocab}, found {id}"));
            }
        }
        let most = self.messages.len();
        if self.forgotten > most {
            return Err(format!("forgotten: expected at most {most}, the messages, found {}", self.forgotten));
        }
        Ok(())
    }

    /// The text of the conversation so far, as the template writes it.
    pub(super) fn render(&self, template: Option<&ChatTemplate>) -> anyhow::Result<Rendered> {
        let visible = &self.messages[self.forgotten..];
        let Some(template) = template else { return Ok(plain(visible).into()) };
        let mut messages: Vec<Message> = self.system.iter().map(|system| message(SYSTEM, system)).collect();
        messages.extend_from_slice(visible);
        template::render(template, &messages)
    }
}

const SYSTEM: &str = "system";
const USER: &str = "user";
const ASSISTANT: &str = "assistant";

fn message(role: &str, content: &str) -> Message {
    Message { role: role.into(), content: content.into() }
}

/// Without a template the conversation is one text: the model continues what the user writes, the user continues on
/// a new line.
fn plain(messages: &[Message]) -> String {
    let mut text = String::new();
    for message in messages {
        if message.role == USER && !text.is_empty() && !text.ends_with('\n') {
            text.push('\n');
        }
        text.push_str(&message.content);
    }
    text
}
