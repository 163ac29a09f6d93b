//! A loaded model: configuration, weights, and the one forward pass, which takes a plan of layers. Owns nothing that
//! changes after loading; refuses files whose tensors do not have the shape they must have.

mod cache;
mod config;
mod llama;
mod parts;
mod weights;

pub use cache::{Cache, ValueLayout};
pub use config::{Config, SUPPORTED_ARCHITECTURES};

pub use crate::plan::LayerStep;
pub use parts::LACKS;

use std::path::PathBuf;
use std::sync::Arc;

use crate::ggml::{self, Builder, Device, Order, Store, Tensor, Weight};
use crate::gguf::{self, File, TensorInfo};
use llama::Llama;

/// Why a model could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file is no valid GGUF file.
    #[error(transparent)]
    Gguf(#[from] gguf::Error),
    /// Memory or device.
    #[error(transparent)]
    Ggml(#[from] ggml::Error),
    /// A tensor is not there.
    #[error("tensor `{name}` is missing in {path}")]
    Missing {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
    },
    /// A tensor has the wrong shape.
    #[error("{name}: expected {expected:?}, found {found:?} in {path}")]
    Shape {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// The shape that the configuration asks for.
        expected: Vec<usize>,
        /// The shape in the file.
        found: Vec<usize>,
    },
    /// A value that the forward pass cannot run.
    #[error("`{key}`: expected {expected}, found {found} in {path}")]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// The metadata key or tensor.
        key: String,
        /// What runs.
        expected: String,
        /// What the file says.
        found: String,
    },
}

impl Error {
    fn missing(file: &File, name: &str) -> Error {
        Error::Missing { path: file.path().to_owned(), name: name.to_owned() }
    }

    fn shape(file: &File, info: &TensorInfo, expected: &[usize]) -> Error {
        Error::Shape {
            path: file.path().to_owned(),
            name: info.name.clone(),
            expected: expected.to_vec(),
            found: info.dims().to_vec(),
        }
    }

    fn unsupported(file: &File, key: &str, expected: String, found: String) -> Error {
        Error::Unsupported { path: file.path().to_owned(), key: key.to_owned(), expected, found }
    }
}

/// What the rows of a forward pass share: their places, and what they may see.
#[derive(Clone, Copy)]
pub struct Rows<'g> {
    /// Position of each row, i32 \[t\].
    pub positions: Tensor<'g>,
    /// Cache row that each row writes, i64 \[t\].
    pub cache_rows: Tensor<'g>,
    /// Where each value goes, i64 \[n_embd_v * t\], in a cache that keeps values by column ([`Cache::value_places`]).
    pub value_places: Option<Tensor<'g>>,
    /// What each row sees, i32 \[3, t\] ([`ggml::Ops::attention`]), where [`Model::masks_by_position`].
    pub sees: Option<Tensor<'g>>,
    /// 0 where a row sees a cache row, -inf where not; f16 \[n_kv, t\]. None where there is `sees`.
    pub mask: Option<Tensor<'g>>,
    /// How kernels add up.
    pub order: Order,
}

/// A model, immutable after loading; any number of sessions use it.
pub struct Model {
    file: Arc<File>,
    config: Config,
    device: Arc<Device>,
    network: Llama,
    plan: Vec<LayerStep>,
    weights_bytes: usize,
}

impl Model {
    /// Loads the weights of a file onto a device.
    pub fn load(file: Arc<File>, device: Arc<Device>) -> Result<Model, Error> {
        let config = Config::from_gguf(&file)?;
        let plan = parts::plan(&file, config.n_layer)?;
        let (network, weights_bytes) = Llama::load(&file, &config, &plan)?;
        Ok(Model { file, config, device, network, plan, weights_bytes })
    }

    /// The numbers that describe the model.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The file the model came from.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// The device that computes.
    pub fn device(&self) -> &Arc<Device> {
        &self.device
    }

    /// Full depth: every layer in order, with the halves that the file has.
    pub fn plan(&self) -> &[LayerStep] {
        &self.plan
    }

    /// Bytes of weights that one token reads at full depth.
    pub fn weights_bytes(&self) -> usize {
        self.weights_bytes
    }

    /// Holds the data of every weight.
    pub fn store(&self) -> &Arc<Store> {
        self.network.store()
    }

    /// Whether attention over this cache needs no mask: a kernel tells from the positions what each row sees.
    pub fn masks_by_position(&self, cache: &Cache) -> bool {
        cache.has_kernel(&self.config.heads())
    }

    /// Rows of the output head, each times the final norm's weight: with a hidden state divided by its root mean square
    /// they give the logits of these tokens. \[n_embd\] each.
    pub fn output_rows(&self, tokens: &[u32]) -> Result<Vec<Vec<f32>>, Error> {
        let file = &*self.file;
        let find = |name: &str| file.tensor(name).ok_or_else(|| Error::missing(file, name));
        let head = find("output.weight").or_else(|_| find("token_embd.weight"))?;
        let norm = find("output_norm.weight")?;
        let norm = ggml::dequantize(norm.dtype, file.data(norm));
        let row_bytes = head.bytes / self.config.n_vocab;
        let row = |&token: &u32| {
            let bytes = &file.data(head)[token as usize * row_bytes..][..row_bytes];
            ggml::dequantize(head.dtype, bytes).iter().zip(&norm).map(|(w, n)| w * n).collect()
        };
        Ok(tokens.iter().map(row).collect())
    }

    /// Bound on the tensors of a graph that runs `n_steps` steps, embedding and head included.
    pub fn graph_size(&self, n_steps: usize) -> usize {
        n_steps * llama::TENSORS_PER_LAYER + 32
    }

    /// Embeddings of `tokens` i32 \[t\]: \[n_embd, t\].
    pub fn embed<'g>(&'g self, g: &Builder<'g>, tokens: Tensor<'g>) -> Tensor<'g> {
        self.network.embed(g, tokens)
    }

    /// Runs steps on the hidden state `h` \[n_embd, t\].
    pub fn run<'g>(
        &'g self,
        g: &Builder<'g>,
        steps: &[LayerStep],
        cache: &'g Cache,
        rows: &Rows<'g>,
        h: Tensor<'g>,
    ) -> Tensor<'g> {
        steps.iter().fold(h, |h, step| self.network.layer(g, &self.config, step, cache, rows, h))
    }

    /// A low-bit copy of the output head, for [`Model::best_of_head`]; `None` where the whole head is as fast. The first call
    /// makes it.
    pub fn sketch(&self) -> Option<&Weight> {
        let head = self.file.tensor("output.weight").or_else(|| self.file.tensor("token_embd.weight"))?;
        self.network.sketch(head.dtype, self.file.data(head))
    }

    /// The best logits of the hidden states `h` \[n_embd, t\], -inf for the others: \[n_vocab, t\]. `keep` groups of sixteen
    /// neighbouring tokens are exact: those that look best to the low-bit copy `sketch`.
    pub fn best_of_head<'g>(&'g self, g: &Builder<'g>, sketch: &'g Weight, h: Tensor<'g>, keep: usize) -> Tensor<'g> {
        self.network.best_of_head(g, &self.config, sketch, h, keep)
    }

    /// Logits of the hidden states `h` \[n_embd, t\]: final norm and output head, \[n_vocab, t\].
    pub fn head<'g>(&'g self, g: &Builder<'g>, h: Tensor<'g>) -> Tensor<'g> {
        self.network.head(g, &self.config, h)
    }
}
