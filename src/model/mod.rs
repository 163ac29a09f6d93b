//! A loaded model: configuration, weights, and the one forward pass, which takes a plan of layers. Owns nothing that
//! changes after loading; refuses files whose tensors do not have the shape they must have.

mod arch;
mod attention;
mod block;
mod cache;
mod config;
mod experts;
mod feed_forward;
mod head;
mod norms;
mod placement;
mod pruned;
mod qkv;
mod readout;
mod weights;

pub use arch::{ARCHITECTURES, Arch, Halves, LogitScale, NormKind, Norms, Positions, Rotates, Softcaps, Windows};
pub use cache::{Cache, ValueLayout};
pub(crate) use config::MAX_POSITIONS;
pub use config::{Config, Experts, Window};
pub use placement::Placement;
pub use readout::{FinalNorm, OutputRow};

pub use crate::plan::LayerStep;
pub use pruned::LACKS;

use std::path::PathBuf;
use std::sync::Arc;

use rayon::prelude::*;

use crate::ggml::{self, Builder, Device, Store, Tensor};
use crate::gguf::{self, File, TensorInfo};
use crate::kernels::{Norm, Reduction, Weight};
use block::Network;

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
        let [key, found] = [key, &found].map(gguf::visible);
        Error::Unsupported { path: file.path().to_owned(), key, expected, found }
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
    /// What each row sees in layers without a window.
    pub all: Visible<'g>,
    /// What each row sees in layers with one.
    pub in_window: Visible<'g>,
    /// How kernels add up.
    pub reduction: Reduction,
}

/// What rows see of the cache, in one of two forms.
#[derive(Clone, Copy, Default)]
pub struct Visible<'g> {
    /// Ranges of cache rows, i32 \[4, t\] ([`ggml::Ops::attention`]), where [`Model::masks_by_position`].
    pub sees: Option<Tensor<'g>>,
    /// 0 where a row sees a cache row, -inf where not; f16 \[n_kv, t\]. None where there is `sees`.
    pub mask: Option<Tensor<'g>>,
}

/// A model, immutable after loading; any number of engines use it.
pub struct Model {
    file: Arc<File>,
    config: Config,
    placement: Placement,
    network: Network,
    plan: Vec<LayerStep>,
    weights_bytes: usize,
    weights_add_up_alike: bool,
}

impl Model {
    /// Loads the weights of a file onto the CPU.
    pub fn load(file: Arc<File>, cpu: Arc<Device>) -> Result<Model, Error> {
        let config = Config::from_gguf(&file)?;
        Model::place(file, config, Placement::on_cpu(cpu), &mut |_| {})
    }

    /// Loads the weights of a file, whose configuration is at hand, onto devices. `progress` hears how many bytes went to
    /// devices other than the CPU so far.
    pub fn place(
        file: Arc<File>,
        config: Config,
        placement: Placement,
        progress: &mut dyn FnMut(usize),
    ) -> Result<Model, Error> {
        let plan = pruned::plan(&file, config.n_layer)?;
        let (network, weights_bytes) = Network::load(&file, &config, &plan, &placement, progress)?;
        let mut matrices = file.tensors().iter().filter(|t| t.n_dims == 2);
        let weights_add_up_alike = matrices.all(|t| Weight::adds_rows_up_alike(t.dtype, [t.shape[0], t.shape[1]]));
        Ok(Model { file, config, placement, network, plan, weights_bytes, weights_add_up_alike })
    }

    /// The numbers that describe the model.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The file the model came from.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// The CPU, which computes what no other device does.
    pub fn device(&self) -> &Arc<Device> {
        self.placement.cpu()
    }

    /// Which device holds what.
    pub fn placement(&self) -> &Placement {
        &self.placement
    }

    /// Full depth: every layer in order, with the halves that the file has.
    pub fn plan(&self) -> &[LayerStep] {
        &self.plan
    }

    /// Bytes of weights that one token reads at full depth.
    pub fn weights_bytes(&self) -> usize {
        self.weights_bytes
    }

    /// The first tensor of the file with NaN or infinity in it, and the first row that has some. Reads the whole file: for the
    /// case that something came out wrong.
    pub fn broken_weight(&self) -> Option<(&str, usize)> {
        self.file
            .tensors()
            .par_iter()
            .find_map_first(|info| Some((info.name.as_str(), weights::broken_row(&self.file, info)?)))
    }

    /// Holds the data of every weight.
    pub fn store(&self) -> &Arc<Store> {
        self.network.store()
    }

    /// Whether attention over this cache needs no mask on the CPU: a kernel tells from the positions what each row sees.
    pub fn masks_by_position(&self, cache: &Cache) -> bool {
        // The kernel knows of no sinks.
        cache.has_kernel(&self.config.heads()) && !self.network.has_sinks()
    }

    /// Whether several rows over this cache on the CPU come out to the bit as each alone would, without
    /// [`ggml::Ops::row_by_row`].
    pub fn adds_rows_up_alike(&self, cache: &Cache) -> bool {
        self.masks_by_position(cache) && self.weights_add_up_alike
    }

    /// What reads the logits of these tokens from a hidden state that went through [`FinalNorm::apply`]: the output head's
    /// rows, with all that lies between.
    pub fn output_rows(&self, tokens: &[u32]) -> Result<Vec<OutputRow>, Error> {
        readout::output_rows(&self.file, &self.config, tokens)
    }

    /// Bound on the tensors of a graph that runs `n_steps` steps, embedding and head included.
    pub fn graph_size(&self, n_steps: usize) -> usize {
        n_steps * block::tensors_per_layer(&self.config) + 32
    }

    /// Embeddings of `tokens` i32 \[t\] at `positions` i32 \[t\]: \[n_embd, t\].
    pub fn embed<'g>(&'g self, g: &Builder<'g>, tokens: Tensor<'g>, positions: Tensor<'g>) -> Tensor<'g> {
        self.network.embed(g, &self.config, tokens, positions)
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
        if self.config.softcaps.is_some() {
            return None; // it would lift the others from -inf
        }
        let head = weights::head_tensor(&self.file)?;
        self.network.head().sketch(head.dtype, self.file.data(head))
    }

    /// The best logits of the hidden states `h` \[n_embd, t\], -inf for the others: \[n_vocab, t\]. `keep` groups of sixteen
    /// neighbouring tokens are exact: those that look best to the low-bit copy `sketch`.
    pub fn best_of_head<'g>(&'g self, g: &Builder<'g>, sketch: &'g Weight, h: Tensor<'g>, keep: usize) -> Tensor<'g> {
        let (h, norm) = self.before_head(g, h);
        self.scaled(g, self.network.head().best(g, sketch, h, norm, keep))
    }

    /// Logits of the hidden states `h` \[n_embd, t\]: final norm and output head, \[n_vocab, t\].
    pub fn head<'g>(&'g self, g: &Builder<'g>, h: Tensor<'g>) -> Tensor<'g> {
        let (h, norm) = self.before_head(g, h);
        let logits = self.scaled(g, self.network.head().logits(g, h, norm));
        self.config.softcaps.map_or(logits, |caps| g.ops.softcap(logits, caps.output))
    }

    fn scaled<'g>(&self, g: &Builder<'g>, logits: Tensor<'g>) -> Tensor<'g> {
        self.config.logit_scale.map_or(logits, |scale| g.ops.scale(logits, scale))
    }

    /// What the output head takes, and the norm that is still to come before it.
    fn before_head<'g>(&'g self, g: &Builder<'g>, h: Tensor<'g>) -> (Tensor<'g>, Option<Norm<Tensor<'g>>>) {
        self.network.before_head(g, &self.config, h)
    }
}
