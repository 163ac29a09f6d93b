//! The architectures that are converted. Names of tensors and defaults are those of transformers' `modeling_*.py` and
//! `configuration_*.py`; GGUF's names, keys and their order are llama.cpp's.

use super::Otherwise::{Is, Product, Quotient, Same, Sum};
use super::Size::{Context, Embd, FeedForward, HeadDim, Heads, Kv, KvHeads, Layers, Positions, Q, Vocab, Word};
use super::{Arch, Bias, Check, Field, Flag, Key, Order, Part, Ropes, Row, RowKind, When, Window};
use crate::convert::vocab;

/// All, the most common first.
pub(crate) static ARCHITECTURES: [Arch; 12] =
    [LLAMA, MISTRAL, QWEN2, QWEN3, GEMMA3, GEMMA3_IMAGES, GEMMA2, SMOLLM3, GRANITE, OLMO2, STARCODER2, OPT];

const SIZES: &[Field] = &[
    Field::need(Heads, "num_attention_heads"),
    Field::need(Embd, "hidden_size"),
    Field::need(Vocab, "vocab_size"),
    Field::need(Layers, "num_hidden_layers"),
    Field::need(FeedForward, "intermediate_size"),
];

/// Heads of keys and values where the configuration names none; `null` stands for one to each query head.
const fn kv_heads(absent: super::Otherwise) -> Field {
    Field::or(KvHeads, "num_key_value_heads", absent).null(Same(Heads))
}

const WIDTHS: &[Field] = &[Field::made(Q, Product(Heads, HeadDim)), Field::made(Kv, Product(KvHeads, HeadDim))];

/// Of the widths of heads that a configuration may leave open.
const HEAD_SHARE: Field = Field::or(HeadDim, "head_dim", Quotient(Embd, Heads));

const CHECKS: [Check; 2] = [
    Check::Divides("num_key_value_heads", KvHeads, Heads, "heads"),
    // Rotation takes two elements together.
    Check::Even("head_dim", HeadDim),
];

const SILU: Check = Check::Word("hidden_act", &["silu"]);

const EMBEDDING: Row = Row::matrix("model.embed_tokens", "token_embd", Vocab, Embd);
const HEAD: Row = Row::matrix("lm_head", "output", Vocab, Embd).kind(RowKind::Head);
const OUTPUT_NORM: Row = Row::vector("model.norm", "output_norm", Embd);

/// Norms before each half of a layer.
const PRE_NORMS: [Row; 2] = [
    Row::vector("model.layers.{}.input_layernorm", "blk.{}.attn_norm", Embd),
    Row::vector("model.layers.{}.post_attention_layernorm", "blk.{}.ffn_norm", Embd),
];

/// `queries`: the order of the rows of queries and keys.
const fn attention(queries: Order, inner: Bias, outer: Bias) -> [Row; 4] {
    [
        Row::matrix("model.layers.{}.self_attn.q_proj", "blk.{}.attn_q", Q, Embd).order(queries).bias(inner),
        Row::matrix("model.layers.{}.self_attn.k_proj", "blk.{}.attn_k", Kv, Embd).order(queries).bias(inner),
        Row::matrix("model.layers.{}.self_attn.v_proj", "blk.{}.attn_v", Kv, Embd).bias(inner),
        Row::matrix("model.layers.{}.self_attn.o_proj", "blk.{}.attn_output", Embd, Q).bias(outer),
    ]
}

/// Norms of each head of queries and keys.
const fn head_norms(offset: f32) -> [Row; 2] {
    [
        Row::vector("model.layers.{}.self_attn.q_norm", "blk.{}.attn_q_norm", HeadDim).plus(offset),
        Row::vector("model.layers.{}.self_attn.k_norm", "blk.{}.attn_k_norm", HeadDim).plus(offset),
    ]
}

const fn gated(bias: Bias) -> [Row; 3] {
    [
        Row::matrix("model.layers.{}.mlp.gate_proj", "blk.{}.ffn_gate", FeedForward, Embd).bias(bias),
        Row::matrix("model.layers.{}.mlp.up_proj", "blk.{}.ffn_up", FeedForward, Embd).bias(bias),
        Row::matrix("model.layers.{}.mlp.down_proj", "blk.{}.ffn_down", Embd, FeedForward).bias(bias),
    ]
}

/// What architectures with rotary positions write first.
const FIRST_KEYS: &[Key] = &[
    Key::Size("block_count", Layers),
    Key::Size("context_length", Context),
    Key::Size("embedding_length", Embd),
    Key::Size("feed_forward_length", FeedForward),
    Key::Size("attention.head_count", Heads),
    Key::Size("attention.head_count_kv", KvHeads),
    Key::Rope,
];

const RMS_KEYS: &[Key] = &[Key::Number("attention.layer_norm_rms_epsilon", "rms_norm_eps", 1e-6)];

/// Of architectures whose heads have the usual width, unless the configuration names one.
const OPEN_HEAD_KEYS: &[Key] = &[
    Key::SizeIf("attention.key_length", HeadDim, "head_dim"),
    Key::SizeIf("attention.value_length", HeadDim, "head_dim"),
    Key::FileType,
];

const HEAD_KEYS: &[Key] =
    &[Key::Size("attention.key_length", HeadDim), Key::Size("attention.value_length", HeadDim), Key::FileType];

const LLAMA_KEYS: &[Key] = &[Key::Size("vocab_size", Vocab), Key::Size("rope.dimension_count", HeadDim)];

const LLAMA: Arch = Arch {
    names: &["LlamaForCausalLM", "LLaMAForCausalLM"],
    gguf: "llama",
    runs: true,
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
    }),
    window: Window::None,
    part: None,
    lead: None,
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
const MISTRAL: Arch = Arch {
    names: &["MistralForCausalLM"],
    sizes: &[SIZES, &[Field::or(Context, "max_position_embeddings", Is(131_072)), kv_heads(Is(8)), HEAD_SHARE], WIDTHS],
    window: Window::All(Some(4096)),
    keys: &[FIRST_KEYS, RMS_KEYS, HEAD_KEYS, LLAMA_KEYS, &[Key::Window]],
    ..LLAMA
};

/// arXiv 2407.10671. Rows stay in transformers' order, which is GGUF's for `qwen2`.
const QWEN2: Arch = Arch {
    names: &["Qwen2ForCausalLM"],
    gguf: "qwen2",
    sizes: &[SIZES, &[Field::or(Context, "max_position_embeddings", Is(32_768)), kv_heads(Is(32)), HEAD_SHARE], WIDTHS],
    flags: &[(Flag::Tied, "tie_word_embeddings", false)],
    rope: Some(Ropes { kinds: &["default", "linear", "yarn", "dynamic"], theta: 10_000.0, local_theta: None }),
    window: Window::Upper(4096, 28),
    layer: &[&PRE_NORMS, &attention(Order::Same, Bias::Yes, Bias::No), &gated(Bias::No)],
    keys: &[FIRST_KEYS, RMS_KEYS, OPEN_HEAD_KEYS],
    vocabulary: vocab::PLAIN,
    ..LLAMA
};

/// arXiv 2505.09388.
const QWEN3: Arch = Arch {
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
const GEMMA3: Arch = Arch {
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
    rope: Some(Ropes { kinds: &["default", "linear"], theta: 1_000_000.0, local_theta: Some(10_000.0) }),
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
const GEMMA3_IMAGES: Arch = Arch {
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
const GEMMA2: Arch = Arch {
    names: &["Gemma2ForCausalLM"],
    gguf: "gemma2",
    runs: true,
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
    rope: Some(Ropes { kinds: &["default"], theta: 10_000.0, local_theta: None }),
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
const SMOLLM3: Arch = Arch {
    names: &["SmolLM3ForCausalLM"],
    gguf: "smollm3",
    runs: true,
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
    rope: Some(Ropes { kinds: &["default", "linear", "yarn"], theta: 2_000_000.0, local_theta: None }),
    keys: &[FIRST_KEYS, RMS_KEYS, OPEN_HEAD_KEYS, LLAMA_KEYS],
    ..LLAMA
};

/// A Llama with four factors, for embeddings, scores, halves of layers and logits.
const GRANITE: Arch = Arch {
    names: &["GraniteForCausalLM"],
    gguf: "granite",
    runs: true,
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
    rope: Some(Ropes { kinds: &["default", "linear", "yarn"], theta: 10_000.0, local_theta: None }),
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
const OLMO2: Arch = Arch {
    names: &["Olmo2ForCausalLM"],
    gguf: "olmo2",
    runs: true,
    sizes: &[
        SIZES,
        &[Field::or(Context, "max_position_embeddings", Is(2048)), kv_heads(Same(Heads)), HEAD_SHARE],
        WIDTHS,
    ],
    checks: &[CHECKS[0], CHECKS[1], SILU, Check::Unset("attention_bias")],
    rope: Some(Ropes { kinds: &["default", "linear", "yarn"], theta: 10_000.0, local_theta: None }),
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
const STARCODER2: Arch = Arch {
    names: &["Starcoder2ForCausalLM"],
    gguf: "starcoder2",
    runs: true,
    sizes: &[SIZES, &[Field::or(Context, "max_position_embeddings", Is(4096)), kv_heads(Is(2)), HEAD_SHARE], WIDTHS],
    flags: &[(Flag::Tied, "tie_word_embeddings", true)],
    checks: &[CHECKS[0], CHECKS[1], Check::Word("hidden_act", &["gelu_pytorch_tanh"])],
    rope: Some(Ropes { kinds: &["default", "linear", "yarn"], theta: 10_000.0, local_theta: None }),
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

/// A norm that ones and zeros stand for where it has no weights.
const fn opt_norm(from: &'static str, to: &'static str) -> Row {
    Row::vector(from, to, Embd).bias(Bias::Yes).kind(RowKind::OnesUnless(Flag::NormWeights))
}

const fn opt_linear(from: &'static str, to: &'static str, rows: super::Size, columns: super::Size) -> Row {
    Row::matrix(from, to, rows, columns).bias(Bias::If(Flag::Biases))
}

/// The positions that the embedding begins with and that no token has.
const OPT_OFFSET: usize = 2;

/// arXiv 2205.01068, in the variants that were published: pre-norm (all sizes but one), 350m with its norms behind the halves
/// of a layer and a narrow embedding, Galactica without biases.
const OPT: Arch = Arch {
    names: &["OPTForCausalLM"],
    gguf: "opt",
    runs: true,
    sizes: &[&[
        Field::need(Embd, "hidden_size"),
        Field::need(Vocab, "vocab_size"),
        Field::need(Layers, "num_hidden_layers"),
        Field::or(Word, "word_embed_proj_dim", Same(Embd)),
        Field::need(FeedForward, "ffn_dim"),
        Field::need(Heads, "num_attention_heads"),
        Field::need(Context, "max_position_embeddings"),
        Field::made(Positions, Sum(Context, OPT_OFFSET)),
    ]],
    flags: &[
        (Flag::NormBefore, "do_layer_norm_before", true),
        (Flag::NoFinalNorm, "_remove_final_layer_norm", false),
        (Flag::Biases, "enable_bias", true),
        (Flag::NormWeights, "layer_norm_elementwise_affine", true),
        (Flag::Tied, "tie_word_embeddings", true),
    ],
    checks: &[
        Check::Word("activation_function", &["relu", "gelu"]),
        Check::Divides("num_attention_heads", Heads, Embd, "of `hidden_size`"),
    ],
    rope: None,
    window: Window::None,
    part: None,
    lead: Some(("model.", "decoder.")),
    first: &[
        Row::matrix("decoder.embed_tokens", "token_embd", Vocab, Word),
        Row::matrix("decoder.embed_positions", "position_embd", Positions, Embd).order(Order::Skip(OPT_OFFSET)),
        Row::matrix("decoder.project_in", "token_embd_proj_in", Embd, Word).when(&[When::Narrow]),
        Row::matrix("decoder.project_out", "token_embd_proj_out", Word, Embd).when(&[When::Narrow]),
        Row::matrix("lm_head", "output", Vocab, Word).kind(RowKind::Head),
    ],
    layer: &[&[
        opt_norm("decoder.layers.{}.self_attn_layer_norm", "blk.{}.attn_norm"),
        opt_norm("decoder.layers.{}.final_layer_norm", "blk.{}.ffn_norm"),
        opt_linear("decoder.layers.{}.self_attn.q_proj", "blk.{}.attn_q", Embd, Embd),
        opt_linear("decoder.layers.{}.self_attn.k_proj", "blk.{}.attn_k", Embd, Embd),
        opt_linear("decoder.layers.{}.self_attn.v_proj", "blk.{}.attn_v", Embd, Embd),
        opt_linear("decoder.layers.{}.self_attn.out_proj", "blk.{}.attn_output", Embd, Embd),
        opt_linear("decoder.layers.{}.fc1", "blk.{}.ffn_up", FeedForward, Embd),
        opt_linear("decoder.layers.{}.fc2", "blk.{}.ffn_down", Embd, FeedForward),
    ]],
    last: &[opt_norm("decoder.final_layer_norm", "output_norm")
        .when(&[When::Is(Flag::NormBefore), When::Not(Flag::NoFinalNorm)])],
    keys: &[&[
        Key::Size("context_length", Context),
        Key::Size("embedding_length", Embd),
        Key::Size("word_embed_proj_dim", Word),
        Key::Size("block_count", Layers),
        Key::Size("feed_forward_length", FeedForward),
        Key::Size("attention.head_count", Heads),
        Key::Size("attention.head_count_kv", Heads),
        // transformers has no setting for it: PyTorch's default.
        Key::Always("attention.layer_norm_epsilon", 1e-5),
        Key::Word("activation", "activation_function", "relu"),
        Key::Flag("do_layer_norm_before", Flag::NormBefore),
        Key::Size("vocab_size", Vocab),
        Key::FileType,
    ]],
    vocabulary: vocab::OPT,
};
