//! Owns the exit file: policies and the model they belong to, as GGUF. Refuses a file made for another model.

mod read;
mod write;

use std::path::{Path, PathBuf};

use super::{Input, Policy, Target};
use crate::dtype::DType;
use crate::gguf::{self, File};
use read::Reader;

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
            // Norms and biases stay as they are in every quantization, and tell models of one shape apart.
            if tensor.dims().len() == 1 && tensor.dtype == DType::F32 {
                // The name too: equal vectors at other places are another model.
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
    /// Reads a file.
    pub fn open(path: &Path) -> Result<ExitFile, Error> {
        let file = File::open(path)?;
        let meta = file.metadata();
        let reader = Reader { file: &file, path };
        let kind = meta.need_str("general.architecture")?;
        // A model named by mistake is a GGUF file too.
        if kind != "curtail-exit" {
            return Err(reader.invalid("general.architecture", "`curtail-exit`", kind));
        }
        let version = meta.need_u32("exit.version")?;
        // Fields may have changed their meaning: what is not known is not guessed.
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
        // From the plainest difference on: the first one is told.
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
        // Another quantization has nearly the same states: worth a word, not an error.
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

#[cfg(test)]
mod tests {
    use super::super::{Checkpoint, Crf, Lens, Probe, Scorer, Svm};
    use super::*;
    use crate::plan::LayerCount;

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
        let checkpoint =
            |layer, scorer| Checkpoint { at: LayerCount(layer), lens: None, probe: None, scorer, threshold: 0.75 };
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
        file.policies[0].checkpoints[0].at = LayerCount(8);
        file.save(&path).unwrap();
        let error = ExitFile::open(&path).unwrap_err().to_string();
        assert!(error.starts_with("exit.0.layers: expected layers between 1 and 7, rising, found [8]"), "{error}");
    }
}
