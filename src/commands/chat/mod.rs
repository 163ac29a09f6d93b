//! Owns `chat`: the conversation and its loop, on a terminal or through pipes. Refuses to invent a chat template: a
//! model without one chats in a completion mode that says so.

mod conversation;
mod editor;
mod slash;

use std::io::{self, BufRead, IsTerminal, Write};

use super::answer::{Ending, Limits, Statistics, answer};
use super::{catch_interrupts, is_interrupted, load_model, load_tokenizer, new_session, take_interrupt};
use crate::cli::ChatArgs;
use crate::sample::{Sampler, SamplerParams};
use crate::session::Session;
use crate::tokenizer::{ChatTemplate, Message, Tokenizer};
use conversation::Conversation;
use editor::{Editor, Input};

/// Everything that a conversation changes.
struct Chat {
    session: Session,
    tokenizer: Tokenizer,
    template: Option<ChatTemplate>,
    conversation: Conversation,
    sampling: SamplerParams,
    sampler: Sampler,
    n_predict: usize,
    context_shift: bool,
    statistics: Statistics,
}

/// Whether the loop goes on.
enum Next {
    Continue,
    Leave,
}

pub(super) fn chat(args: ChatArgs) -> anyhow::Result<()> {
    let model = load_model(&args.model)?;
    let tokenizer = load_tokenizer(&model)?;
    let template = ChatTemplate::from_gguf(model.file().metadata())?;
    let session = new_session(&model, &args.model, Vec::new())?;
    let sampling = SamplerParams::from(&args.sampling);
    let mut chat = Chat {
        session,
        tokenizer,
        template,
        conversation: Conversation::new(args.system.clone()),
        sampler: Sampler::new(sampling.clone()),
        sampling,
        n_predict: args.n_predict,
        context_shift: args.context_shift,
        statistics: Statistics::default(),
    };
    catch_interrupts()?;
    if chat.template.is_none() {
        eprintln!("note: this model has no chat template: it continues your text as it is (completion mode)");
    }
    if io::stdin().is_terminal() && io::stdout().is_terminal() {
        chat.on_terminal()?
    } else {
        chat.on_pipe()?
    }
    eprintln!("{}", chat.statistics.line(model.config().n_layer));
    Ok(())
}

impl Chat {
    fn on_terminal(&mut self) -> anyhow::Result<()> {
        let config = self.session.model().config();
        let name = if config.name.is_empty() { &config.architecture } else { &config.name };
        eprintln!(
            "{name}, {} layers, {} tokens of context. /help lists the commands, Ctrl-D leaves.",
            config.n_layer,
            self.session.n_ctx()
        );
        let mut editor = Editor::new()?;
        loop {
            let input = editor.read()?;
            take_interrupt();
            let next = match input {
                Input::End => Next::Leave,
                Input::Interrupt => {
                    eprintln!("(Ctrl-D or /exit leaves)");
                    Next::Continue
                }
                Input::Text(text) => self.turn(&text)?,
            };
            if let Next::Leave = next {
                return Ok(());
            }
        }
    }

    /// Each line is a turn; no prompt, no colour.
    fn on_pipe(&mut self) -> anyhow::Result<()> {
        for line in io::stdin().lock().lines() {
            if let Next::Leave = self.turn(&line?)? {
                break;
            }
            if is_interrupted() {
                std::process::exit(130);
            }
        }
        Ok(())
    }

    /// One line of the user's: a command or a message.
    fn turn(&mut self, text: &str) -> anyhow::Result<Next> {
        if text.trim().is_empty() {
            return Ok(Next::Continue);
        }
        if text.starts_with('/') {
            return self.command(text);
        }
        self.conversation.messages.push(Message { role: "user".to_owned(), content: text.to_owned() });
        self.reply()?;
        Ok(Next::Continue)
    }

    /// Generates the answer to the last message and keeps it.
    fn reply(&mut self) -> anyhow::Result<()> {
        let prompt = self.conversation.ids(&self.tokenizer, self.template.as_ref())?;
        if prompt.len() >= self.session.n_ctx() {
            self.conversation.messages.pop();
            eprintln!(
                "note: the message does not fit: {} tokens, the context has {}",
                prompt.len(),
                self.session.n_ctx()
            );
            eprintln!("hint: /clear forgets the conversation, `-c` makes the context larger");
            return Ok(());
        }
        let limits = Limits {
            n_predict: self.n_predict,
            stop: &[],
            shift_keep: self.context_shift.then_some(prompt.len().min(self.session.n_ctx() / 4)),
        };
        let mut out = io::stdout();
        let done = answer(&mut self.session, &self.tokenizer, &mut self.sampler, &prompt, &limits, &mut |piece| {
            out.write_all(piece.as_bytes())?;
            out.flush()
        })?;
        writeln!(out)?;
        self.statistics.add(&done.statistics);
        match done.ending {
            Some(Ending::Interrupted) => eprintln!("(interrupted)"),
            Some(Ending::ContextFull) => {
                eprintln!("note: the context of {} tokens is full", self.session.n_ctx());
                eprintln!(
                    "hint: /clear forgets the conversation; `-c` makes the context larger; `--context-shift` forgets the older half by itself"
                );
            }
            _ => (),
        }
        self.conversation.answered(prompt, done.tokens, done.text);
        Ok(())
    }
}
