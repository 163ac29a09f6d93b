//! The architectures that are converted. Names of tensors and defaults are those of transformers' `modeling_*.py` and
//! `configuration_*.py`; GGUF's names, keys and their order are llama.cpp's.

use super::Otherwise::{Is, Product, Quotient, Same, Sum};
use super::Size::{Context, Embd, FeedForward, HeadDim, Heads, Kv, KvHeads, Layers, Positions, Q, Vocab, Word};
use super::{Arch, Bias, Check, Field, Flag, Key, Order, Ropes, Row, RowKind, When, Window};
use crate::convert::vocab;

/// All, the most common first.
pub(crate) static ARCHITECTURES: [Arch; 6] = [LLAMA, MISTRAL, QWEN2, QWEN3, GEMMA3, OPT];

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

/// What every architecture with rotary positions writes first.
const KEYS: &[Key] = &[
    Key::Size("block_count", Layers),
    Key::Size("context_length", Context),
    Key::Size("embedding_length", Embd),
    Key::Size("feed_forward_length", FeedForward),
    Key::Size("attention.head_count", Heads),
    Key::Size("attention.head_count_kv", KvHeads),
    Key::Rope,
    Key::Number("attention.layer_norm_rms_epsilon", "rms_norm_eps", 1e-6),
];

const HEAD_KEYS: &[Key] =
    &[Key::Size("attention.key_length", HeadDim), Key::Size("attention.value_length", HeadDim), Key::FileType];

const LLAMA: Arch = Arch {
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
    checks: &[CHECKS[0], CHECKS[1], SILU, Check::Number("partial_rotary_factor", 1.0)],
    rope: Some(Ropes {
        kinds: &["default", "linear", "yarn", "llama3", "dynamic"],
        theta: 10_000.0,
        local_theta: None,
    }),
    window: Window::None,
    lead: None,
    first: &[EMBEDDING, OUTPUT_NORM, HEAD],
    layer: &[
        &PRE_NORMS,
        &attention(Order::Interleaved, Bias::If(Flag::AttentionBias), Bias::If(Flag::AttentionBias)),
        &gated(Bias::If(Flag::MlpBias)),
    ],
    last: &[],
    keys: &[KEYS, HEAD_KEYS, &[Key::Size("vocab_size", Vocab), Key::Size("rope.dimension_count", HeadDim)]],
    vocabulary: vocab::LLAMA,
};

/// A Llama, but for a window that the first of them had.
const MISTRAL: Arch = Arch {
    names: &["MistralForCausalLM"],
    sizes: &[SIZES, &[Field::or(Context, "max_position_embeddings", Is(131_072)), kv_heads(Is(8)), HEAD_SHARE], WIDTHS],
    window: Window::All(4096),
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
    keys: &[
        KEYS,
        &[
            Key::SizeIf("attention.key_length", HeadDim, "head_dim"),
            Key::SizeIf("attention.value_length", HeadDim, "head_dim"),
            Key::FileType,
        ],
    ],
    vocabulary: vocab::QWEN,
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
    keys: &[KEYS, HEAD_KEYS],
    ..QWEN2
};

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
        Check::SameAs("query_pre_attn_scalar", HeadDim, 256.0),
    ],
    rope: Some(Ropes { kinds: &["default", "linear"], theta: 1_000_000.0, local_theta: Some(10_000.0) }),
    window: Window::Pattern(6, 4096),
    first: &[EMBEDDING, OUTPUT_NORM.plus(1.0), HEAD],
    layer: &[
        &[
            Row::vector("model.layers.{}.input_layernorm", "blk.{}.attn_norm", Embd).plus(1.0),
            Row::vector("model.layers.{}.post_attention_layernorm", "blk.{}.post_attention_norm", Embd).plus(1.0),
            Row::vector("model.layers.{}.pre_feedforward_layernorm", "blk.{}.ffn_norm", Embd).plus(1.0),
            Row::vector("model.layers.{}.post_feedforward_layernorm", "blk.{}.post_ffw_norm", Embd).plus(1.0),
        ],
        &attention(Order::Same, Bias::If(Flag::AttentionBias), Bias::If(Flag::AttentionBias)),
        &head_norms(1.0),
        &gated(Bias::No),
    ],
    keys: &[KEYS, HEAD_KEYS, &[Key::Window]],
    vocabulary: vocab::GEMMA,
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
