//! Writes an exit file.

use std::borrow::Cow;
use std::path::Path;

use super::{ExitFile, VERSION};
use crate::dtype::DType;
use crate::exit::{Checkpoint, Scorer};
use crate::gguf::{self, Metadata, Writer};

/// Name, dimensions and values.
type Tensor = (String, Vec<usize>, Vec<f32>);

impl ExitFile {
    /// Writes the file, complete or not at all.
    pub fn save(&self, path: &Path) -> Result<(), gguf::Error> {
        let mut meta = Metadata::new();
        meta.insert("general.architecture", "curtail-exit");
        meta.insert("exit.version", VERSION);
        meta.insert("exit.model.architecture", self.model.architecture.as_str());
        meta.insert("exit.model.shape", self.model.shape.to_vec());
        meta.insert("exit.model.vectors", self.model.vectors.as_str());
        meta.insert("exit.model.types", self.model.types.as_str());
        meta.insert("exit.policies", self.policies.len() as u32);
        if let Some(draft) = &self.draft {
            meta.insert("exit.draft.source", draft.source.as_str());
            meta.insert("exit.draft.most", draft.most);
        }
        // Declared first, written then: a GGUF file begins with what is in it.
        let mut tensors: Vec<Tensor> = Vec::new();
        for (p, policy) in self.policies.iter().enumerate() {
            let key = |name: &str| format!("exit.{p}.{name}");
            meta.insert(key("task"), policy.task.as_str());
            meta.insert(key("labels"), policy.labels.clone());
            meta.insert(key("input"), policy.input.name());
            meta.insert(key("target"), policy.target.name());
            meta.insert(key("rows"), policy.n_rows as u32);
            meta.insert(key("shots"), policy.n_shots as u32);
            meta.insert(key("layers"), policy.checkpoints.iter().map(|c| c.at.0 as u32).collect::<Vec<_>>());
            for checkpoint in &policy.checkpoints {
                put_checkpoint(&mut tensors, p, checkpoint);
            }
        }
        let mut writer = Writer::new(meta);
        for (name, dims, _) in &tensors {
            writer.tensor(name, dims, DType::F32)?;
        }
        let mut data = tensors.iter();
        writer.write(path, |_| {
            let (.., values) = data.next().expect("as many as were declared");
            // Little-endian on every machine, as the format says.
            Ok::<_, gguf::Error>(Cow::Owned(values.iter().flat_map(|v| v.to_le_bytes()).collect()))
        })
    }
}

fn put_checkpoint(tensors: &mut Vec<Tensor>, p: usize, checkpoint: &Checkpoint) {
    let name = |what: &str| format!("exit.{p}.{}.{what}", checkpoint.at);
    if let Some(probe) = &checkpoint.probe {
        let n_labels = probe.bias.len();
        tensors.push((name("weight"), vec![probe.weights.len() / n_labels, n_labels], probe.weights.clone()));
        tensors.push((name("bias"), vec![n_labels], probe.bias.clone()));
    }
    if let Some(lens) = &checkpoint.lens {
        let n_embd = lens.bias.len();
        tensors.push((name("lens.weight"), vec![n_embd, n_embd], lens.weights.clone()));
        tensors.push((name("lens.bias"), vec![n_embd], lens.bias.clone()));
    }
    // One number as a tensor, as all that a checkpoint has.
    tensors.push((name("least"), vec![1], vec![checkpoint.threshold]));
    match &checkpoint.scorer {
        // Nothing to write: a file without a scorer's tensors means the top itself.
        Scorer::Top => {}
        Scorer::Linear { weights: [top, gap], bias } => {
            tensors.push((name("linear"), vec![3], vec![*top, *gap, *bias]));
        }
        Scorer::Svm(svm) => {
            tensors.push((name("svm"), vec![2], vec![svm.rho, svm.width]));
            tensors.push((name("svm.alpha"), vec![svm.alpha.len()], svm.alpha.clone()));
            tensors.push((name("svm.vectors"), vec![2, svm.vectors.len()], svm.vectors.concat()));
        }
        Scorer::Crf(crf) => {
            tensors.push((name("crf.state"), vec![3, 2], crf.state.concat()));
            tensors.push((name("crf.transition"), vec![2, 2], crf.transition.concat()));
        }
    }
}
