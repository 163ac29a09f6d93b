//! The architectures that are converted. Names of tensors and defaults are those of transformers' `modeling_*.py` and
//! `configuration_*.py`; GGUF's names, keys and their order are llama.cpp's.

use super::Otherwise::{Is, Quotient, Same, Times};
use super::Size::{Context, Embd, FeedForward, GateUp, HeadDim, Heads, Kv, KvHeads, Layers, Q, Qkv, Vocab};
use super::parts::{
    CHECKS, EMBEDDING, FIRST_KEYS, FUSED_WIDTHS, HEAD, HEAD_KEYS, HEAD_SHARE, LLAMA_KEYS, OPEN_HEAD_KEYS, OUTPUT_NORM,
    PRE_NORMS, RMS_KEYS, SILU, SIZES, WIDTHS, attention, gated, head_norms, kv_heads,
};
use super::{Arch, Bias, Check, Field, Flag, HeadKind, Key, Order, Part, Ropes, Row, Window};
use crate::convert::vocab;

pub(super) const LLAMA: Arch = Arch {
    names: &["LlamaForCausalLM", "LLaMAForCausalLM"],
    gguf: "llama",
    sizes: &[
        SIZES,
        &[Field::or(Context, "max_position_embeddings", Is(2048)), kv_heads(Same(Heads)), HEAD_SHARE],
        WIDTHS,
    ],
    flags: &[
        (Flag::Tied, "tie_word_embeddings", false),
        (Flag::AttentionBias, "attention_bias", false),
        (Flag::MlpBias, "mlp_bias", false),
    ],
    checks: &[CHECKS[0], CHECKS[1], SILU],
    rope: Some(Ropes {
        kinds: &["default", "linear", "yarn", "llama3", "dynamic"],
        theta: 10_000.0,
        local_theta: None,
        part: None,
    }),
    window: Window::None,
    part: None,
    lead: None,
    passed_over: &[],
    first: &[EMBEDDING, OUTPUT_NORM, HEAD],
    layer: &[
        &PRE_NORMS,
        &attention(Order::Interleaved, Bias::If(Flag::AttentionBias), Bias::If(Flag::AttentionBias)),
        &gated(Bias::If(Flag::MlpBias)),
    ],
    last: &[],
    keys: &[FIRST_KEYS, RMS_KEYS, HEAD_KEYS, LLAMA_KEYS],
    vocabulary: vocab::LLAMA,
};

/// A Llama, but for a window that the first of them had. llama.cpp leaves it out: the key is one of ours, under a usual name.
pub(super) const MISTRAL: Arch = Arch {
    names: &["MistralForCausalLM"],
    sizes: &[SIZES, &[Field::or(Context, "max_position_embeddings", Is(131_072)), kv_heads(Is(8)), HEAD_SHARE], WIDTHS],
    window: Window::All(Some(4096)),
    keys: &[FIRST_KEYS, RMS_KEYS, HEAD_KEYS, LLAMA_KEYS, &[Key::Window]],
    ..LLAMA
};

/// arXiv 2407.10671. Rows stay in transformers' order, which is GGUF's for `qwen2`.
pub(super) const QWEN2: Arch = Arch {
    names: &["Qwen2ForCausalLM"],
    gguf: "qwen2",
    sizes: &[SIZES, &[Field::or(Context, "max_position_embeddings", Is(32_768)), kv_heads(Is(32)), HEAD_SHARE], WIDTHS],
    flags: &[(Flag::Tied, "tie_word_embeddings", false)],
    rope: Some(Ropes {
        kinds: &["default", "linear", "yarn", "dynamic"],
        theta: 10_000.0,
        local_theta: None,
        part: None,
    }),
    window: Window::Upper(4096, 28),
    layer: &[&PRE_NORMS, &attention(Order::Same, Bias::Yes, Bias::No), &gated(Bias::No)],
    keys: &[FIRST_KEYS, RMS_KEYS, OPEN_HEAD_KEYS],
    vocabulary: vocab::PLAIN,
    ..LLAMA
};

/// arXiv 2505.09388.
pub(super) const QWEN3: Arch = Arch {
    names: &["Qwen3ForCausalLM"],
    gguf: "qwen3",
    sizes: &[
        SIZES,
        &[
            Field::or(Context, "max_position_embeddings", Is(32_768)),
            kv_heads(Is(32)),
            Field::or(HeadDim, "head_dim", Is(128)),
        ],
        WIDTHS,
    ],
    flags: &[(Flag::Tied, "tie_word_embeddings", false), (Flag::AttentionBias, "attention_bias", false)],
    layer: &[
        &PRE_NORMS,
        &attention(Order::Same, Bias::If(Flag::AttentionBias), Bias::If(Flag::AttentionBias)),
        &head_norms(0.0),
        &gated(Bias::No),
    ],
    keys: &[FIRST_KEYS, RMS_KEYS, HEAD_KEYS],
    ..QWEN2
};

/// Norms before and behind each half of a layer.
const GEMMA_NORMS: [Row; 4] = [
    Row::vector("model.layers.{}.input_layernorm", "blk.{}.attn_norm", Embd).plus(1.0),
    Row::vector("model.layers.{}.post_attention_layernorm", "blk.{}.post_attention_norm", Embd).plus(1.0),
    Row::vector("model.layers.{}.pre_feedforward_layernorm", "blk.{}.ffn_norm", Embd).plus(1.0),
    Row::vector("model.layers.{}.post_feedforward_layernorm", "blk.{}.post_ffw_norm", Embd).plus(1.0),
];

/// arXiv 2503.19786, the text model. Its norms multiply by one more than their weights.
pub(super) const GEMMA3: Arch = Arch {
    names: &["Gemma3ForCausalLM"],
    gguf: "gemma3",
    sizes: &[
        SIZES,
        &[
            Field::or(Context, "max_position_embeddings", Is(131_072)),
            kv_heads(Is(4)),
            Field::or(HeadDim, "head_dim", Is(256)),
        ],
        WIDTHS,
    ],
    flags: &[(Flag::Tied, "tie_word_embeddings", true), (Flag::AttentionBias, "attention_bias", false)],
    checks: &[
        CHECKS[0],
        CHECKS[1],
        Check::Word("hidden_activation", &["gelu_pytorch_tanh"]),
        Check::Unset("attn_logit_softcapping"),
        Check::Unset("final_logit_softcapping"),
        Check::Unset("use_bidirectional_attention"),
        // GGUF has no key for what scores are divided by: it is the root of this size.
        Check::SameAs("query_pre_attn_scalar", HeadDim, Some(256.0)),
    ],
    rope: Some(Ropes { kinds: &["default", "linear"], theta: 1_000_000.0, local_theta: Some(10_000.0), part: None }),
    window: Window::Pattern(6, 4096),
    first: &[EMBEDDING, OUTPUT_NORM.plus(1.0), HEAD],
    layer: &[
        &GEMMA_NORMS,
        &attention(Order::Same, Bias::If(Flag::AttentionBias), Bias::If(Flag::AttentionBias)),
        &head_norms(1.0),
        &gated(Bias::No),
    ],
    keys: &[FIRST_KEYS, RMS_KEYS, HEAD_KEYS, &[Key::Window]],
    vocabulary: vocab::GEMMA,
    ..QWEN2
};

/// The same with an encoder of images beside it. Its configuration names only what differs from the defaults.
pub(super) const GEMMA3_IMAGES: Arch = Arch {
    names: &["Gemma3ForConditionalGeneration"],
    sizes: &[
        &[
            Field::or(Heads, "num_attention_heads", Is(8)),
            Field::need(Embd, "hidden_size"),
            Field::or(Vocab, "vocab_size", Is(262_208)),
            Field::need(Layers, "num_hidden_layers"),
            Field::need(FeedForward, "intermediate_size"),
        ],
        GEMMA3.sizes[1],
        WIDTHS,
    ],
    part: Some(Part {
        config: "text_config",
        infix: "language_model.",
        others: &["vision_tower.", "multi_modal_projector."],
        what: "the encoder of images",
    }),
    ..GEMMA3
};

/// arXiv 2408.00118. Scores and logits have soft caps; every other layer has a window.
pub(super) const GEMMA2: Arch = Arch {
    names: &["Gemma2ForCausalLM"],
    gguf: "gemma2",
    sizes: &[
        SIZES,
        &[
            Field::or(Context, "max_position_embeddings", Is(8192)),
            kv_heads(Is(4)),
            Field::or(HeadDim, "head_dim", Is(256)),
        ],
        WIDTHS,
    ],
    flags: &[(Flag::Tied, "tie_word_embeddings", true)],
    checks: &[
        CHECKS[0],
        CHECKS[1],
        Check::Word("hidden_activation", &["gelu_pytorch_tanh"]),
        Check::Unset("attention_bias"),
        Check::Unset("use_bidirectional_attention"),
        // Without these GGUF's `gemma2` has caps all the same.
        Check::Positive("attn_logit_softcapping"),
        Check::Positive("final_logit_softcapping"),
        Check::SameAs("query_pre_attn_scalar", HeadDim, Some(256.0)),
    ],
    rope: Some(Ropes { kinds: &["default"], theta: 10_000.0, local_theta: None, part: None }),
    window: Window::Pattern(2, 4096),
    layer: &[&GEMMA_NORMS, &attention(Order::Same, Bias::No, Bias::No), &gated(Bias::No)],
    keys: &[&[
        Key::Size("context_length", Context),
        Key::Size("embedding_length", Embd),
        Key::Size("block_count", Layers),
        Key::Size("feed_forward_length", FeedForward),
        Key::Size("attention.head_count", Heads),
        Key::Size("attention.head_count_kv", KvHeads),
        Key::UnusualRope,
        Key::Number("attention.layer_norm_rms_epsilon", "rms_norm_eps", 1e-6),
        Key::Size("attention.key_length", HeadDim),
        Key::Size("attention.value_length", HeadDim),
        Key::FileType,
        Key::Number("attn_logit_softcapping", "attn_logit_softcapping", 50.0),
        Key::Number("final_logit_softcapping", "final_logit_softcapping", 30.0),
        Key::Window,
    ]],
    ..GEMMA3
};

/// A Llama, but for layers that do not rotate.
pub(super) const SMOLLM3: Arch = Arch {
    names: &["SmolLM3ForCausalLM"],
    gguf: "smollm3",
    sizes: &[SIZES, &[Field::or(Context, "max_position_embeddings", Is(32_768)), kv_heads(Is(4)), HEAD_SHARE], WIDTHS],
    flags: &[
        (Flag::Tied, "tie_word_embeddings", true),
        (Flag::AttentionBias, "attention_bias", false),
        (Flag::MlpBias, "mlp_bias", false),
    ],
    checks: &[
        CHECKS[0],
        CHECKS[1],
        SILU,
        Check::Unset("use_sliding_window"),
        // GGUF has no key for which layers these are: every fourth.
        Check::Every("no_rope_layers", "no_rope_layer_interval", 4),
    ],
    rope: Some(Ropes { kinds: &["default", "linear", "yarn"], theta: 2_000_000.0, local_theta: None, part: None }),
    keys: &[FIRST_KEYS, RMS_KEYS, OPEN_HEAD_KEYS, LLAMA_KEYS],
    ..LLAMA
};

/// A Llama with four factors, for embeddings, scores, halves of layers and logits.
pub(super) const GRANITE: Arch = Arch {
    names: &["GraniteForCausalLM"],
    gguf: "granite",
    sizes: &[
        SIZES,
        &[
            Field::or(Context, "max_position_embeddings", Is(2048)),
            kv_heads(Same(Heads)),
            Field::made(HeadDim, Quotient(Embd, Heads)),
        ],
        WIDTHS,
    ],
    checks: &[
        CHECKS[0],
        CHECKS[1],
        SILU,
        Check::SameAs("head_dim", HeadDim, None),
        Check::Positive("attention_multiplier"),
        Check::Positive("embedding_multiplier"),
        Check::Positive("residual_multiplier"),
        Check::Positive("logits_scaling"),
    ],
    rope: Some(Ropes { kinds: &["default", "linear", "yarn"], theta: 10_000.0, local_theta: None, part: None }),
    keys: &[
        FIRST_KEYS,
        RMS_KEYS,
        &[Key::FileType],
        LLAMA_KEYS,
        &[
            Key::Number("attention.scale", "attention_multiplier", 1.0),
            Key::Number("embedding_scale", "embedding_multiplier", 1.0),
            Key::Number("residual_scale", "residual_multiplier", 1.0),
            Key::Number("logit_scale", "logits_scaling", 1.0),
        ],
    ],
    ..LLAMA
};

/// arXiv 2501.00656. Norms behind each half of a layer, and of all queries and keys together.
pub(super) const OLMO2: Arch = Arch {
    names: &["Olmo2ForCausalLM"],
    gguf: "olmo2",
    sizes: &[
        SIZES,
        &[Field::or(Context, "max_position_embeddings", Is(2048)), kv_heads(Same(Heads)), HEAD_SHARE],
        WIDTHS,
    ],
    checks: &[CHECKS[0], CHECKS[1], SILU, Check::Unset("attention_bias")],
    rope: Some(Ropes { kinds: &["default", "linear", "yarn"], theta: 10_000.0, local_theta: None, part: None }),
    window: Window::None,
    layer: &[
        &attention(Order::Same, Bias::No, Bias::No),
        &[
            Row::vector("model.layers.{}.self_attn.q_norm", "blk.{}.attn_q_norm", Q),
            Row::vector("model.layers.{}.self_attn.k_norm", "blk.{}.attn_k_norm", Kv),
            Row::vector("model.layers.{}.post_attention_layernorm", "blk.{}.post_attention_norm", Embd),
            Row::vector("model.layers.{}.post_feedforward_layernorm", "blk.{}.post_ffw_norm", Embd),
        ],
        &gated(Bias::No),
    ],
    keys: &[FIRST_KEYS, &[Key::Number("attention.layer_norm_rms_epsilon", "rms_norm_eps", 1e-5)], OPEN_HEAD_KEYS],
    ..QWEN2
};

/// arXiv 2402.19173.
pub(super) const STARCODER2: Arch = Arch {
    names: &["Starcoder2ForCausalLM"],
    gguf: "starcoder2",
    sizes: &[SIZES, &[Field::or(Context, "max_position_embeddings", Is(4096)), kv_heads(Is(2)), HEAD_SHARE], WIDTHS],
    flags: &[(Flag::Tied, "tie_word_embeddings", true)],
    checks: &[CHECKS[0], CHECKS[1], Check::Word("hidden_act", &["gelu_pytorch_tanh"])],
    rope: Some(Ropes { kinds: &["default", "linear", "yarn"], theta: 10_000.0, local_theta: None, part: None }),
    window: Window::All(None),
    first: &[EMBEDDING, OUTPUT_NORM.bias(Bias::Yes), HEAD],
    layer: &[
        &[PRE_NORMS[0].bias(Bias::Yes), PRE_NORMS[1].bias(Bias::Yes)],
        &attention(Order::Same, Bias::Yes, Bias::Yes),
        &[
            Row::matrix("model.layers.{}.mlp.c_fc", "blk.{}.ffn_up", FeedForward, Embd).bias(Bias::Yes),
            Row::matrix("model.layers.{}.mlp.c_proj", "blk.{}.ffn_down", Embd, FeedForward).bias(Bias::Yes),
        ],
    ],
    keys: &[
        FIRST_KEYS,
        &[Key::Number("attention.layer_norm_epsilon", "norm_epsilon", 1e-5)],
        OPEN_HEAD_KEYS,
        &[Key::Window],
    ],
    ..QWEN2
};

/// arXiv 2404.14219, and Phi 4: queries, keys and values in one matrix, gate and up in another.
pub(super) const PHI3: Arch = Arch {
    names: &["Phi3ForCausalLM"],
    gguf: "phi3",
    sizes: &[
        SIZES,
        &[
            Field::or(Context, "max_position_embeddings", Is(4096)),
            kv_heads(Same(Heads)),
            Field::made(HeadDim, Quotient(Embd, Heads)),
            Field::made(GateUp, Times(FeedForward, 2)),
        ],
        WIDTHS,
        FUSED_WIDTHS,
    ],
    flags: &[(Flag::Tied, "tie_word_embeddings", false)],
    checks: &[CHECKS[0], CHECKS[1], SILU, Check::SameAs("head_dim", HeadDim, None)],
    rope: Some(Ropes {
        kinds: &["default", "longrope"],
        theta: 10_000.0,
        local_theta: None,
        part: Some(("partial_rotary_factor", 1.0)),
    }),
    window: Window::None,
    layer: &[
        &PRE_NORMS,
        &[
            Row::matrix("model.layers.{}.self_attn.qkv_proj", "blk.{}.attn_qkv", Qkv, Embd),
            Row::matrix("model.layers.{}.self_attn.o_proj", "blk.{}.attn_output", Embd, Q),
            Row::matrix("model.layers.{}.mlp.gate_up_proj", "blk.{}.ffn_up", GateUp, Embd),
            Row::matrix("model.layers.{}.mlp.down_proj", "blk.{}.ffn_down", Embd, FeedForward),
        ],
    ],
    keys: &[&[
        Key::Size("context_length", Context),
        Key::OriginalContext,
        Key::Size("embedding_length", Embd),
        Key::Size("feed_forward_length", FeedForward),
        Key::Size("block_count", Layers),
        Key::Size("attention.head_count", Heads),
        Key::Size("attention.head_count_kv", KvHeads),
        Key::Number("attention.layer_norm_rms_epsilon", "rms_norm_eps", 1e-5),
        Key::RotaryDims,
        Key::RopeBase,
        Key::FileType,
        // 0 says that there is none.
        Key::CountOrNone("attention.sliding_window", "sliding_window"),
    ]],
    ..QWEN2
};

/// GLM 4 of 2025: norms before and behind each half, a part of each head rotates, gate and up in one matrix.
pub(super) const GLM4: Arch = Arch {
    names: &["Glm4ForCausalLM"],
    gguf: "glm4",
    sizes: &[
        SIZES,
        &[
            Field::or(Context, "max_position_embeddings", Is(131_072)),
            kv_heads(Is(2)),
            Field::or(HeadDim, "head_dim", Is(128)),
            Field::made(GateUp, Times(FeedForward, 2)),
        ],
        WIDTHS,
    ],
    flags: &[(Flag::Tied, "tie_word_embeddings", false), (Flag::AttentionBias, "attention_bias", true)],
    rope: Some(Ropes {
        kinds: &["default"],
        theta: 10_000.0,
        local_theta: None,
        part: Some(("partial_rotary_factor", 0.5)),
    }),
    window: Window::None,
    layer: &[
        &attention(Order::Same, Bias::If(Flag::AttentionBias), Bias::No),
        &[
            Row::vector("model.layers.{}.input_layernorm", "blk.{}.attn_norm", Embd),
            Row::vector("model.layers.{}.post_self_attn_layernorm", "blk.{}.post_attention_norm", Embd),
            Row::vector("model.layers.{}.post_attention_layernorm", "blk.{}.ffn_norm", Embd),
            Row::vector("model.layers.{}.post_mlp_layernorm", "blk.{}.post_ffw_norm", Embd),
            Row::matrix("model.layers.{}.mlp.gate_up_proj", "blk.{}.ffn_up", GateUp, Embd),
            Row::matrix("model.layers.{}.mlp.down_proj", "blk.{}.ffn_down", Embd, FeedForward),
        ],
    ],
    keys: &[
        FIRST_KEYS,
        &[Key::Number("attention.layer_norm_rms_epsilon", "rms_norm_eps", 0.000_000_156_25)],
        HEAD_KEYS,
        &[Key::RotaryDims],
    ],
    vocabulary: vocab::GLM4,
    ..QWEN2
};

/// arXiv 2403.17297: a Llama with queries, keys and values in one matrix, by groups.
pub(super) const INTERNLM2: Arch = Arch {
    names: &["InternLM2ForCausalLM"],
    gguf: "internlm2",
    sizes: &[
        SIZES,
        &[
            Field::or(Context, "max_position_embeddings", Is(2048)),
            kv_heads(Same(Heads)),
            Field::made(HeadDim, Quotient(Embd, Heads)),
        ],
        WIDTHS,
        FUSED_WIDTHS,
    ],
    flags: &[(Flag::Tied, "tie_word_embeddings", false)],
    checks: &[CHECKS[0], CHECKS[1], SILU, Check::Unset("bias"), Check::SameAs("head_dim", HeadDim, None)],
    rope: Some(Ropes { kinds: &["default", "linear", "dynamic"], theta: 10_000.0, local_theta: None, part: None }),
    first: &[
        Row::matrix("model.tok_embeddings", "token_embd", Vocab, Embd),
        OUTPUT_NORM,
        Row::matrix("output", "output", Vocab, Embd).kind(super::RowKind::Head),
    ],
    layer: &[&[
        Row::vector("model.layers.{}.attention_norm", "blk.{}.attn_norm", Embd),
        Row::vector("model.layers.{}.ffn_norm", "blk.{}.ffn_norm", Embd),
        Row::matrix("model.layers.{}.attention.wqkv", "blk.{}.attn_q", Qkv, Embd).order(Order::Of(HeadKind::Q)),
        Row::matrix("model.layers.{}.attention.wqkv", "blk.{}.attn_k", Qkv, Embd).order(Order::Of(HeadKind::K)),
        Row::matrix("model.layers.{}.attention.wqkv", "blk.{}.attn_v", Qkv, Embd).order(Order::Of(HeadKind::V)),
        Row::matrix("model.layers.{}.attention.wo", "blk.{}.attn_output", Embd, Q),
        Row::matrix("model.layers.{}.feed_forward.w1", "blk.{}.ffn_gate", FeedForward, Embd),
        Row::matrix("model.layers.{}.feed_forward.w3", "blk.{}.ffn_up", FeedForward, Embd),
        Row::matrix("model.layers.{}.feed_forward.w2", "blk.{}.ffn_down", Embd, FeedForward),
    ]],
    keys: &[FIRST_KEYS, RMS_KEYS, OPEN_HEAD_KEYS],
    vocabulary: vocab::INTERNLM2,
    ..LLAMA
};
