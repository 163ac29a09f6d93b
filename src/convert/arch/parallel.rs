//! Architectures with LayerNorms, and whose halves of layers may take one hidden state.

use super::Otherwise::{Is, Quotient, Same, Times};
use super::Size::{Context, Embd, FeedForward, HeadDim, Heads, Kv, KvHeads, Layers, Q, Qkv, Vocab};
use super::parts::{
    CHECKS, EMBEDDING, FIRST_KEYS, FUSED_WIDTHS, HEAD, HEAD_SHARE, OPEN_HEAD_KEYS, OUTPUT_NORM, PRE_NORMS, SILU, SIZES,
    WIDTHS, attention, gated, kv_heads,
};
use super::table::QWEN2;
use super::{Arch, Bias, Check, Field, Flag, Key, Order, Ropes, Row, RowKind, When, Window};
use crate::convert::vocab;

const fn rotates(part: Option<(&'static str, f64)>) -> Option<Ropes> {
    Some(Ropes { kinds: &["default"], theta: 10_000.0, local_theta: None, part })
}

const GELU: Check = Check::Word("hidden_act", &["gelu"]);

/// Phi 1 and 2. Its GGUF says that the feed-forward network is four times as wide as the hidden state.
pub(super) const PHI2: Arch = Arch {
    names: &["PhiForCausalLM"],
    gguf: "phi2",
    sizes: &[
        SIZES,
        &[
            Field::or(Context, "max_position_embeddings", Is(2048)),
            kv_heads(Same(Heads)),
            Field::made(HeadDim, Quotient(Embd, Heads)),
        ],
        WIDTHS,
    ],
    flags: &[(Flag::Tied, "tie_word_embeddings", false)],
    checks: &[
        CHECKS[0],
        CHECKS[1],
        Check::SameAs("num_key_value_heads", Heads, None),
        Check::Word("hidden_act", &["gelu_new", "gelu_pytorch_tanh"]),
        Check::Unset("qk_layernorm"),
    ],
    rope: rotates(Some(("partial_rotary_factor", 0.5))),
    window: Window::None,
    first: &[
        EMBEDDING,
        Row::vector("model.final_layernorm", "output_norm", Embd).bias(Bias::Yes),
        HEAD.bias(Bias::Yes),
    ],
    layer: &[&[
        PRE_NORMS[0].bias(Bias::Yes),
        Row::matrix("model.layers.{}.self_attn.q_proj", "blk.{}.attn_q", Q, Embd).bias(Bias::Yes),
        Row::matrix("model.layers.{}.self_attn.k_proj", "blk.{}.attn_k", Kv, Embd).bias(Bias::Yes),
        Row::matrix("model.layers.{}.self_attn.v_proj", "blk.{}.attn_v", Kv, Embd).bias(Bias::Yes),
        Row::matrix("model.layers.{}.self_attn.dense", "blk.{}.attn_output", Embd, Q).bias(Bias::Yes),
        Row::matrix("model.layers.{}.mlp.fc1", "blk.{}.ffn_up", FeedForward, Embd).bias(Bias::Yes),
        Row::matrix("model.layers.{}.mlp.fc2", "blk.{}.ffn_down", Embd, FeedForward).bias(Bias::Yes),
    ]],
    keys: &[&[
        Key::Size("context_length", Context),
        Key::Size("embedding_length", Embd),
        Key::Size("feed_forward_length", FeedForward),
        Key::Size("block_count", Layers),
        Key::Size("attention.head_count", Heads),
        Key::Size("attention.head_count_kv", KvHeads),
        Key::UnusualRope,
        Key::Number("attention.layer_norm_epsilon", "layer_norm_eps", 1e-5),
        Key::RotaryDims,
        Key::FileType,
        Key::AddsBos(false),
    ]],
    ..QWEN2
};

/// arXiv 2204.06745, and Pythia.
pub(super) const GPTNEOX: Arch = Arch {
    names: &["GPTNeoXForCausalLM"],
    gguf: "gptneox",
    sizes: &[
        SIZES,
        &[
            Field::or(Context, "max_position_embeddings", Is(2048)),
            Field::made(KvHeads, Same(Heads)),
            Field::made(HeadDim, Quotient(Embd, Heads)),
        ],
        WIDTHS,
        FUSED_WIDTHS,
    ],
    flags: &[
        (Flag::Tied, "tie_word_embeddings", false),
        (Flag::AttentionBias, "attention_bias", true),
        (Flag::Parallel, "use_parallel_residual", true),
    ],
    checks: &[CHECKS[1], GELU],
    rope: rotates(Some(("rotary_pct", 0.25))),
    window: Window::None,
    // Masks, in old checkpoints.
    passed_over: &[".attention.bias", ".attention.masked_bias"],
    first: &[
        Row::matrix("gpt_neox.embed_in", "token_embd", Vocab, Embd),
        Row::vector("gpt_neox.final_layer_norm", "output_norm", Embd).bias(Bias::Yes),
        Row::matrix("embed_out", "output", Vocab, Embd).kind(RowKind::Head),
    ],
    layer: &[&[
        Row::vector("gpt_neox.layers.{}.input_layernorm", "blk.{}.attn_norm", Embd).bias(Bias::Yes),
        Row::vector("gpt_neox.layers.{}.post_attention_layernorm", "blk.{}.ffn_norm", Embd).bias(Bias::Yes),
        Row::matrix("gpt_neox.layers.{}.attention.query_key_value", "blk.{}.attn_qkv", Qkv, Embd)
            .order(Order::Ungrouped)
            .bias(Bias::If(Flag::AttentionBias)),
        Row::matrix("gpt_neox.layers.{}.attention.dense", "blk.{}.attn_output", Embd, Q)
            .bias(Bias::If(Flag::AttentionBias)),
        Row::matrix("gpt_neox.layers.{}.mlp.dense_h_to_4h", "blk.{}.ffn_up", FeedForward, Embd).bias(Bias::Yes),
        Row::matrix("gpt_neox.layers.{}.mlp.dense_4h_to_h", "blk.{}.ffn_down", Embd, FeedForward).bias(Bias::Yes),
    ]],
    keys: &[&[
        Key::Size("context_length", Context),
        Key::Size("embedding_length", Embd),
        Key::Size("block_count", Layers),
        Key::Size("feed_forward_length", FeedForward),
        Key::RotaryDims,
        Key::UnusualRope,
        Key::Size("attention.head_count", Heads),
        Key::Flag("use_parallel_residual", Flag::Parallel),
        Key::Number("attention.layer_norm_epsilon", "layer_norm_eps", 1e-5),
    ]],
    ..QWEN2
};

/// arXiv 2402.17834. The largest has a norm for each head, and its halves side by side.
pub(super) const STABLELM: Arch = Arch {
    names: &["StableLmForCausalLM", "StableLMEpochForCausalLM"],
    gguf: "stablelm",
    sizes: &[SIZES, &[Field::or(Context, "max_position_embeddings", Is(4096)), kv_heads(Is(32)), HEAD_SHARE], WIDTHS],
    flags: &[
        (Flag::Tied, "tie_word_embeddings", false),
        (Flag::AttentionBias, "use_qkv_bias", false),
        (Flag::HeadNorms, "qk_layernorm", false),
        (Flag::Parallel, "use_parallel_residual", false),
    ],
    checks: &[CHECKS[0], CHECKS[1], SILU],
    rope: rotates(Some(("rope_pct", 0.25))),
    window: Window::None,
    first: &[EMBEDDING, OUTPUT_NORM.bias(Bias::Yes), HEAD],
    layer: &[
        &[PRE_NORMS[0].bias(Bias::Yes), PRE_NORMS[1].bias(Bias::Yes).when(&[When::Not(Flag::Parallel)])],
        &attention(Order::Same, Bias::If(Flag::AttentionBias), Bias::No),
        &[
            Row::vector("model.layers.{}.self_attn.q_layernorm.norms.{e}", "blk.{}.attn_q_norm", HeadDim)
                .each(Heads)
                .when(&[When::Is(Flag::HeadNorms)]),
            Row::vector("model.layers.{}.self_attn.k_layernorm.norms.{e}", "blk.{}.attn_k_norm", HeadDim)
                .each(KvHeads)
                .when(&[When::Is(Flag::HeadNorms)]),
        ],
        &gated(Bias::No),
    ],
    keys: &[&[
        Key::Size("context_length", Context),
        Key::Size("embedding_length", Embd),
        Key::Size("block_count", Layers),
        Key::Size("feed_forward_length", FeedForward),
        Key::RotaryDims,
        Key::UnusualRope,
        Key::Size("attention.head_count", Heads),
        Key::Size("attention.head_count_kv", KvHeads),
        Key::Flag("use_parallel_residual", Flag::Parallel),
        Key::Number("attention.layer_norm_epsilon", "layer_norm_eps", 1e-5),
        Key::FileType,
    ]],
    ..QWEN2
};

/// Command R and Aya 23: one norm for both halves, logits with a factor.
pub(super) const COMMAND_R: Arch = Arch {
    names: &["CohereForCausalLM"],
    gguf: "command-r",
    sizes: &[
        SIZES,
        &[
            // What the models were trained with is not what they say first.
            Field::or(Context, "max_position_embeddings", Is(8192)),
            Field::or(Context, "model_max_length", Same(Context)),
            kv_heads(Same(Heads)),
            Field::made(HeadDim, Quotient(Embd, Heads)),
        ],
        WIDTHS,
    ],
    flags: &[
        (Flag::Tied, "tie_word_embeddings", true),
        (Flag::AttentionBias, "attention_bias", false),
        (Flag::HeadNorms, "use_qk_norm", false),
    ],
    checks: &[CHECKS[0], CHECKS[1], SILU, Check::Positive("logit_scale"), Check::Unset("attention_bias")],
    rope: rotates(None),
    window: Window::None,
    layer: &[
        &[PRE_NORMS[0]],
        &attention(Order::Same, Bias::No, Bias::No),
        &[
            Row::matrix("model.layers.{}.self_attn.q_norm", "blk.{}.attn_q_norm", Heads, HeadDim)
                .when(&[When::Is(Flag::HeadNorms)]),
            Row::matrix("model.layers.{}.self_attn.k_norm", "blk.{}.attn_k_norm", KvHeads, HeadDim)
                .when(&[When::Is(Flag::HeadNorms)]),
        ],
        &gated(Bias::No),
    ],
    keys: &[
        FIRST_KEYS,
        &[
            Key::Number("attention.layer_norm_epsilon", "layer_norm_eps", 1e-5),
            Key::FileType,
            Key::Number("logit_scale", "logit_scale", 0.0625),
            Key::Text("rope.scaling.type", "none"),
        ],
    ],
    ..QWEN2
};

/// arXiv 2504.00698: three layers with a window to one without, which does not rotate.
pub(super) const COHERE2: Arch = Arch {
    names: &["Cohere2ForCausalLM"],
    gguf: "cohere2",
    sizes: &[
        SIZES,
        &[Field::or(Context, "max_position_embeddings", Is(8192)), kv_heads(Same(Heads)), HEAD_SHARE],
        WIDTHS,
    ],
    flags: &[(Flag::Tied, "tie_word_embeddings", true)],
    rope: rotates(Some(("rotary_pct", 1.0))),
    window: Window::Pattern(4, 4096),
    layer: &[&[PRE_NORMS[0]], &attention(Order::Same, Bias::No, Bias::No), &gated(Bias::No)],
    keys: &[
        FIRST_KEYS,
        &[Key::Number("attention.layer_norm_epsilon", "layer_norm_eps", 1e-5)],
        OPEN_HEAD_KEYS,
        &[
            Key::Number("logit_scale", "logit_scale", 0.0625),
            Key::Window,
            Key::Size("vocab_size", Vocab),
            Key::RotaryDims,
            Key::Text("rope.scaling.type", "none"),
        ],
    ],
    ..COMMAND_R
};

/// arXiv 2311.16867. The first has one head of keys; the others have groups, and a norm for each half.
pub(super) const FALCON: Arch = Arch {
    names: &["FalconForCausalLM", "RWForCausalLM"],
    gguf: "falcon",
    sizes: &[
        &[
            Field::need(Heads, "num_attention_heads"),
            Field::need(Embd, "hidden_size"),
            Field::need(Vocab, "vocab_size"),
            Field::need(Layers, "num_hidden_layers"),
            Field::or(FeedForward, "ffn_hidden_size", Times(Embd, 4)),
            // No configuration says it.
            Field::made(Context, Is(2048)),
            Field::or(KvHeads, "num_kv_heads", Same(Heads)).single(("multi_query", "new_decoder_architecture")),
            Field::made(HeadDim, Quotient(Embd, Heads)),
        ],
        WIDTHS,
        FUSED_WIDTHS,
    ],
    flags: &[(Flag::Tied, "tie_word_embeddings", true), (Flag::TwoNorms, "new_decoder_architecture", false)],
    checks: &[
        Check::Divides("num_kv_heads", KvHeads, Heads, "heads"),
        CHECKS[1],
        Check::Word("activation", &["gelu"]),
        Check::Unset("alibi"),
        Check::Unset("bias"),
        Check::Set("parallel_attn", true),
        Check::Number("num_ln_in_parallel_attn", 2.0),
    ],
    rope: rotates(None),
    window: Window::None,
    lead: Some(("transformer.", "")),
    first: &[
        Row::matrix("word_embeddings", "token_embd", Vocab, Embd),
        Row::vector("ln_f", "output_norm", Embd).bias(Bias::Yes),
        HEAD,
    ],
    layer: &[&[
        Row::vector("h.{}.input_layernorm", "blk.{}.attn_norm", Embd)
            .bias(Bias::Yes)
            .when(&[When::Not(Flag::TwoNorms)]),
        Row::vector("h.{}.ln_mlp", "blk.{}.attn_norm", Embd).bias(Bias::Yes).when(&[When::Is(Flag::TwoNorms)]),
        Row::vector("h.{}.ln_attn", "blk.{}.attn_norm_2", Embd).bias(Bias::Yes).when(&[When::Is(Flag::TwoNorms)]),
        Row::matrix("h.{}.self_attention.query_key_value", "blk.{}.attn_qkv", Qkv, Embd).order(Order::Ungrouped),
        Row::matrix("h.{}.self_attention.dense", "blk.{}.attn_output", Embd, Q),
        Row::matrix("h.{}.mlp.dense_h_to_4h", "blk.{}.ffn_up", FeedForward, Embd),
        Row::matrix("h.{}.mlp.dense_4h_to_h", "blk.{}.ffn_down", Embd, FeedForward),
    ]],
    keys: &[&[
        Key::Size("context_length", Context),
        Key::Text("tensor_data_layout", "jploski"),
        Key::Size("embedding_length", Embd),
        Key::Size("feed_forward_length", FeedForward),
        Key::Size("block_count", Layers),
        Key::Size("attention.head_count", Heads),
        Key::Size("attention.head_count_kv", KvHeads),
        Key::UnusualRope,
        Key::Number("attention.layer_norm_epsilon", "layer_norm_epsilon", 1e-5),
        Key::FileType,
    ]],
    vocabulary: vocab::PLAIN,
    ..QWEN2
};
