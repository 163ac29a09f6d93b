//! A tiny model of four layers with an exit file that fits it, both made here.

use std::path::{Path, PathBuf};

use curtail::exit::{Checkpoint, Crf, Draft, ExitFile, Fingerprint, Input, Lens, Policy, Probe, Scorer, Svm, Target};
use curtail::gguf::File;
use curtail::plan::LayerCount;
use tempfile::TempDir;

use crate::common::tiny::{N_EMBD, Tiny, TinyTensor};

pub(super) const N_LAYER: usize = 4;

/// A folder with a model, and what goes beside it.
pub(super) struct Made {
    pub(super) folder: TempDir,
    pub(super) model: String,
}

impl Made {
    pub(super) fn new() -> Made {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("tiny.gguf");
        deep().write(&path);
        Made { model: path.to_str().expect("UTF-8").to_owned(), folder }
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(super) fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(&File::open(Path::new(&self.model)).expect("a model")).expect("a model")
    }

    /// Its exit file, whose every checkpoint is sure of every token.
    pub(super) fn exit_file(&self) -> ExitFile {
        let tokens = [1, 2, 3].map(|layer| Checkpoint { probe: Some(sure()), lens: Some(same()), ..plain(layer) });
        let linear = Scorer::Linear { weights: [1.0, 2.0], bias: 0.5 };
        let svm = Svm { vectors: vec![[0.5, 0.25], [0.75, 0.5]], alpha: vec![2.0, -1.0], rho: 0.5, width: 0.1 };
        let crf = Crf { state: [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]], transition: [[1.0, 2.0], [3.0, 4.0]] };
        let scorers = [linear, Scorer::Svm(svm), Scorer::Crf(crf)];
        let own = scorers.into_iter().enumerate().map(|(i, scorer)| Checkpoint { scorer, ..plain(i + 1) }).collect();
        let hidden = Checkpoint { probe: Some(probe(N_EMBD, [0.0, 1.0])), ..plain(2) };
        let labels = Checkpoint { probe: Some(probe(2, [0.0, 1.0])), ..plain(2) };
        let two = || vec!["a".to_owned(), "b".to_owned()];
        ExitFile {
            model: self.fingerprint(),
            draft: Some(Draft { source: "layer:2".into(), most: 4 }),
            policies: vec![
                policy(Policy::OWN, Input::Vocabulary, Vec::new(), own),
                policy(Policy::TOKENS, Input::Confidence, Vec::new(), tokens.into()),
                policy("hidden", Input::Hidden, two(), vec![hidden]),
                policy("labels", Input::Labels, two(), vec![labels]),
            ],
        }
    }

    /// The same as parts that a test may replace.
    pub(super) fn exit_parts(&self) -> Tiny {
        let path = self.path("whole.gguf");
        self.exit_file().save(&path).expect("written");
        let file = File::open(&path).expect("what was written");
        let tensor = |info: &curtail::gguf::TensorInfo| TinyTensor {
            name: info.name.clone(),
            dims: info.dims().to_vec(),
            dtype: info.dtype,
            bytes: file.data(info).to_vec(),
        };
        Tiny { metadata: file.metadata().clone(), tensors: file.tensors().iter().map(tensor).collect() }
    }
}

/// The tiny model with its two layers twice.
fn deep() -> Tiny {
    let mut tiny = Tiny::new().with("llama.block_count", N_LAYER as u32);
    let again = |tensor: &TinyTensor| {
        let name = [("blk.0.", "blk.2."), ("blk.1.", "blk.3.")];
        let (from, to) = name.into_iter().find(|(from, _)| tensor.name.starts_with(from))?;
        let TinyTensor { dims, dtype, bytes, .. } = tensor;
        let name = tensor.name.replace(from, to);
        Some(TinyTensor { name, dims: dims.clone(), dtype: *dtype, bytes: bytes.clone() })
    };
    let more: Vec<TinyTensor> = tiny.tensors.iter().filter_map(again).collect();
    tiny.tensors.extend(more);
    tiny
}

fn policy(task: &str, input: Input, labels: Vec<String>, checkpoints: Vec<Checkpoint>) -> Policy {
    Policy { task: task.into(), labels, input, target: Target::Model, n_rows: 100, n_shots: 0, checkpoints }
}

fn plain(layer: usize) -> Checkpoint {
    Checkpoint { at: LayerCount(layer), lens: None, probe: None, scorer: Scorer::Top, threshold: 0.5 }
}

fn probe(n_in: usize, bias: [f32; 2]) -> Probe {
    Probe { weights: vec![0.0; 2 * n_in], bias: bias.to_vec() }
}

/// Says "right" of whatever it sees.
fn sure() -> Probe {
    probe(N_EMBD, [0.0, 50.0])
}

/// Leaves a state as it is.
fn same() -> Lens {
    let weights = (0..N_EMBD * N_EMBD).map(|i| if i % (N_EMBD + 1) == 0 { 1.0 } else { 0.0 });
    Lens { weights: weights.collect(), bias: vec![0.0; N_EMBD] }
}
