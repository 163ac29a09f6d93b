//! Owns `run`: one prompt, or a batch of them. Refuses an empty prompt.

use std::io::{self, Read, Write};

use anyhow::{Context, bail};
use serde_json::json;

use super::answer::{Answer, Ending, Limits, answer};
use super::{BatchLine, catch_interrupts, each_line, load_model, load_tokenizer, new_session, take_interrupt};
use crate::cli::RunArgs;
use crate::sample::Sampler;
use crate::session::Session;
use crate::tokenizer::{ChatTemplate, Message, Special, TokenId, Tokenizer};

pub(super) fn run(args: RunArgs) -> anyhow::Result<()> {
    let prompt = if args.batch.is_some() { String::new() } else { prompt_text(&args)? };
    let model = load_model(&args.model)?;
    let tokenizer = load_tokenizer(&model)?;
    let mut session = new_session(&model, &args.model, Vec::new())?;
    let mut runner = Runner { args: &args, tokenizer: &tokenizer, session: &mut session };
    if let Some(batch) = &args.batch {
        return each_line(batch, &mut io::stdout(), |line| runner.batch_line(line));
    }
    let ids = runner.prompt_ids(&prompt, ChatTemplate::from_gguf(model.file().metadata())?)?;
    catch_interrupts()?;
    let mut out = io::stdout();
    let done = runner.answer(&ids, &mut |piece| {
        out.write_all(piece.as_bytes())?;
        out.flush()
    })?;
    if !done.text.ends_with('\n') {
        writeln!(out)?;
    }
    if done.ending == Some(Ending::ContextFull) {
        eprintln!("note: the context of {} tokens is full\nhint: `-c` for more, or `--context-shift`", session.n_ctx());
    }
    eprintln!("{}", done.statistics.line(model.config().n_layer));
    if take_interrupt() {
        std::process::exit(130);
    }
    Ok(())
}

struct Runner<'a> {
    args: &'a RunArgs,
    tokenizer: &'a Tokenizer,
    session: &'a mut Session,
}

impl Runner<'_> {
    /// The prompt as the model expects it: in its chat template where it has one.
    fn prompt_ids(&self, text: &str, template: Option<ChatTemplate>) -> anyhow::Result<Vec<TokenId>> {
        let Some(template) = template.filter(|_| !self.args.raw) else {
            return Ok(self.tokenizer.encode_with_bos(text, Special::Parse));
        };
        let mut messages = Vec::new();
        if let Some(system) = &self.args.system {
            messages.push(Message { role: "system".to_owned(), content: system.clone() });
        }
        messages.push(Message { role: "user".to_owned(), content: text.to_owned() });
        Ok(self.tokenizer.encode_with_bos(&template.render(&messages, true)?, Special::Parse))
    }

    fn batch_line(&mut self, line: BatchLine) -> anyhow::Result<serde_json::Value> {
        let ids = match (line.prompt, line.text) {
            (Some(ids), None) => ids,
            (None, Some(text)) => self.tokenizer.encode_with_bos(&text, Special::Parse),
            _ => bail!("expected either `prompt` or `text`"),
        };
        if ids.is_empty() {
            bail!("`prompt`: expected at least one token, found none");
        }
        let done = self.answer(&ids, &mut |_| Ok(()))?;
        Ok(json!({ "tokens": done.tokens, "text": done.text, "layers": done.layers }))
    }

    fn answer(&mut self, ids: &[TokenId], show: &mut dyn FnMut(&str) -> io::Result<()>) -> anyhow::Result<Answer> {
        let mut sampler = Sampler::new((&self.args.sampling).into());
        let limits = Limits {
            n_predict: self.args.n_predict,
            stop: &self.args.stop,
            shift_keep: self.args.context_shift.then_some(ids.len().min(self.session.n_ctx() / 4)),
        };
        answer(self.session, self.tokenizer, &mut sampler, ids, &limits, show)
    }
}

fn prompt_text(args: &RunArgs) -> anyhow::Result<String> {
    let text = match (&args.prompt, &args.file) {
        (Some(text), _) => text.clone(),
        (None, Some(path)) => {
            std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?
        }
        (None, None) => {
            let mut text = String::new();
            io::stdin().read_to_string(&mut text).context("cannot read the prompt from standard input")?;
            text
        }
    };
    if text.is_empty() {
        bail!("the prompt is empty\nhint: `-p TEXT`, `-f FILE`, or text on standard input");
    }
    Ok(text)
}
