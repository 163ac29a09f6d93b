//! The architectures that run. Facts are those of transformers' `modeling_*.py`; names are GGUF's.

use super::{Arch, Halves, LogitScale, NormKind, Norms, Positions, Rotates, Softcaps, Windows};
use crate::ggml::{Activation, Pairs};

/// All that run, the most common first.
pub const ARCHITECTURES: [Arch; 23] = [
    LLAMA, QWEN2, QWEN3, QWEN3MOE, GEMMA2, GEMMA3, PHI3, GPT_OSS, SMOLLM3, GRANITE, GRANITEMOE, OLMO2, GLM4, COMMAND_R,
    COHERE2, STARCODER2, INTERNLM2, STABLELM, FALCON, PHI2, GPTNEOX, GPT2, OPT,
];

/// Mistral's files have a window in every layer, where they say its size, and Mixtral's have experts.
const LLAMA: Arch = Arch {
    name: "llama",
    models: "Llama 1 to 3, Mistral, Mixtral, SmolLM 2",
    norm: NormKind::Rms,
    norms: Norms::Pre,
    halves: Halves::InTurn,
    positions: Positions::Rotary(Pairs::Adjacent),
    rotates: Rotates::All,
    activation: Activation::Swiglu,
    varies: false,
    scales_embeddings: false,
    logit_scale: LogitScale::Multiplies,
    windows: Some(Windows { period: None, freq_base: None }),
    softcaps: None,
    n_layer_scaled_by_width: None,
    has_experts: true,
};

/// arXiv 2407.10671: Llama but for the pairs that are rotated together; queries, keys and values have biases.
const QWEN2: Arch = Arch {
    name: "qwen2",
    models: "Qwen 2 and 2.5",
    positions: Positions::Rotary(Pairs::Halves),
    windows: None,
    has_experts: false,
    ..LLAMA
};

/// arXiv 2505.09388: queries and keys are normed by head, without biases.
const QWEN3: Arch = Arch { name: "qwen3", models: "Qwen 3", ..QWEN2 };

/// The same with experts.
const QWEN3MOE: Arch = Arch { name: "qwen3moe", models: "Qwen 3 with experts", has_experts: true, ..QWEN2 };

/// arXiv 2408.00118: every other layer has a window.
const GEMMA2: Arch = Arch {
    name: "gemma2",
    models: "Gemma 2",
    norms: Norms::Sandwich,
    activation: Activation::Geglu,
    scales_embeddings: true,
    windows: Some(Windows { period: Some(2), freq_base: Some(10_000.0) }),
    softcaps: Some(Softcaps { attention: 50.0, output: 30.0 }),
    n_layer_scaled_by_width: Some(46),
    ..QWEN2
};

/// arXiv 2503.19786, the text model: five layers with a window to one without; norms of heads instead of bounds on scores.
const GEMMA3: Arch = Arch {
    name: "gemma3",
    models: "Gemma 3 (text)",
    windows: Some(Windows { period: Some(6), freq_base: Some(10_000.0) }),
    softcaps: None,
    n_layer_scaled_by_width: Some(62),
    ..GEMMA2
};

/// A Llama, but for the fourth layers, which do not rotate.
const SMOLLM3: Arch = Arch {
    name: "smollm3",
    models: "SmolLM 3",
    rotates: Rotates::AllButLastOf(4),
    windows: None,
    has_experts: false,
    ..LLAMA
};

/// A Llama with four factors: for embeddings, scores, halves of layers and logits.
const GRANITE: Arch = Arch {
    name: "granite",
    models: "Granite 3",
    logit_scale: LogitScale::Divides,
    windows: None,
    has_experts: false,
    ..LLAMA
};

/// The same with experts.
const GRANITEMOE: Arch = Arch { name: "granitemoe", models: "Granite 3 with experts", has_experts: true, ..GRANITE };

/// arXiv 2501.00656: norms behind each half of a layer, before the sum, and of all queries and keys together.
const OLMO2: Arch = Arch { name: "olmo2", models: "OLMo 2", norms: Norms::Inner, ..QWEN2 };

/// arXiv 2402.19173: norms with means and biases, no gate, a window in every layer where a file gives its size.
const STARCODER2: Arch = Arch {
    name: "starcoder2",
    models: "StarCoder 2",
    norm: NormKind::Layer,
    activation: Activation::GeluTanh,
    windows: Some(Windows { period: None, freq_base: None }),
    ..QWEN2
};

/// arXiv 2404.14219, and Phi 4: a window in every layer where a file gives its size.
const PHI3: Arch = Arch {
    name: "phi3",
    models: "Phi 3, 3.5 and 4",
    windows: Some(Windows { period: None, freq_base: None }),
    ..QWEN2
};

/// arXiv 2508.10925: experts with a clamped gate, sinks, every other layer with a window.
const GPT_OSS: Arch = Arch {
    name: "gpt-oss",
    models: "gpt-oss",
    activation: Activation::ClampedSwiglu,
    windows: Some(Windows { period: Some(2), freq_base: None }),
    has_experts: true,
    ..QWEN2
};

/// GLM 4 of 2025: norms before and behind each half, neighbours rotate together.
const GLM4: Arch = Arch {
    name: "glm4",
    models: "GLM 4 (0414), GLM Z1",
    norms: Norms::Sandwich,
    positions: Positions::Rotary(Pairs::Adjacent),
    ..QWEN2
};

/// arXiv 2403.17297: a Llama, once its matrices are apart.
const INTERNLM2: Arch = Arch { name: "internlm2", models: "InternLM 2", windows: None, has_experts: false, ..LLAMA };

/// One norm for both halves of a layer, which take one hidden state.
const COMMAND_R: Arch = Arch {
    name: "command-r",
    models: "Command R, Aya 23",
    norm: NormKind::Layer,
    halves: Halves::SideBySide,
    positions: Positions::Rotary(Pairs::Adjacent),
    ..QWEN2
};

/// arXiv 2504.00698: three layers with a window to one without, which does not rotate.
const COHERE2: Arch = Arch {
    name: "cohere2",
    models: "Command R7B, Command A, Aya Expanse",
    rotates: Rotates::Windowed,
    windows: Some(Windows { period: Some(4), freq_base: None }),
    ..COMMAND_R
};

/// arXiv 2402.17834.
const STABLELM: Arch = Arch {
    name: "stablelm",
    models: "StableLM 2 and 3B",
    norm: NormKind::Layer,
    halves: Halves::AsTheFileSays,
    ..QWEN2
};

/// arXiv 2311.16867.
const FALCON: Arch = Arch {
    name: "falcon",
    models: "Falcon 7B, 40B and 180B",
    norm: NormKind::Layer,
    halves: Halves::SideBySide,
    activation: Activation::Gelu,
    ..QWEN2
};

/// Both halves of a layer take one hidden state, through one norm.
const PHI2: Arch = Arch {
    name: "phi2",
    models: "Phi 1, 1.5 and 2",
    norm: NormKind::Layer,
    halves: Halves::SideBySide,
    activation: Activation::GeluTanh,
    ..QWEN2
};

/// arXiv 2204.06745.
const GPTNEOX: Arch = Arch {
    name: "gptneox",
    models: "Pythia, GPT-NeoX, RedPajama, Dolly",
    norm: NormKind::Layer,
    halves: Halves::AsTheFileSays,
    activation: Activation::Gelu,
    ..QWEN2
};

/// Learned positions.
const GPT2: Arch = Arch {
    name: "gpt2",
    models: "GPT-2",
    norm: NormKind::Layer,
    positions: Positions::Learned,
    activation: Activation::GeluTanh,
    ..QWEN2
};

/// arXiv 2205.01068, and Galactica. opt-350m has its norms behind each half, and narrower embeddings: its file says so.
const OPT: Arch = Arch {
    name: "opt",
    models: "OPT in every size, Galactica",
    norm: NormKind::Layer,
    positions: Positions::Learned,
    activation: Activation::Relu,
    varies: true,
    ..QWEN2
};
