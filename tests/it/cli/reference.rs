//! The pages of the book that list every command with its flags are what clap knows of them. `CURTAIL_BLESS=1` writes them again:
//!
//! ```sh
//! CURTAIL_BLESS=1 cargo test --release --test cli reference::
//! ```

use std::fmt::Write;
use std::fs;
use std::path::Path;

use clap::{Arg, ArgAction, Command, CommandFactory};
use curtail::cli::Cli;
use curtail::convert::checkpoints_of;
use curtail::model::ARCHITECTURES;

#[test]
fn pages_and_flags_agree() {
    let book = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/src");
    let folder = book.join("reference");
    let is_blessing = std::env::var_os("CURTAIL_BLESS").is_some();
    let summary = fs::read_to_string(book.join("SUMMARY.md")).expect("the book has a summary");
    let mut root = Cli::command();
    root.build();
    let pages: Vec<(String, String)> = root
        .get_subcommands()
        .filter(|command| command.get_name() != "help")
        .map(|command| (format!("{}.md", command.get_name()), page(command)))
        .collect();
    if is_blessing {
        fs::create_dir_all(&folder).expect("a folder");
        for entry in fs::read_dir(&folder).expect("a folder") {
            fs::remove_file(entry.expect("an entry").path()).expect("a page");
        }
        pages.iter().for_each(|(name, text)| fs::write(folder.join(name), text).expect("a page"));
    }
    let how = "`CURTAIL_BLESS=1 cargo test --release --test cli reference::` writes it again";
    for (name, text) in &pages {
        let found = fs::read_to_string(folder.join(name)).unwrap_or_default();
        assert!(found == *text, "docs/src/reference/{name} is not what clap says\nhint: {how}");
        assert!(
            summary.contains(&format!("(reference/{name})")),
            "docs/src/SUMMARY.md has no link to reference/{name}"
        );
    }
    let n_found = fs::read_dir(&folder).expect("a folder").count();
    assert_eq!(n_found, pages.len(), "docs/src/reference has pages of commands that are gone\nhint: {how}");
}

/// The page of architectures is the table that loading reads.
#[test]
fn architectures_are_those_that_run() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/src/guide/architectures.md");
    let mut text = String::from(ARCHITECTURES_HEAD);
    for arch in &ARCHITECTURES {
        let checkpoints: Vec<String> = checkpoints_of(arch.name).iter().map(|name| format!("`{name}`")).collect();
        let (name, models, features) = (arch.name, arch.models, arch.features().join("; "));
        writeln!(text, "| `{name}` | {models} | {} | {features} |", checkpoints.join(", ")).expect("a String takes it");
    }
    if std::env::var_os("CURTAIL_BLESS").is_some() {
        fs::write(&path, &text).expect("a page");
    }
    let how = "`CURTAIL_BLESS=1 cargo test --release --test cli reference::` writes it again";
    let found = fs::read_to_string(&path).unwrap_or_default();
    assert!(found == text, "docs/src/guide/architectures.md is not what the table says\nhint: {how}");
}

const ARCHITECTURES_HEAD: &str = "\
# Architectures

Files with these names in `general.architecture` run; `curtail list --supported` prints the same table. Others are refused, with \
this list and the nearest of it. Biases, norms of queries and keys, fused matrices, heads of their own, experts and sinks are read \
off the tensors of a file; sizes, scales, windows and rotation off its keys.

| architecture | models | converted from | parts |
|---|---|---|---|
";

/// A command with its subcommands.
fn page(command: &Command) -> String {
    let mut text = String::new();
    add(&mut text, command, "#");
    for sub in command.get_subcommands().filter(|command| command.get_name() != "help") {
        text.push('\n');
        add(&mut text, sub, "##");
    }
    text
}

fn add(text: &mut String, command: &Command, level: &str) {
    let mut line = |line: std::fmt::Arguments<'_>| writeln!(text, "{line}").expect("a String takes it");
    let names: Vec<&str> = command.get_visible_aliases().collect();
    let name = command.get_bin_name().unwrap_or(command.get_name());
    line(format_args!("{level} `{name}`\n"));
    if let Some(about) = command.get_about() {
        line(format_args!("{}.", plain(&about.to_string())));
    }
    if !names.is_empty() {
        line(format_args!("\nAlso called `{}`.", names.join("`, `")));
    }
    let usage = command.clone().render_usage().to_string();
    line(format_args!("\n```text\n{}\n```", usage.trim_start_matches("Usage: ").trim_end()));
    for (heading, arguments) in by_heading(command) {
        line(format_args!("\n{level}# {heading}\n"));
        arguments.iter().for_each(|argument| line(format_args!("- {}", item(argument))));
    }
    if let Some(more) = command.get_after_help() {
        line(format_args!("\n{}", plain(&more.to_string())));
    }
}

/// The arguments in their order, under the headings that help shows them under.
fn by_heading(command: &Command) -> Vec<(&str, Vec<&Arg>)> {
    let mut all: Vec<(&str, Vec<&Arg>)> = Vec::new();
    for argument in command.get_arguments().filter(|argument| !argument.is_hide_set()) {
        let default = if argument.is_positional() { "Arguments" } else { "Options" };
        let heading = argument.get_help_heading().unwrap_or(default);
        match all.iter_mut().find(|(known, _)| *known == heading) {
            Some((_, arguments)) => arguments.push(argument),
            None => all.push((heading, vec![argument])),
        }
    }
    all
}

fn item(argument: &Arg) -> String {
    let takes_value = matches!(argument.get_action(), ArgAction::Set | ArgAction::Append);
    let values = argument.get_value_names().unwrap_or_default().iter().map(|name| name.as_str()).collect::<Vec<_>>();
    let value = if takes_value { values.join(" ") } else { String::new() };
    let short = argument.get_short().map(|short| format!("-{short}"));
    let long = argument.get_long().map(|long| format!("--{long}"));
    let flags: Vec<String> = short.into_iter().chain(long).collect();
    let flag = format!("{} {value}", flags.join(", "));
    let mut text = format!("`{}`", flag.trim());
    if let Some(help) = argument.get_help() {
        write!(text, ": {}", plain(&help.to_string())).expect("a String takes it");
    }
    let mut more = Vec::new();
    let aliases = argument.get_visible_aliases().unwrap_or_default();
    if !aliases.is_empty() {
        more.push(format!("also {}", aliases.iter().map(|name| format!("`--{name}`")).collect::<Vec<_>>().join(", ")));
    }
    let choices = argument.get_possible_values();
    if takes_value && !choices.is_empty() {
        let names =
            choices.iter().filter(|choice| !choice.is_hide_set()).map(|choice| format!("`{}`", choice.get_name()));
        more.push(format!("one of {}", names.collect::<Vec<_>>().join(", ")));
    }
    let defaults = argument.get_default_values();
    if takes_value && !defaults.is_empty() {
        let values = defaults.iter().map(|value| value.to_string_lossy()).collect::<Vec<_>>().join(" ");
        more.push(format!("default `{values}`"));
    }
    if !more.is_empty() {
        write!(text, " ({})", more.join("; ")).expect("a String takes it");
    }
    text
}

/// On one line, and what a page of the book would take for markup as text, but for what is in backticks anyway.
fn plain(help: &str) -> String {
    let line = help.split_whitespace().collect::<Vec<_>>().join(" ");
    let parts = line.split('`').enumerate().map(|(i, part)| {
        let is_code = i % 2 == 1;
        if is_code { part.to_owned() } else { part.replace('<', "&lt;").replace('*', "\\*").replace('[', "\\[") }
    });
    parts.collect::<Vec<_>>().join("`")
}
