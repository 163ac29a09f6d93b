//! Owns the commands of the conversation loop. A command that cannot be done says why, and the chat goes on.

use std::path::Path;

use anyhow::{Context, bail};

use super::conversation::Conversation;
use super::{Chat, Next};
use crate::sample::Sampler;

/// Name, argument, what it does.
pub(super) const COMMANDS: [(&str, &str, &str); 12] = [
    ("/help", "", "list the commands"),
    ("/system", "TEXT", "begin anew under this system message"),
    ("/set", "NAME VALUE", "change temp, top-k, top-p, min-p, repeat-penalty, seed or n-predict"),
    ("/show", "", "show the model, the settings and the system message"),
    ("/clear", "", "forget the conversation"),
    ("/undo", "", "take back the last message and its answer"),
    ("/regen", "", "answer the last message again"),
    ("/save", "FILE", "write the conversation to FILE and its state to FILE.state"),
    ("/load", "FILE", "continue a saved conversation"),
    ("/stats", "", "show speed and layers so far"),
    ("/exit", "", "leave"),
    ("/quit", "", "leave"),
];

impl Chat {
    pub(super) fn command(&mut self, line: &str) -> anyhow::Result<Next> {
        let (name, argument) = line.trim().split_once(char::is_whitespace).unwrap_or((line.trim(), ""));
        let argument = argument.trim();
        let done = match name {
            "/exit" | "/quit" => return Ok(Next::Leave),
            "/regen" => {
                if self.conversation.take_back_answer() {
                    self.reply()?;
                    return Ok(Next::Continue);
                }
                Err(anyhow::anyhow!("there is no answer to make again"))
            }
            "/help" => Ok(help()),
            "/system" => self.system(argument),
            "/set" => self.set(argument),
            "/show" => Ok(self.show()),
            "/clear" => {
                self.conversation.restart(None);
                Ok("(forgotten)".to_owned())
            }
            "/undo" if self.conversation.undo() => Ok("(taken back)".to_owned()),
            "/undo" => Err(anyhow::anyhow!("there is nothing to take back")),
            "/save" => self.save(argument),
            "/load" => self.load(argument),
            "/stats" => Ok(self.statistics.line(self.session.model().config().n_layer)),
            other => Err(anyhow::anyhow!("`{other}` is no command; /help lists them")),
        };
        match done {
            Ok(text) => eprintln!("{text}"),
            Err(error) => eprintln!("error: {error:#}"),
        }
        Ok(Next::Continue)
    }

    fn system(&mut self, text: &str) -> anyhow::Result<String> {
        if text.is_empty() {
            return Ok(self.conversation.system().map_or("(no system message)", |s| s).to_owned());
        }
        self.conversation.restart(Some(text.to_owned()));
        Ok("(system message set, conversation forgotten)".to_owned())
    }

    fn set(&mut self, argument: &str) -> anyhow::Result<String> {
        let (name, value) = argument.split_once(char::is_whitespace).context("expected `/set NAME VALUE`")?;
        let value = value.trim();
        let number = || {
            value
                .parse::<f32>()
                .ok()
                .filter(|x| x.is_finite() && *x >= 0.0)
                .with_context(|| expected(name, "a number of at least 0", value))
        };
        let count = || value.parse::<usize>().with_context(|| expected(name, "a whole number", value));
        match name {
            "temp" | "temperature" => self.sampling.temperature = number()?,
            "top-k" => self.sampling.top_k = count()?,
            "top-p" => self.sampling.top_p = number()?,
            "min-p" => self.sampling.min_p = number()?,
            "repeat-penalty" => self.sampling.repeat_penalty = number()?,
            "seed" => self.sampling.seed = Some(count()? as u64),
            "n-predict" => self.n_predict = count()?,
            other => bail!("`{other}`: expected temp, top-k, top-p, min-p, repeat-penalty, seed or n-predict"),
        }
        self.sampler = Sampler::new(self.sampling.clone());
        Ok(format!("({name} = {value})"))
    }

    fn show(&self) -> String {
        let (model, s) = (self.session.model(), &self.sampling);
        let config = model.config();
        format!(
            "model    {}\n         {} `{}`, {} layers, width {}, vocabulary {}\n\
             context  {} of {} tokens\n\
             sampling temp {} top-k {} top-p {} min-p {} repeat-penalty {} seed {}\n\
             system   {}",
            model.file().path().display(),
            config.architecture,
            config.name,
            config.n_layer,
            config.n_embd,
            config.n_vocab,
            self.session.tokens().len(),
            self.session.n_ctx(),
            s.temperature,
            s.top_k,
            s.top_p,
            s.min_p,
            s.repeat_penalty,
            self.sampler.seed(),
            self.conversation.system().unwrap_or("(none)")
        )
    }

    fn save(&self, path: &str) -> anyhow::Result<String> {
        if path.is_empty() {
            bail!("expected `/save FILE`");
        }
        self.conversation.save(Path::new(path), &self.session)?;
        Ok(format!("(saved to {path})"))
    }

    fn load(&mut self, path: &str) -> anyhow::Result<String> {
        if path.is_empty() {
            bail!("expected `/load FILE`");
        }
        let (conversation, problem) = Conversation::load(Path::new(path), &mut self.session)?;
        self.conversation = conversation;
        let n = self.conversation.messages.len();
        Ok(match problem {
            None => format!("(loaded {n} messages)"),
            Some(why) => format!("(loaded {n} messages; they are read again with the next one: {why})"),
        })
    }
}

fn help() -> String {
    let lines = COMMANDS.map(|(name, argument, what)| format!("{:<18} {what}", format!("{name} {argument}")));
    lines.join("\n") + "\n\"\"\" begins and ends a message of several lines; \\ at the end of a line continues it"
}

fn expected(name: &str, expected: &str, found: &str) -> String {
    format!("`{name}`: expected {expected}, found `{found}`")
}
