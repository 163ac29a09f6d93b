//! GGUF files: metadata, tensors and vocabularies.

mod context;
mod cut;
mod finite;
mod metadata;
mod sums;
mod tensors;
mod vocabulary;

use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};

use anyhow::Context;
use curtail::engine::{EngineParams, Sequence};
use curtail::ggml::Device;
use curtail::gguf::File;
use curtail::model::{Config, Model, Placement};
use curtail::tokenizer::{ChatTemplate, Special, Tokenizer};

use crate::common::curtail;
use crate::common::tiny::Tiny;
use crate::common::watched::{Ended, run};

/// One for all tests: its threads take longer to start than a tiny model to load.
static CPU: LazyLock<Arc<Device>> = LazyLock::new(|| Device::cpu(1).expect("a processor"));

/// The file of a model in a folder that goes with it.
pub(super) struct OnDisk {
    _folder: tempfile::TempDir,
    pub(super) path: PathBuf,
}

impl OnDisk {
    pub(super) fn new(tiny: &Tiny) -> OnDisk {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("odd.gguf");
        tiny.write(&path);
        OnDisk { _folder: folder, path }
    }

    pub(super) fn name(&self) -> &str {
        self.path.to_str().expect("UTF-8")
    }

    /// A path beside the model.
    pub(super) fn beside(&self, name: &str) -> PathBuf {
        self.path.with_file_name(name)
    }

    /// `run` with a prompt of a word and two tokens of answer.
    pub(super) fn run(&self, more: &[&str]) -> Ended {
        let arguments = ["run", "--raw", "-m", self.name(), "-p", "the", "-n", "2", "-t", "1", "--temp", "0"];
        run(&mut curtail(&[&arguments, more].concat()), b"")
    }
}

/// All that `run` does with a file until a token can be chosen, in this process: what is odd about the file.
pub(super) fn load_and_step(path: &Path) -> anyhow::Result<Vec<String>> {
    let file = Arc::new(File::open(path)?);
    let context = || format!("cannot load `{}`", path.display());
    let tokenizer = Tokenizer::from_gguf(file.metadata()).with_context(context)?;
    ChatTemplate::from_gguf(file.metadata()).with_context(context)?;
    let config = Config::from_gguf(&file).with_context(context)?;
    // The context that the metadata names is looked at; a cache of that size need not be there.
    EngineParams::default().context_for(&config).with_context(context)?;
    let model = Arc::new(Model::place(file.clone(), config, Placement::on_cpu(CPU.clone()), &mut |_| {})?);
    let n_ctx = model.config().n_ctx_train.min(64);
    let mut sequence =
        Sequence::alone(model, EngineParams { n_ctx, ..EngineParams::default() }).with_context(context)?;
    let mut ids = tokenizer.encode_with_bos("the hat", Special::Parse);
    ids.truncate(n_ctx);
    if ids.is_empty() {
        ids.push(0); // a vocabulary without the letters
    }
    sequence.sync(&ids, &mut |_, _| std::ops::ControlFlow::Continue(())).with_context(context)?;
    let logits = sequence.logits().with_context(context)?;
    assert!(logits.iter().all(|x| x.is_finite()), "{}: logits that are no numbers", path.display());
    Ok(file.metadata().take_remarks())
}
