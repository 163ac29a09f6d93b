//! `layers`: measures what layers do, and leaves some out for good.

mod prune;
mod scan;
mod write;

use std::process::ExitCode;

use anyhow::ensure;

use super::shared::input;
use super::shared::open::Opened;
use crate::cli::{LayersArgs, LayersCommand, LoadArgs, MeasureArgs};
use crate::engine::{EngineParams, Sequence};
use crate::eval::layers::{Window, windows};
use crate::tokenizer::{Special, TokenId};

pub(super) fn run(args: &LayersArgs) -> anyhow::Result<ExitCode> {
    match &args.command {
        LayersCommand::Scan(args) => scan::run(args),
        LayersCommand::Prune(args) => prune::run(args),
    }
}

/// A model, and the text that it is measured on.
struct Lab {
    engine: Opened,
    windows: Vec<Window>,
    tokens: Vec<TokenId>,
}

impl Lab {
    fn open(load: &LoadArgs, args: &MeasureArgs) -> anyhow::Result<Lab> {
        let text = input::text(args.prompt.as_deref(), args.file.as_deref(), input::Kind::Corpus)?;
        let mut engine = Opened::open(load)?;
        let mut tokens = engine.tokenizer.encode(&text, Special::Plain);
        // One more than is measured: what follows the last.
        tokens.truncate(args.tokens + 1);
        let before = engine.tokenizer.encode_with_bos("", Special::Plain);
        let windows = windows(&tokens, &before, args.window);
        ensure!(!windows.is_empty(), "the text: expected at least 2 tokens, found {}", tokens.len());
        let n_ctx = windows.iter().map(|window| window.tokens.len()).max().unwrap_or(1);
        let found = engine.sequence.n_ctx();
        ensure!(n_ctx <= found, "--window: expected at most {} tokens (the context), found {}", found, args.window);
        let model = engine.sequence.model().clone();
        let params = EngineParams { n_ctx, ..engine.sequence.params().clone() };
        engine.sequence = Sequence::alone(model, params)?;
        Ok(Lab { engine, windows, tokens })
    }
}
