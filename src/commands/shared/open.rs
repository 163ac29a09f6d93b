//! Opens what a command runs on: finds the model file, loads it, makes a sequence. Owns the defaults of the machine.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, ensure};

use super::devices::{self, Needs};
use super::exits::Exits;
use super::hub_model::named_model;
use super::{Usage, note, plan, template};
use crate::cli::{CacheArgs, ContextArgs, DeviceArgs, ExitArgs, LoadArgs, ModelArgs, TemplateArgs};
use crate::engine::{EngineParams, Sequence};
use crate::generate::Decoder;
use crate::gguf::File;
use crate::hub;
use crate::model::{Config, Model};
use crate::tokenizer::{ChatTemplate, Tokenizer};

/// What is said of a model without a chat template: it is never given another model's.
const NO_TEMPLATE: &str =
    "note: the model brings no chat template. Completion mode: it continues the text that it is given.";

/// What is said where the user wants none.
const WANTS_NO_TEMPLATE: &str =
    "note: no chat template, as you wish. Completion mode: the model continues the text that it is given.";

/// Says why there is no template.
pub(crate) fn note_no_template(args: &TemplateArgs) {
    note(if args.chat_template.is_some() { WANTS_NO_TEMPLATE } else { NO_TEMPLATE });
}

/// A model ready to answer.
pub(crate) struct Opened {
    pub(crate) file: Arc<File>,
    pub(crate) tokenizer: Tokenizer,
    pub(crate) sequence: Sequence,
}

impl Opened {
    /// Loads the model that the flags or the surroundings name.
    pub(crate) fn open(args: &LoadArgs) -> anyhow::Result<Opened> {
        let (file, tokenizer, model) = open_model(&find_model(&args.model)?, args)?;
        warn_of_context(args.context.ctx_size, &model, "-c asks for");
        let plan = plan::steps(args.layers.as_ref(), &model)?;
        let params = engine_params(&args.context).with_plan(plan);
        let sequence = Sequence::alone(model, params).context("cannot make a sequence")?;
        Ok(Opened { file, tokenizer, sequence })
    }

    /// Loads the model at `path` to generate with; everything else is as the flags say.
    pub(crate) fn load(path: &Path, args: &LoadArgs, exits: &ExitArgs) -> anyhow::Result<(Opened, Decoder)> {
        let (file, tokenizer, model) = open_model(path, args)?;
        warn_of_context(args.context.ctx_size, &model, "-c asks for");
        let plan = plan::steps(args.layers.as_ref(), &model)?;
        let exits = Exits::new(exits, &file, &model, &plan)?;
        let params = exits.params(engine_params(&args.context).with_plan(plan));
        let sequence = Sequence::alone(model, params).context("cannot make a sequence")?;
        Ok((Opened { file, tokenizer, sequence }, exits.decoder))
    }

    /// The chat template that the flags name, else the model's, if it brings one.
    pub(crate) fn template(&self, args: &TemplateArgs) -> anyhow::Result<Option<ChatTemplate>> {
        template::choose(args.chat_template.as_deref(), self.file.metadata())
    }
}

/// Loads the file at `path` with its tokenizer.
pub(crate) fn open_model(path: &Path, args: &LoadArgs) -> anyhow::Result<(Arc<File>, Tokenizer, Arc<Model>)> {
    let file = Arc::new(File::open(path)?);
    let context = || format!("cannot load `{}`", path.display());
    let tokenizer = Tokenizer::from_gguf(file.metadata()).with_context(context)?;
    tokenizer.notice().iter().for_each(|notice| note(format_args!("note: {notice}")));
    check_rows(&file, &tokenizer)?;
    let model = load_model(&file, n_threads(args.threads), &args.devices, &engine_params(&args.context))?;
    if let Some(summary) = devices::summary(model.placement(), model.config().n_layer) {
        note(summary);
    }
    Ok((file, tokenizer, model))
}

/// Says that a context is longer than what the model has learned.
pub(crate) fn warn_of_context(n_ctx: usize, model: &Model, asks: &str) {
    let trained = model.config().n_ctx_train;
    if n_ctx > trained {
        note(format_args!(
            "warning: the model was trained with {trained} tokens of context, {asks} {n_ctx}\n\
             hint: beyond {trained} it is lost; -c {trained} stays within"
        ));
    }
}

/// Refuses a vocabulary with tokens that the embedding has no row for: a text would run until one of them comes. Rows without a
/// token do no harm.
fn check_rows(file: &File, tokenizer: &Tokenizer) -> anyhow::Result<()> {
    let n_tokens = tokenizer.n_vocab();
    let Some(embedding) = file.tensor("token_embd.weight") else { return Ok(()) };
    let n_rows = embedding.shape[1];
    ensure!(
        n_tokens <= n_rows,
        "cannot load `{}`: token_embd.weight: expected {n_tokens} rows, one for each of `tokenizer.ggml.tokens`, found {n_rows}",
        file.path().display()
    );
    Ok(())
}

/// Loads the weights of a file onto the devices that the flags name, with room for sequences like this. The CPU computes with
/// `n_threads` threads.
pub(crate) fn load_model(
    file: &Arc<File>,
    n_threads: usize,
    args: &DeviceArgs,
    params: &EngineParams,
) -> anyhow::Result<Arc<Model>> {
    let context = || format!("cannot load `{}`", file.path().display());
    let config = Config::from_gguf(file).with_context(context)?;
    params.context_for(&config).with_context(context)?;
    let needs = Needs::new(file, &config, params);
    let placement = devices::place(args, devices::find(args, n_threads)?, &needs, params)?;
    let bar = devices::progress(&placement, &needs);
    let model = Model::place(Arc::clone(file), config, placement, &mut |sent| bar.set_position(sent as u64));
    bar.finish_and_clear();
    let model = Arc::new(model.with_context(context)?);
    tell_remarks(file);
    Ok(model)
}

/// Says once what is odd about a file that is used all the same.
pub(crate) fn tell_remarks(file: &File) {
    let path = file.path().display();
    file.metadata().take_remarks().iter().for_each(|remark| note(format_args!("warning: `{path}`: {remark}")));
}

/// The model file: the one named, which may be pulled first, else the one in `models/`.
pub(crate) fn find_model(args: &ModelArgs) -> anyhow::Result<PathBuf> {
    match args.named() {
        Some(path) => named_model(&path),
        None => only_model(Path::new("models")),
    }
}

/// The threads that `-t` asks for, as far as they help.
pub(crate) fn n_threads(asked: Option<u32>) -> usize {
    asked.map_or_else(default_threads, |n| helpful_threads("-t", n as usize))
}

/// As many threads as asked for, and no more than run at once here: those beyond would wait for each other at every
/// operation, some hundred of them for minutes.
pub(crate) fn helpful_threads(name: &str, asked: usize) -> usize {
    let most = threads_at_once();
    if asked > most {
        note(format_args!(
            "note: {name}: expected at most {most}, as many as run at once here, found {asked}: taking {most}"
        ));
    }
    asked.min(most)
}

/// As many as this process may use, and ggml takes.
pub(crate) fn threads_at_once() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from).min(512)
}

/// One thread per physical core, as far as this process may use them: two threads of one core share the unit that
/// multiplies.
pub(crate) fn default_threads() -> usize {
    threads_at_once().min(num_cpus::get_physical()).max(1)
}

/// The parameters that the context flags spell; the others are the defaults.
pub(crate) fn engine_params(args: &ContextArgs) -> EngineParams {
    EngineParams { n_ctx: args.ctx_size, n_batch: args.batch_size, ..cache_params(&args.cache) }
}

/// The parameters that the cache flags spell; the others are the defaults.
pub(crate) fn cache_params(args: &CacheArgs) -> EngineParams {
    EngineParams {
        type_k: args.cache_type_k,
        type_v: args.cache_type_v,
        flash_attn: args.wants_flash_attn(),
        ..EngineParams::default()
    }
}

fn only_model(folder: &Path) -> anyhow::Result<PathBuf> {
    let fetch = if has_make_model(Path::new(".")) { "make model" } else { "curtail pull ORG/REPO" };
    let how = format!("hint: name one with -m or CURTAIL_MODEL; `{fetch}` fetches one");
    let mut models = models_in(folder);
    match models.len() {
        0 => Err(Usage(format!("no model given, and none in `{}`\n{how}", folder.display())).into()),
        1 => Ok(models.remove(0)),
        _ => {
            let names: Vec<_> = models.iter().map(|path| format!("`{}`", path.display())).collect();
            Err(Usage(format!("no model given, and several to choose from: {}\n{how}", names.join(", "))).into())
        }
    }
}

/// Whether a folder is a checkout of this program, whose Makefile fetches a model.
fn has_make_model(folder: &Path) -> bool {
    folder.join("Makefile").is_file() && folder.join("models/fetch-demo-model.py").is_file()
}

/// The models in a folder, by name; of split ones the first parts.
pub(crate) fn models_in(folder: &Path) -> Vec<PathBuf> {
    let paths = std::fs::read_dir(folder).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path()));
    let is_model = |path: &PathBuf| hub::is_model(&path.file_name().unwrap_or_default().to_string_lossy());
    let mut models: Vec<PathBuf> = paths.filter(is_model).collect();
    models.sort();
    models
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_only_model_of_a_folder_is_taken() {
        let folder = tempfile::tempdir().unwrap();
        let none = only_model(folder.path()).unwrap_err();
        assert!(none.is::<Usage>() && none.to_string().contains("\nhint: "), "{none}");
        let model = folder.path().join("a.gguf");
        std::fs::write(&model, "").unwrap();
        for other in ["README.md", "a-00002-of-00003.gguf", "a.exit.gguf"] {
            std::fs::write(folder.path().join(other), "").unwrap();
        }
        assert_eq!(only_model(folder.path()).unwrap(), model);
        std::fs::write(folder.path().join("b.gguf"), "").unwrap();
        assert!(only_model(folder.path()).unwrap_err().to_string().contains("b.gguf"));
    }
}
