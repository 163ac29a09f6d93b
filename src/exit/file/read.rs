//! Reads an exit file: nothing that it says is a fact before it was checked.

use std::path::Path;

use super::{Draft, Error, Fingerprint, INPUTS, TARGETS};
use crate::dtype::DType;
use crate::exit::{Checkpoint, Crf, Input, Lens, Policy, Probe, Scorer, Svm};
use crate::gguf::{self, File};
use crate::plan::LayerCount;

/// Reads fields, and says which of them no policy has.
pub(super) struct Reader<'f> {
    pub(super) file: &'f File,
    pub(super) path: &'f Path,
}

impl Reader<'_> {
    pub(super) fn invalid(&self, field: &str, expected: impl ToString, found: impl ToString) -> Error {
        Error::Invalid {
            path: self.path.to_owned(),
            field: field.to_owned(),
            expected: expected.to_string(),
            found: found.to_string(),
        }
    }

    pub(super) fn u32s(&self, key: &str) -> Result<Vec<u32>, Error> {
        match self.file.metadata().get(key) {
            Some(gguf::Value::Array(gguf::Array::U32(values))) => Ok(values.clone()),
            Some(other) => Err(self.invalid(key, "an array of u32", other.describe())),
            None => Err(self.invalid(key, "an array of u32", "no such key")),
        }
    }

    pub(super) fn draft(&self) -> Result<Option<Draft>, Error> {
        let meta = self.file.metadata();
        // Files of models where no draft pays say nothing of drafts.
        let Some(source) = meta.str("exit.draft.source")? else { return Ok(None) };
        let most = meta.need_u32("exit.draft.most")?;
        // So many drafts are made before anything is verified: a file must not ask for any number.
        if !(1..=Draft::MOST).contains(&most) {
            return Err(self.invalid("exit.draft.most", format!("1 to {}", Draft::MOST), most));
        }
        Ok(Some(Draft { source: source.to_owned(), most }))
    }

    /// Whoever looks for a task takes the first policy of its name: a second one would never be seen.
    pub(super) fn check_names(&self, policies: &[Policy]) -> Result<(), Error> {
        for (p, policy) in policies.iter().enumerate() {
            if policies[..p].iter().any(|other| other.task == policy.task) {
                let found = format!("{:?} a second time", policy.task);
                return Err(self.invalid(&format!("exit.{p}.task"), "a name that no other policy has", found));
            }
        }
        Ok(())
    }

    /// Whether a policy reads what its name says, and has the labels that its read-outs name.
    fn check_use(&self, p: usize, task: &str, input: Input, labels: &[String]) -> Result<(), Error> {
        let expected = match task {
            Policy::TOKENS if input != Input::Confidence => "`confidence`, which is what tokens are read by",
            Policy::OWN if input != Input::Vocabulary => "`vocabulary`, as questions of any kind have no other labels",
            Policy::TOKENS | Policy::OWN => "",
            _ if input == Input::Confidence => "another input: a confidence is read of tokens only",
            _ => "",
        };
        if !expected.is_empty() {
            return Err(self.invalid(&format!("exit.{p}.input"), expected, format!("`{}`", input.name())));
        }
        let has_labels = if input.is_fitted() { labels.len() >= 2 } else { true };
        if !has_labels {
            return Err(self.invalid(&format!("exit.{p}.labels"), "two or more", labels.len()));
        }
        Ok(())
    }

    pub(super) fn policy(&self, p: usize, model: &Fingerprint) -> Result<Policy, Error> {
        let meta = self.file.metadata();
        let key = |name: &str| format!("exit.{p}.{name}");
        let task = meta.need_str(&key("task"))?.to_owned();
        let labels = meta.need_strings(&key("labels"))?.to_vec();
        let input = self.named(&key("input"), &INPUTS)?;
        self.check_use(p, &task, input, &labels)?;
        let layers = self.u32s(&key("layers"))?;
        // The walk goes from one to the next: one that lies before another is never reached, and 0 layers show nothing.
        if !layers.is_sorted_by(|a, b| a < b) || layers.iter().any(|&l| l == 0 || l >= model.shape[0]) {
            let expected = format!("layers between 1 and {}, rising", model.shape[0].saturating_sub(1));
            return Err(self.invalid(&key("layers"), expected, format!("{layers:?}")));
        }
        // What the probe's matrix must have for a width: it is multiplied by what is seen.
        let n_in = match input {
            Input::Hidden | Input::Confidence => Some(model.shape[1] as usize),
            Input::Labels => Some(labels.len()),
            Input::Vocabulary | Input::Choices => None,
        };
        // A confidence is read as "wrong" or "right".
        let n_labels = if input == Input::Confidence { 2 } else { labels.len() };
        let n_embd = model.shape[1] as usize;
        let checkpoints: Vec<Checkpoint> = layers
            .iter()
            .map(|&layer| self.checkpoint(p, LayerCount(layer as usize), n_in, n_labels, n_embd))
            .collect::<Result<_, _>>()?;
        // Where lenses are read through, each look goes through one.
        let has_lens = |checkpoint: &&Checkpoint| checkpoint.lens.is_some();
        let with_lens = checkpoints.iter().filter(has_lens).count();
        if with_lens > 0
            && let Some(without) = checkpoints.iter().find(|checkpoint| checkpoint.lens.is_none())
        {
            let field = format!("tensor `exit.{p}.{}.lens.weight`", without.at);
            let expected = "one, as other checkpoints of the policy have a lens";
            return Err(self.invalid(&field, expected, "none"));
        }
        Ok(Policy {
            task,
            input,
            target: self.named(&key("target"), &TARGETS)?,
            n_rows: meta.need_u32(&key("rows"))? as usize,
            n_shots: meta.need_u32(&key("shots"))? as usize,
            checkpoints,
            labels,
        })
    }

    fn named<T: Copy>(&self, key: &str, names: &[(&str, T)]) -> Result<T, Error> {
        // By names, not by numbers: a file says what it means, and an unknown name is an error.
        let found = self.file.metadata().need_str(key)?;
        let expected: Vec<&str> = names.iter().map(|(name, _)| *name).collect();
        let value = names.iter().find(|(name, _)| *name == found).map(|(_, value)| *value);
        value.ok_or_else(|| self.invalid(key, expected.join(", "), found))
    }

    fn checkpoint(
        &self,
        p: usize,
        layers: LayerCount,
        n_in: Option<usize>,
        n_labels: usize,
        n_embd: usize,
    ) -> Result<Checkpoint, Error> {
        let name = |what: &str| format!("exit.{p}.{layers}.{what}");
        let read_probe = |n_in| {
            let weights = self.tensor(&name("weight"), &[n_in, n_labels])?;
            Ok::<_, Error>(Probe { weights, bias: self.tensor(&name("bias"), &[n_labels])? })
        };
        let read_lens = |_| {
            let weights = self.tensor(&name("lens.weight"), &[n_embd, n_embd])?;
            Ok::<_, Error>(Lens { weights, bias: self.tensor(&name("lens.bias"), &[n_embd])? })
        };
        Ok(Checkpoint {
            at: layers,
            lens: self.file.tensor(&name("lens.weight")).map(read_lens).transpose()?,
            probe: n_in.map(read_probe).transpose()?,
            scorer: self.scorer(&name)?,
            threshold: self.threshold(&name("least"))?,
        })
    }

    fn scorer(&self, name: &dyn Fn(&str) -> String) -> Result<Scorer, Error> {
        let has = |what: &str| self.file.tensor(&name(what)).is_some();
        // Told apart by the tensors that are there; none of them is the top itself.
        if has("linear") {
            let values = self.tensor(&name("linear"), &[3])?;
            return Ok(Scorer::Linear { weights: [values[0], values[1]], bias: values[2] });
        }
        if has("svm") {
            let numbers = self.tensor(&name("svm"), &[2])?;
            // The kernel divides by it.
            if numbers[1] <= 0.0 {
                let field = format!("tensor `{}`", name("svm"));
                return Err(self.invalid(&field, "a width above 0 behind the offset", numbers[1]));
            }
            // As many vectors as weights, whatever their number: both are checked against it.
            let n = self.file.tensor(&name("svm.alpha")).map_or(1, |t| t.elements());
            let alpha = self.tensor(&name("svm.alpha"), &[n])?;
            let vectors = self.tensor(&name("svm.vectors"), &[2, n])?;
            return Ok(Scorer::Svm(Svm {
                rho: numbers[0],
                width: numbers[1],
                alpha,
                vectors: vectors.chunks_exact(2).map(|v| [v[0], v[1]]).collect(),
            }));
        }
        if has("crf.state") {
            let state = self.tensor(&name("crf.state"), &[3, 2])?;
            // Two rows of three: weights of top, of gap, and a bias.
            let [wrong, right] = [0, 3].map(|i| [state[i], state[i + 1], state[i + 2]]);
            let moves = self.tensor(&name("crf.transition"), &[2, 2])?;
            let transition = [[moves[0], moves[1]], [moves[2], moves[3]]];
            return Ok(Scorer::Crf(Crf { state: [wrong, right], transition }));
        }
        Ok(Scorer::Top)
    }

    /// The score that is enough. Infinity is a number here: "never" and "always" are thresholds that training chooses.
    fn threshold(&self, name: &str) -> Result<f32, Error> {
        let threshold = self.values(name, &[1])?[0];
        // No score is at least NaN, nor less: whoever asked would never know.
        if threshold.is_nan() {
            return Err(self.invalid(&format!("tensor `{name}`"), "a number", threshold));
        }
        Ok(threshold)
    }

    /// Of finite numbers: anything else would spread into every reading.
    fn tensor(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, Error> {
        let values = self.values(name, shape)?;
        match values.iter().find(|value| !value.is_finite()) {
            Some(value) => Err(self.invalid(&format!("tensor `{name}`"), "finite numbers", value)),
            None => Ok(values),
        }
    }

    fn values(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, Error> {
        let field = format!("tensor `{name}`");
        let expected = format!("f32 {shape:?}");
        let Some(tensor) = self.file.tensor(name) else { return Err(self.invalid(&field, expected, "none")) };
        // Before a number is read: whatever is indexed later has this shape.
        if tensor.dtype != DType::F32 || tensor.dims() != shape {
            return Err(self.invalid(&field, expected, format!("{} {:?}", tensor.dtype, tensor.dims())));
        }
        let values = self.file.data(tensor).chunks_exact(4);
        Ok(values.map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect())
    }
}
