//! Owns the exit file: policies and the model they belong to, as GGUF. Refuses a file made for another model.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use super::{Checkpoint, Crf, Input, Lens, Policy, Probe, Scorer, Svm, Target};
use crate::dtype::DType;
use crate::gguf::{self, File, Metadata, Writer};

/// Why an exit file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file breaks a rule of the format.
    #[error(transparent)]
    Gguf(#[from] gguf::Error),
    /// A field has a value that no policy has.
    #[error("{field}: expected {expected}, found {found} in `{}`", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// The field.
        field: String,
        /// What it may be.
        expected: String,
        /// What it is.
        found: String,
    },
    /// The file was trained on another model.
    #[error("`{}` was trained on another model: {field}: expected {expected}, found {found}\nhint: train one with `curtail train-exit`", path.display())]
    OtherModel {
        /// The file.
        path: PathBuf,
        /// What differs.
        field: &'static str,
        /// The loaded model's.
        expected: String,
        /// The file's.
        found: String,
    },
}

/// What tells models apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fingerprint {
    /// `general.architecture`.
    pub architecture: String,
    /// Layers, width and vocabulary.
    pub shape: [u32; 3],
    /// Of all vectors, which no quantization touches: FNV-1a, 64 bits, in hex.
    pub vectors: String,
    /// How many tensors of which type: differs between quantizations of one model.
    pub types: String,
}

impl Fingerprint {
    /// The fingerprint of a model file.
    pub fn of(file: &File) -> Result<Fingerprint, gguf::Error> {
        let metadata = file.metadata();
        let architecture = metadata.need_str("general.architecture")?.to_owned();
        let size = |key: &str| metadata.need_u32(&format!("{architecture}.{key}"));
        let n_vocab = metadata.strings("tokenizer.ggml.tokens")?.map_or(0, <[String]>::len) as u32;
        let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
        let mut types = std::collections::BTreeMap::<&str, usize>::new();
        for tensor in file.tensors() {
            *types.entry(tensor.dtype.name()).or_default() += 1;
            if tensor.dims().len() == 1 && tensor.dtype == DType::F32 {
                for byte in tensor.name.bytes().chain(file.data(tensor).iter().copied()) {
                    hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
                }
            }
        }
        let types: Vec<String> = types.into_iter().map(|(name, n)| format!("{n} {name}")).collect();
        Ok(Fingerprint {
            shape: [size("block_count")?, size("embedding_length")?, n_vocab],
            architecture,
            vectors: format!("{hash:016x}"),
            types: types.join(", "),
        })
    }
}

/// Policies, and the model they were trained on.
#[derive(Clone, Debug, PartialEq)]
pub struct ExitFile {
    /// The model.
    pub model: Fingerprint,
    /// Drafts that were measured to pay, where there were any.
    pub draft: Option<Draft>,
    /// One for each task.
    pub policies: Vec<Policy>,
}

/// Where drafts come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Draft {
    /// The source, as in `--draft`.
    pub source: String,
    /// Drafts between two evaluations at full depth, 1 to [`Draft::MOST`].
    pub most: u32,
}

impl Draft {
    /// More drafts at once than this are never worth their evaluation; `--draft-max` has the same limit.
    pub const MOST: u32 = 64;
}

const VERSION: u32 = 3;
const INPUTS: [(&str, Input); 5] = [
    ("confidence", Input::Confidence),
    ("hidden", Input::Hidden),
    ("labels", Input::Labels),
    ("vocabulary", Input::Vocabulary),
    ("choices", Input::Choices),
];
const TARGETS: [(&str, Target); 2] = [("model", Target::Model), ("truth", Target::Truth)];

fn name_of<T: PartialEq>(names: &[(&'static str, T)], value: &T) -> &'static str {
    names.iter().find(|(_, v)| v == value).map_or("", |(name, _)| name)
}

impl Input {
    /// The name in files and flags.
    pub fn name(self) -> &'static str {
        name_of(&INPUTS, &self)
    }
}

impl Target {
    /// The name in files and flags.
    pub fn name(self) -> &'static str {
        name_of(&TARGETS, &self)
    }
}

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
        let mut tensors: Vec<(String, Vec<usize>, Vec<f32>)> = Vec::new();
        for (p, policy) in self.policies.iter().enumerate() {
            let key = |name: &str| format!("exit.{p}.{name}");
            meta.insert(key("task"), policy.task.as_str());
            meta.insert(key("labels"), policy.labels.clone());
            meta.insert(key("input"), policy.input.name());
            meta.insert(key("target"), policy.target.name());
            meta.insert(key("rows"), policy.n_rows as u32);
            meta.insert(key("shots"), policy.n_shots as u32);
            meta.insert(key("layers"), policy.checkpoints.iter().map(|c| c.layer as u32).collect::<Vec<_>>());
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
            Ok::<_, gguf::Error>(Cow::Owned(values.iter().flat_map(|v| v.to_le_bytes()).collect()))
        })
    }

    /// Reads a file.
    pub fn open(path: &Path) -> Result<ExitFile, Error> {
        let file = File::open(path)?;
        let meta = file.metadata();
        let reader = Reader { file: &file, path };
        let kind = meta.need_str("general.architecture")?;
        if kind != "curtail-exit" {
            return Err(reader.invalid("general.architecture", "`curtail-exit`", kind));
        }
        let version = meta.need_u32("exit.version")?;
        if version != VERSION {
            return Err(reader.invalid("exit.version", VERSION, version));
        }
        let shape = reader.u32s("exit.model.shape")?;
        let model = Fingerprint {
            architecture: meta.need_str("exit.model.architecture")?.to_owned(),
            shape: shape.try_into().map_err(|_| reader.invalid("exit.model.shape", "three numbers", "others"))?,
            vectors: meta.need_str("exit.model.vectors")?.to_owned(),
            types: meta.need_str("exit.model.types")?.to_owned(),
        };
        let n = meta.need_u32("exit.policies")? as usize;
        if n == 0 {
            return Err(reader.invalid("exit.policies", "1 or more", n));
        }
        let policies: Vec<Policy> = (0..n).map(|p| reader.policy(p, &model)).collect::<Result<_, _>>()?;
        reader.check_names(&policies)?;
        Ok(ExitFile { draft: reader.draft()?, model, policies })
    }

    /// Reads a file for a loaded model. The second result warns where the file was trained on another quantization.
    pub fn open_for(path: &Path, model: &Fingerprint) -> Result<(ExitFile, Option<String>), Error> {
        let file = ExitFile::open(path)?;
        let differs = |field, expected: String, found: String| Error::OtherModel {
            path: path.to_owned(),
            field,
            expected,
            found,
        };
        if file.model.architecture != model.architecture {
            return Err(differs("architecture", model.architecture.clone(), file.model.architecture));
        }
        if file.model.shape != model.shape {
            let text = |[layers, width, vocab]: [u32; 3]| format!("{layers} layers, width {width}, vocabulary {vocab}");
            return Err(differs("shape", text(model.shape), text(file.model.shape)));
        }
        if file.model.vectors != model.vectors {
            return Err(differs("hash of the norms", model.vectors.clone(), file.model.vectors));
        }
        let warning = (file.model.types != model.types).then(|| {
            format!(
                "`{}` was trained on another quantization of this model ({}; this one has {})",
                path.display(),
                file.model.types,
                model.types
            )
        });
        Ok((file, warning))
    }
}

fn put_checkpoint(tensors: &mut Vec<(String, Vec<usize>, Vec<f32>)>, p: usize, checkpoint: &Checkpoint) {
    let name = |what: &str| format!("exit.{p}.{}.{what}", checkpoint.layer);
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
    tensors.push((name("least"), vec![1], vec![checkpoint.threshold]));
    match &checkpoint.scorer {
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

struct Reader<'f> {
    file: &'f File,
    path: &'f Path,
}

impl Reader<'_> {
    fn invalid(&self, field: &str, expected: impl ToString, found: impl ToString) -> Error {
        Error::Invalid {
            path: self.path.to_owned(),
            field: field.to_owned(),
            expected: expected.to_string(),
            found: found.to_string(),
        }
    }

    fn u32s(&self, key: &str) -> Result<Vec<u32>, Error> {
        match self.file.metadata().get(key) {
            Some(gguf::Value::Array(gguf::Array::U32(values))) => Ok(values.clone()),
            Some(other) => Err(self.invalid(key, "an array of u32", other.describe())),
            None => Err(self.invalid(key, "an array of u32", "no such key")),
        }
    }

    fn draft(&self) -> Result<Option<Draft>, Error> {
        let meta = self.file.metadata();
        let Some(source) = meta.str("exit.draft.source")? else { return Ok(None) };
        let most = meta.need_u32("exit.draft.most")?;
        if !(1..=Draft::MOST).contains(&most) {
            return Err(self.invalid("exit.draft.most", format!("1 to {}", Draft::MOST), most));
        }
        Ok(Some(Draft { source: source.to_owned(), most }))
    }

    /// Whoever looks for a task takes the first policy of its name: a second one would never be seen.
    fn check_names(&self, policies: &[Policy]) -> Result<(), Error> {
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

    fn policy(&self, p: usize, model: &Fingerprint) -> Result<Policy, Error> {
        let meta = self.file.metadata();
        let key = |name: &str| format!("exit.{p}.{name}");
        let task = meta.need_str(&key("task"))?.to_owned();
        let labels = meta.need_strings(&key("labels"))?.to_vec();
        let input = self.named(&key("input"), &INPUTS)?;
        self.check_use(p, &task, input, &labels)?;
        let layers = self.u32s(&key("layers"))?;
        if !layers.is_sorted_by(|a, b| a < b) || layers.iter().any(|&l| l == 0 || l >= model.shape[0]) {
            let expected = format!("layers between 1 and {}, rising", model.shape[0].saturating_sub(1));
            return Err(self.invalid(&key("layers"), expected, format!("{layers:?}")));
        }
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
            .map(|&layer| self.checkpoint(p, layer as usize, n_in, n_labels, n_embd))
            .collect::<Result<_, _>>()?;
        let has_lens = |checkpoint: &&Checkpoint| checkpoint.lens.is_some();
        let with_lens = checkpoints.iter().filter(has_lens).count();
        if with_lens > 0
            && let Some(without) = checkpoints.iter().find(|checkpoint| checkpoint.lens.is_none())
        {
            let field = format!("tensor `exit.{p}.{}.lens.weight`", without.layer);
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
        let found = self.file.metadata().need_str(key)?;
        let expected: Vec<&str> = names.iter().map(|(name, _)| *name).collect();
        let value = names.iter().find(|(name, _)| *name == found).map(|(_, value)| *value);
        value.ok_or_else(|| self.invalid(key, expected.join(", "), found))
    }

    fn checkpoint(
        &self,
        p: usize,
        layer: usize,
        n_in: Option<usize>,
        n_labels: usize,
        n_embd: usize,
    ) -> Result<Checkpoint, Error> {
        let name = |what: &str| format!("exit.{p}.{layer}.{what}");
        let read_probe = |n_in| {
            let weights = self.tensor(&name("weight"), &[n_in, n_labels])?;
            Ok::<_, Error>(Probe { weights, bias: self.tensor(&name("bias"), &[n_labels])? })
        };
        let read_lens = |_| {
            let weights = self.tensor(&name("lens.weight"), &[n_embd, n_embd])?;
            Ok::<_, Error>(Lens { weights, bias: self.tensor(&name("lens.bias"), &[n_embd])? })
        };
        Ok(Checkpoint {
            layer,
            lens: self.file.tensor(&name("lens.weight")).map(read_lens).transpose()?,
            probe: n_in.map(read_probe).transpose()?,
            scorer: self.scorer(&name)?,
            threshold: self.threshold(&name("least"))?,
        })
    }

    fn scorer(&self, name: &dyn Fn(&str) -> String) -> Result<Scorer, Error> {
        let has = |what: &str| self.file.tensor(&name(what)).is_some();
        if has("linear") {
            let values = self.tensor(&name("linear"), &[3])?;
            return Ok(Scorer::Linear { weights: [values[0], values[1]], bias: values[2] });
        }
        if has("svm") {
            let numbers = self.tensor(&name("svm"), &[2])?;
            if numbers[1] <= 0.0 {
                let field = format!("tensor `{}`", name("svm"));
                return Err(self.invalid(&field, "a width above 0 behind the offset", numbers[1]));
            }
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
        if tensor.dtype != DType::F32 || tensor.dims() != shape {
            return Err(self.invalid(&field, expected, format!("{} {:?}", tensor.dtype, tensor.dims())));
        }
        let values = self.file.data(tensor).chunks_exact(4);
        Ok(values.map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> ExitFile {
        let probe = Probe { weights: vec![0.5; 8], bias: vec![0.0, 1.0] };
        let svm = Svm { vectors: vec![[0.5, 0.25]], alpha: vec![2.0], rho: 0.5, width: 0.1 };
        let policy = |input: Input, checkpoints| Policy {
            task: format!("by {}", input.name()),
            labels: vec![" a".into(), " b".into()],
            input,
            target: Target::Model,
            n_rows: 100,
            n_shots: 8,
            checkpoints,
        };
        let model = Fingerprint {
            architecture: "llama".into(),
            shape: [8, 4, 10],
            vectors: "0123456789abcdef".into(),
            types: "3 f32".into(),
        };
        let checkpoint = |layer, scorer| Checkpoint { layer, lens: None, probe: None, scorer, threshold: 0.75 };
        let lens = Some(Lens { weights: vec![0.25; 16], bias: vec![0.5; 4] });
        let hidden = vec![Checkpoint { probe: Some(probe), lens, ..checkpoint(3, Scorer::Top) }];
        let crf = Crf { state: [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]], transition: [[1.0, 2.0], [3.0, 4.0]] };
        let linear = Scorer::Linear { weights: [1.0, 2.0], bias: 0.5 };
        let vocabulary = vec![checkpoint(2, Scorer::Svm(svm)), checkpoint(4, linear), checkpoint(6, Scorer::Crf(crf))];
        let draft = Some(Draft { source: "skip:2:attn".into(), most: 4 });
        ExitFile { model, draft, policies: vec![policy(Input::Hidden, hidden), policy(Input::Vocabulary, vocabulary)] }
    }

    #[test]
    fn a_file_comes_back_and_belongs_to_one_model() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.exit.gguf");
        let file = example();
        file.save(&path).unwrap();
        assert_eq!(ExitFile::open(&path).unwrap(), file);
        assert_eq!(ExitFile::open_for(&path, &file.model).unwrap().1, None);
        let requantized = Fingerprint { types: "3 f32, 1 q4_0".into(), ..file.model.clone() };
        assert!(ExitFile::open_for(&path, &requantized).unwrap().1.unwrap().contains("another quantization"));
        let other = Fingerprint { vectors: "ffff".into(), ..file.model.clone() };
        let error = ExitFile::open_for(&path, &other).unwrap_err().to_string();
        assert!(error.contains("trained on another model: hash of the norms"), "{error}");
        let bytes = std::fs::read(&path).unwrap();
        for n in [bytes.len() - 33, bytes.len() / 2, 30] {
            std::fs::write(&path, &bytes[..n]).unwrap();
            assert!(ExitFile::open(&path).is_err(), "{n} of {} bytes", bytes.len());
        }
    }

    #[test]
    fn fields_are_checked() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.exit.gguf");
        let mut file = example();
        file.policies[0].checkpoints[0].layer = 8;
        file.save(&path).unwrap();
        let error = ExitFile::open(&path).unwrap_err().to_string();
        assert!(error.starts_with("exit.0.layers: expected layers between 1 and 7, rising, found [8]"), "{error}");
    }
}
