//! The commands that begin with a slash: their names, arguments and help. Only reads them; `repl` carries them out.

use std::path::PathBuf;

use clap::ValueEnum;

use crate::cli::ExitArg;

/// A command typed at the prompt.
#[derive(Debug, PartialEq)]
pub(super) enum Slash {
    Help,
    System(Option<String>),
    /// Name and value; none of them lists the parameters.
    Set(Option<(String, String)>),
    Show(Topic),
    Clear,
    Undo,
    Regen,
    Save(PathBuf),
    Load(PathBuf),
    Stats,
    ExitMode(Option<ExitArg>),
    Depth(bool),
    Exit,
}

/// What `/show` shows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Topic {
    Info,
    Parameters,
    System,
    Template,
}

/// Name, argument and purpose of every command, in the order of the help.
pub(super) const COMMANDS: [(&str, &str, &str); 13] = [
    ("/help", "", "this text"),
    ("/system", "[TEXT]", "set the system prompt, or remove it"),
    ("/set", "[NAME VALUE]", "change a parameter, or list them"),
    ("/show", "[TOPIC]", "info, parameters, system or template"),
    ("/clear", "", "forget what was said"),
    ("/undo", "", "take back the last message and its answer"),
    ("/regen", "", "answer the last message anew"),
    ("/save", "FILE", "write the conversation and its token state"),
    ("/load", "FILE", "continue a saved conversation, or go on with another model (.gguf)"),
    ("/stats", "", "tokens, speed, layers and drafts so far"),
    ("/exit-mode", "[MODE]", "off, fast, verified or auto: how tokens may stop early"),
    ("/depth", "on|off", "colour each token by the layers it took"),
    ("/exit", "", "leave"),
];

/// The topics of `/show`.
pub(super) const TOPICS: [(&str, Topic); 4] = [
    ("info", Topic::Info),
    ("parameters", Topic::Parameters),
    ("system", Topic::System),
    ("template", Topic::Template),
];

impl Slash {
    /// Reads a line that begins with a slash.
    pub(super) fn parse(line: &str) -> Result<Slash, String> {
        let (name, argument) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        let argument = unquoted(argument.trim());
        match name {
            "/help" | "/?" => none(argument, Slash::Help),
            "/system" => Ok(Slash::System(some(argument).map(String::from))),
            "/set" => set(argument).map(Slash::Set),
            "/show" => topic(argument).map(Slash::Show),
            "/clear" => none(argument, Slash::Clear),
            "/undo" => none(argument, Slash::Undo),
            "/regen" => none(argument, Slash::Regen),
            "/save" => file(name, argument).map(Slash::Save),
            "/load" => file(name, argument).map(Slash::Load),
            "/stats" => none(argument, Slash::Stats),
            "/exit-mode" => exit_mode(argument).map(Slash::ExitMode),
            "/depth" => match argument {
                "on" => Ok(Slash::Depth(true)),
                "off" => Ok(Slash::Depth(false)),
                _ => Err(format!("expected /depth on or off, found `{argument}`")),
            },
            "/exit" | "/quit" | "/bye" => none(argument, Slash::Exit),
            _ => Err(format!(
                "unknown command `{name}`\nhint: /help lists the commands; a space before the slash sends the line as text"
            )),
        }
    }
}

/// The text of `/help`.
pub(super) fn help() -> String {
    let mut text = String::new();
    for (name, argument, purpose) in COMMANDS {
        text += &format!("  {:<22}{purpose}\n", format!("{name} {argument}"));
    }
    text + "\n  \"\"\" begins and ends a text of several lines; so does \\ at the end of a line.\n  \
            Tab completes, Ctrl-C stops an answer, Ctrl-D leaves."
}

/// A text without the quotes that let it span lines.
pub(super) fn unquoted(text: &str) -> &str {
    let inner = text.strip_prefix(QUOTES).and_then(|rest| rest.strip_suffix(QUOTES));
    inner.map_or(text, |inner| inner.strip_prefix('\n').unwrap_or(inner)).trim_end_matches('\n')
}

/// What begins and ends a text of several lines.
pub(super) const QUOTES: &str = "\"\"\"";

fn some(argument: &str) -> Option<&str> {
    Some(argument).filter(|argument| !argument.is_empty())
}

fn none(argument: &str, slash: Slash) -> Result<Slash, String> {
    if argument.is_empty() {
        Ok(slash)
    } else {
        Err(format!("expected nothing behind the command, found `{argument}`"))
    }
}

fn set(argument: &str) -> Result<Option<(String, String)>, String> {
    if argument.is_empty() {
        return Ok(None);
    }
    let (name, value) = argument.split_once(char::is_whitespace).ok_or("expected /set NAME VALUE")?;
    Ok(Some((name.replace('_', "-"), value.trim().to_string())))
}

fn exit_mode(argument: &str) -> Result<Option<ExitArg>, String> {
    let read = |mode| ExitArg::from_str(mode, false).map_err(|_| "expected off, fast, verified or auto".to_owned());
    some(argument).map(read).transpose().map_err(|why| format!("{why}, found `{argument}`"))
}

fn topic(argument: &str) -> Result<Topic, String> {
    if argument.is_empty() {
        return Ok(Topic::Info);
    }
    let names = TOPICS.map(|(name, _)| name).join(", ");
    let found = TOPICS.iter().find(|(name, _)| *name == argument);
    found.map(|(_, topic)| *topic).ok_or(format!("expected one of {names}, found `{argument}`"))
}

fn file(name: &str, argument: &str) -> Result<PathBuf, String> {
    // Completion writes a space in a file's name with a backslash before it.
    some(argument).map(|path| path.replace("\\ ", " ").into()).ok_or(format!("expected {name} FILE"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_read() {
        assert_eq!(Slash::parse("/set top_k 5"), Ok(Slash::Set(Some(("top-k".into(), "5".into())))));
        assert_eq!(Slash::parse("/set"), Ok(Slash::Set(None)));
        assert_eq!(Slash::parse("/system  be brief "), Ok(Slash::System(Some("be brief".into()))));
        assert_eq!(Slash::parse("/system \"\"\"a\nb\"\"\""), Ok(Slash::System(Some("a\nb".into()))));
        assert_eq!(Slash::parse("/system"), Ok(Slash::System(None)));
        assert_eq!(Slash::parse("/save my\\ talk"), Ok(Slash::Save("my talk".into())));
        assert_eq!(Slash::parse("/show template"), Ok(Slash::Show(Topic::Template)));
        for bad in ["/save", "/load ", "/set top-k", "/show all", "/clear now", "/nonsense", "/"] {
            assert!(Slash::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn every_command_of_the_help_exists() {
        for (name, argument, _) in COMMANDS {
            let argument = if argument == "on|off" { "" } else { argument };
            let name = if name == "/depth" { "/depth on" } else { name };
            let line =
                if argument.starts_with('[') || argument.is_empty() { name.into() } else { format!("{name} x y") };
            assert!(Slash::parse(&line).is_ok(), "{line}");
            assert!(help().contains(name.trim_end_matches(" on")));
        }
    }
}
