//! One turn of a conversation: renders it, brings the sequence there, generates, keeps what was said. Knows no
//! terminal; the answer goes to stdout.

use std::borrow::Cow;
use std::io::{self, IsTerminal, Write};

use anyhow::Context;

use super::conversation::Conversation;
use super::depth;
use super::keep::Keeper;
use super::settings::Settings;
use crate::cli::{ChatArgs, Count};
use crate::commands::shared::answer::{self, Answer, CannotWrite, End, Finder, Limits};
use crate::commands::shared::open::{Opened, find_model, note_no_template};
use crate::commands::shared::stats::Stats;
use crate::commands::shared::{interrupt, note, screen, template};
use crate::engine::Error;
use crate::generate::Decoder;
use crate::sample::Sampler;
use crate::tokenizer::ChatTemplate;

/// Tokens that a model without a chat template, which never ends by itself, writes at a time.
const COMPLETION_TOKENS: usize = 128;

fn default_length(template: Option<&ChatTemplate>) -> Count {
    template.map_or(Count::Limit(COMPLETION_TOKENS), |_| Count::All)
}

/// A conversation with a model.
pub(super) struct Talk<'a> {
    pub(super) args: &'a ChatArgs,
    pub(super) engine: Opened,
    pub(super) template: Option<ChatTemplate>,
    pub(super) conversation: Conversation,
    pub(super) settings: Settings,
    pub(super) sampler: Sampler,
    pub(super) stats: Stats,
    pub(super) decoder: Decoder,
    pub(super) keeper: Keeper,
    /// Whether text is coloured by the layers it took.
    pub(super) shows_depth: bool,
    /// The system prompt that was last looked for in the rendered text.
    checked_system: Option<String>,
}

impl<'a> Talk<'a> {
    pub(super) fn new(args: &'a ChatArgs) -> anyhow::Result<Talk<'a>> {
        let (engine, decoder) = Opened::load(&find_model(&args.load.model)?, &args.load, &args.exits)?;
        let template = engine.template(&args.generation.template)?;
        let n_predict = args.generation.n_predict.unwrap_or(default_length(template.as_ref()));
        anyhow::ensure!(
            template.is_some() || args.generation.system.is_none(),
            "the model has no chat template, so a system prompt has no place"
        );
        let settings = Settings { sampling: args.sampling.clone(), n_predict };
        let conversation = Conversation::new(args.generation.system.clone());
        Ok(Talk {
            args,
            keeper: Keeper::new(&conversation, engine.sequence.model()),
            conversation,
            sampler: Sampler::new(settings.sampling.params()),
            settings,
            stats: Stats::new(engine.sequence.model().config().n_layer),
            engine,
            template,
            decoder,
            shows_depth: false,
            checked_system: None,
        })
    }

    /// Takes another model's template; an answer is as long as that allows, unless the user said how long.
    pub(super) fn set_template(&mut self, template: Option<ChatTemplate>) {
        let is_default = self.settings.n_predict == default_length(self.template.as_ref());
        if is_default && self.args.generation.n_predict.is_none() {
            self.settings.n_predict = default_length(template.as_ref());
        }
        self.template = template;
    }

    /// Says so where the model brings no chat template.
    pub(super) fn tell_completion_mode(&self) {
        if self.template.is_some() {
            return;
        }
        note_no_template(&self.args.generation.template);
        if self.conversation.system().is_some() {
            note("note: the system prompt has no place in it");
        }
    }

    /// Carries out an input. Whatever signal ends the program meanwhile, what was said before is kept, and after it this too.
    pub(super) fn during<T>(&mut self, input: impl FnOnce(&mut Talk<'a>) -> T) -> T {
        self.keeper.begin();
        let done = input(self);
        self.keeper.done(&self.conversation, self.engine.sequence.model());
        done
    }

    /// Answers a message of the user.
    pub(super) fn turn(&mut self, text: String) -> anyhow::Result<End> {
        self.conversation.push_user(text);
        self.answer()
    }

    /// Answers the last message, which has no answer yet. If none can be begun, the message is taken back.
    pub(super) fn answer(&mut self) -> anyhow::Result<End> {
        interrupt::reset();
        match self.evaluate() {
            Ok(false) => {}
            Ok(true) => {
                self.conversation.undo();
                note("(stopped before the answer began; the message is taken back)");
                return Ok(End::Interrupted);
            }
            Err(error) => {
                self.conversation.undo();
                return Err(error);
            }
        }
        // Half an answer is none.
        let answer = self.generate().inspect_err(|_| _ = self.conversation.undo())?;
        let end = answer.end;
        self.tell_end(end);
        self.keep(answer);
        Ok(end)
    }

    /// Brings the sequence to the end of the conversation, without its oldest exchanges if they do not fit and may be
    /// forgotten. True when Ctrl-C cut it short.
    fn evaluate(&mut self) -> anyhow::Result<bool> {
        self.tell_dropped_system()?;
        let n_ctx = self.engine.sequence.n_ctx();
        loop {
            let tokens = self.conversation.tokens(&self.engine.tokenizer, self.template.as_ref())?;
            // A full context has no room for an answer.
            if tokens.len() < n_ctx {
                return answer::prompt(&mut self.engine.sequence, &tokens, &mut self.stats);
            }
            if !self.args.generation.context_shift || !self.conversation.forget_oldest() {
                let full = anyhow::Error::from(Error::ContextFull { n_ctx });
                return Err(full.context(format!(
                    "the conversation has {} tokens\n{}",
                    tokens.len(),
                    self.room_hint()
                )));
            }
        }
    }

    /// Says once of each system prompt that the template leaves it out, if it does.
    fn tell_dropped_system(&mut self) -> anyhow::Result<()> {
        let system = self.conversation.system();
        if self.template.is_none() || system == self.checked_system.as_deref() {
            return Ok(());
        }
        let rendered = self.conversation.render(self.template.as_ref())?;
        template::dropped_system(system, &rendered).iter().for_each(note);
        self.checked_system = system.map(str::to_owned);
        Ok(())
    }

    fn generate(&mut self) -> anyhow::Result<Answer> {
        let Opened { sequence, tokenizer, .. } = &mut self.engine;
        let keep =
            || self.conversation.system_tokens(tokenizer, self.template.as_ref()).len().min(sequence.n_ctx() / 4);
        let limits = Limits {
            n_predict: self.settings.n_predict.limit(),
            stop: &self.args.generation.reverse_prompt,
            shift: self.args.generation.context_shift.then(keep),
        };
        let stream = match self.template {
            Some(_) => tokenizer.stream(),
            None => tokenizer.stream_after(sequence.tokens()),
        };
        let stream = stream.with_special(self.args.generation.special);
        let mut stdout = io::stdout().lock();
        let is_terminal = stdout.is_terminal();
        let (shows_depth, n_layer) = (self.shows_depth, sequence.model().config().n_layer);
        let mut show = |text: &str, layers: f64| {
            // A pipe gets what the model said, a terminal must not obey it.
            let text = if is_terminal { screen::answer(text) } else { Cow::Borrowed(text) };
            match shows_depth && !text.trim().is_empty() {
                true => stdout.write_all(depth::coloured(&text, layers, n_layer).as_bytes())?,
                false => stdout.write_all(text.as_bytes())?,
            }
            stdout.flush()
        };
        let finder =
            Finder { sequence, decoder: &mut self.decoder, sampler: &mut self.sampler, stats: &mut self.stats };
        let answer = answer::generate(finder, tokenizer, stream, &limits, &mut show)?;
        if !answer.text.ends_with('\n') {
            show("\n", 0.0).context(CannotWrite)?;
        }
        Ok(answer)
    }

    /// Adds the answer to the conversation, with its ids where they are exactly its text's.
    fn keep(&mut self, answer: Answer) {
        let ended = usize::from(answer.end == End::Model);
        let tokens = &answer.tokens[..answer.tokens.len() - ended];
        let exact = answer.end != End::StopString;
        self.conversation.push_answer(answer.text, exact.then_some(tokens));
    }

    fn tell_end(&self, end: End) {
        match end {
            End::Model | End::StopString => {}
            End::Limit if self.template.is_none() => {}
            End::Limit => note("(stopped: -n, or /set n-predict, allows no more tokens)"),
            End::Interrupted => note("(stopped)"),
            End::ContextFull => {
                note(format_args!("(stopped: the context of {} tokens is full)", self.engine.sequence.n_ctx()));
                note(self.room_hint());
            }
        }
    }

    fn room_hint(&self) -> String {
        let larger = if self.engine.sequence.may_grow() { "-c makes the context larger, " } else { "" };
        format!("hint: /clear begins anew, {larger}--context-shift forgets what is oldest")
    }
}
