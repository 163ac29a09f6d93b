//! What the architectures that are converted have in common.

use super::Otherwise::{Product, Quotient, Same};
use super::Size::{Context, Embd, FeedForward, HeadDim, Heads, Kv, KvHeads, Layers, Q, Qkv, TwoKv, Vocab};
use super::{Bias, Check, Field, Key, Order, Otherwise, Row, RowKind};

pub(super) const SIZES: &[Field] = &[
    Field::need(Heads, "num_attention_heads"),
    Field::need(Embd, "hidden_size"),
    Field::need(Vocab, "vocab_size"),
    Field::need(Layers, "num_hidden_layers"),
    Field::need(FeedForward, "intermediate_size"),
];

/// Heads of keys and values where the configuration names none; `null` stands for one to each query head.
pub(super) const fn kv_heads(absent: Otherwise) -> Field {
    Field::or(KvHeads, "num_key_value_heads", absent).null(Same(Heads))
}

pub(super) const WIDTHS: &[Field] =
    &[Field::made(Q, Product(Heads, HeadDim)), Field::made(Kv, Product(KvHeads, HeadDim))];

/// Of the widths of heads that a configuration may leave open.
pub(super) const HEAD_SHARE: Field = Field::or(HeadDim, "head_dim", Quotient(Embd, Heads));

pub(super) const CHECKS: [Check; 2] = [
    Check::Divides("num_key_value_heads", KvHeads, Heads, "heads"),
    // Rotation takes two elements together.
    Check::Even("head_dim", HeadDim),
];

/// The width of queries, keys and values in one matrix.
pub(super) const FUSED_WIDTHS: &[Field] =
    &[Field::made(TwoKv, Otherwise::Times(Kv, 2)), Field::made(Qkv, Otherwise::Both(Q, TwoKv))];

pub(super) const SILU: Check = Check::Word("hidden_act", &["silu"]);

pub(super) const EMBEDDING: Row = Row::matrix("model.embed_tokens", "token_embd", Vocab, Embd);
pub(super) const HEAD: Row = Row::matrix("lm_head", "output", Vocab, Embd).kind(RowKind::Head);
pub(super) const OUTPUT_NORM: Row = Row::vector("model.norm", "output_norm", Embd);

/// Norms before each half of a layer.
pub(super) const PRE_NORMS: [Row; 2] = [
    Row::vector("model.layers.{}.input_layernorm", "blk.{}.attn_norm", Embd),
    Row::vector("model.layers.{}.post_attention_layernorm", "blk.{}.ffn_norm", Embd),
];

/// `queries`: the order of the rows of queries and keys.
pub(super) const fn attention(queries: Order, inner: Bias, outer: Bias) -> [Row; 4] {
    [
        Row::matrix("model.layers.{}.self_attn.q_proj", "blk.{}.attn_q", Q, Embd).order(queries).bias(inner),
        Row::matrix("model.layers.{}.self_attn.k_proj", "blk.{}.attn_k", Kv, Embd).order(queries).bias(inner),
        Row::matrix("model.layers.{}.self_attn.v_proj", "blk.{}.attn_v", Kv, Embd).bias(inner),
        Row::matrix("model.layers.{}.self_attn.o_proj", "blk.{}.attn_output", Embd, Q).bias(outer),
    ]
}

/// Norms of each head of queries and keys.
pub(super) const fn head_norms(offset: f32) -> [Row; 2] {
    [
        Row::vector("model.layers.{}.self_attn.q_norm", "blk.{}.attn_q_norm", HeadDim).plus(offset),
        Row::vector("model.layers.{}.self_attn.k_norm", "blk.{}.attn_k_norm", HeadDim).plus(offset),
    ]
}

pub(super) const fn gated(bias: Bias) -> [Row; 3] {
    [
        Row::matrix("model.layers.{}.mlp.gate_proj", "blk.{}.ffn_gate", FeedForward, Embd).bias(bias),
        Row::matrix("model.layers.{}.mlp.up_proj", "blk.{}.ffn_up", FeedForward, Embd).bias(bias),
        Row::matrix("model.layers.{}.mlp.down_proj", "blk.{}.ffn_down", Embd, FeedForward).bias(bias),
    ]
}

/// What architectures with rotary positions write first.
pub(super) const FIRST_KEYS: &[Key] = &[
    Key::Size("block_count", Layers),
    Key::Size("context_length", Context),
    Key::Size("embedding_length", Embd),
    Key::Size("feed_forward_length", FeedForward),
    Key::Size("attention.head_count", Heads),
    Key::Size("attention.head_count_kv", KvHeads),
    Key::Rope,
];

pub(super) const RMS_KEYS: &[Key] = &[Key::Number("attention.layer_norm_rms_epsilon", "rms_norm_eps", 1e-6)];

/// Of architectures whose heads have the usual width, unless the configuration names one.
pub(super) const OPEN_HEAD_KEYS: &[Key] = &[
    Key::SizeIf("attention.key_length", HeadDim, "head_dim"),
    Key::SizeIf("attention.value_length", HeadDim, "head_dim"),
    Key::FileType,
];

pub(super) const HEAD_KEYS: &[Key] =
    &[Key::Size("attention.key_length", HeadDim), Key::Size("attention.value_length", HeadDim), Key::FileType];

pub(super) const LLAMA_KEYS: &[Key] = &[Key::Size("vocab_size", Vocab), Key::Size("rope.dimension_count", HeadDim)];
