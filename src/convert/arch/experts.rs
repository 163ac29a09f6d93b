//! Architectures with experts.

use super::Otherwise::{Is, Quotient, Same, Times};
use super::Size::{Context, Embd, Experts, ExpertsUsed, FeedForward, GateUp, HeadDim, Heads, KvHeads, Layers, Vocab};
use super::parts::{
    CHECKS, FIRST_KEYS, HEAD_KEYS, LLAMA_KEYS, OPEN_HEAD_KEYS, PRE_NORMS, RMS_KEYS, SILU, SIZES, WIDTHS, attention,
    head_norms, kv_heads,
};
use super::table::{GRANITE, LLAMA, MISTRAL, QWEN2, QWEN3};
use super::{Arch, Bias, Check, Field, Flag, Key, Order, Ropes, Row, Shape, Window};

const EXPERT_KEYS: &[Key] = &[Key::Size("expert_count", Experts), Key::Size("expert_used_count", ExpertsUsed)];

const USED: Check = Check::AtMost("num_experts_per_tok", ExpertsUsed, Experts);

/// One matrix of each expert.
const fn expert(from: &'static str, to: &'static str, rows: super::Size, columns: super::Size) -> Row {
    Row::matrix(from, to, rows, columns).each(Experts)
}

/// arXiv 2401.04088.
pub(super) const MIXTRAL: Arch = Arch {
    names: &["MixtralForCausalLM"],
    sizes: &[
        SIZES,
        &[
            Field::or(Context, "max_position_embeddings", Is(131_072)),
            kv_heads(Is(8)),
            Field::or(HeadDim, "head_dim", Quotient(Embd, Heads)),
            Field::or(Experts, "num_local_experts", Is(8)),
            Field::or(ExpertsUsed, "num_experts_per_tok", Is(2)),
        ],
        WIDTHS,
    ],
    flags: &[(Flag::Tied, "tie_word_embeddings", false)],
    checks: &[CHECKS[0], CHECKS[1], SILU, USED],
    rope: Some(Ropes { theta: 1_000_000.0, ..ROPE }),
    window: Window::All(None),
    layer: &[
        &PRE_NORMS,
        &attention(Order::Interleaved, Bias::No, Bias::No),
        &[
            Row::matrix("model.layers.{}.block_sparse_moe.gate", "blk.{}.ffn_gate_inp", Experts, Embd),
            expert("model.layers.{}.block_sparse_moe.experts.{e}.w1", "blk.{}.ffn_gate_exps", FeedForward, Embd),
            expert("model.layers.{}.block_sparse_moe.experts.{e}.w2", "blk.{}.ffn_down_exps", Embd, FeedForward),
            expert("model.layers.{}.block_sparse_moe.experts.{e}.w3", "blk.{}.ffn_up_exps", FeedForward, Embd),
        ],
    ],
    keys: &[FIRST_KEYS, RMS_KEYS_5, EXPERT_KEYS, OPEN_HEAD_KEYS, LLAMA_KEYS, &[Key::Window]],
    ..MISTRAL
};

const RMS_KEYS_5: &[Key] = &[Key::Number("attention.layer_norm_rms_epsilon", "rms_norm_eps", 1e-5)];

const ROPE: Ropes = Ropes { kinds: &["default", "linear", "yarn"], theta: 10_000.0, local_theta: None, part: None };

/// Qwen 3 with experts in every layer.
pub(super) const QWEN3MOE: Arch = Arch {
    names: &["Qwen3MoeForCausalLM"],
    gguf: "qwen3moe",
    sizes: &[
        &[
            Field::need(Heads, "num_attention_heads"),
            Field::need(Embd, "hidden_size"),
            Field::need(Vocab, "vocab_size"),
            Field::need(Layers, "num_hidden_layers"),
            Field::or(FeedForward, "moe_intermediate_size", Is(768)),
            // Of layers without experts, of which there are none: a key says it all the same.
            Field::need(GateUp, "intermediate_size"),
            Field::or(Context, "max_position_embeddings", Is(32_768)),
            kv_heads(Is(4)),
            Field::or(HeadDim, "head_dim", Quotient(Embd, Heads)),
            Field::or(Experts, "num_experts", Is(128)),
            Field::or(Experts, "num_local_experts", Same(Experts)),
            Field::or(ExpertsUsed, "num_experts_per_tok", Is(8)),
        ],
        WIDTHS,
    ],
    checks: &[
        CHECKS[0],
        CHECKS[1],
        SILU,
        USED,
        // GGUF has no words for layers without experts, nor for weights that do not add up to 1.
        Check::Set("norm_topk_prob", false),
        Check::Number("decoder_sparse_step", 1.0),
        Check::Unset("mlp_only_layers"),
    ],
    layer: &[
        &PRE_NORMS,
        &attention(Order::Same, Bias::If(Flag::AttentionBias), Bias::If(Flag::AttentionBias)),
        &head_norms(0.0),
        &[
            Row::matrix("model.layers.{}.mlp.gate", "blk.{}.ffn_gate_inp", Experts, Embd),
            expert("model.layers.{}.mlp.experts.{e}.down_proj", "blk.{}.ffn_down_exps", Embd, FeedForward),
            expert("model.layers.{}.mlp.experts.{e}.gate_proj", "blk.{}.ffn_gate_exps", FeedForward, Embd),
            expert("model.layers.{}.mlp.experts.{e}.up_proj", "blk.{}.ffn_up_exps", FeedForward, Embd),
        ],
    ],
    keys: &[
        &[
            Key::Size("block_count", Layers),
            Key::Size("context_length", Context),
            Key::Size("embedding_length", Embd),
            Key::Size("feed_forward_length", GateUp),
            Key::Size("attention.head_count", Heads),
            Key::Size("attention.head_count_kv", KvHeads),
            Key::Rope,
        ],
        RMS_KEYS,
        EXPERT_KEYS,
        HEAD_KEYS,
        &[Key::Size("expert_feed_forward_length", FeedForward)],
    ],
    ..QWEN3
};

/// Granite with experts, whose gates and ups lie in one tensor.
pub(super) const GRANITEMOE: Arch = Arch {
    names: &["GraniteMoeForCausalLM"],
    gguf: "granitemoe",
    sizes: &[
        GRANITE.sizes[0],
        GRANITE.sizes[1],
        GRANITE.sizes[2],
        &[
            Field::made(GateUp, Times(FeedForward, 2)),
            Field::or(Experts, "num_local_experts", Is(8)),
            Field::or(ExpertsUsed, "num_experts_per_tok", Is(2)),
        ],
    ],
    flags: &[(Flag::Tied, "tie_word_embeddings", false), (Flag::AttentionBias, "attention_bias", false)],
    checks: &[
        CHECKS[0],
        CHECKS[1],
        SILU,
        USED,
        Check::SameAs("head_dim", HeadDim, None),
        Check::Positive("attention_multiplier"),
        Check::Positive("embedding_multiplier"),
        Check::Positive("residual_multiplier"),
        Check::Positive("logits_scaling"),
    ],
    layer: &[
        LLAMA.layer[0],
        &attention(Order::Interleaved, Bias::If(Flag::AttentionBias), Bias::If(Flag::AttentionBias)),
        &[
            Row::matrix("model.layers.{}.block_sparse_moe.router.layer", "blk.{}.ffn_gate_inp", Experts, Embd),
            both("blk.{}.ffn_gate_exps").order(Order::Half(0)),
            both("blk.{}.ffn_up_exps").order(Order::Half(1)),
            Row::matrices(
                "model.layers.{}.block_sparse_moe.output_linear",
                "blk.{}.ffn_down_exps",
                [Experts, Embd, FeedForward],
            ),
        ],
    ],
    keys: &[GRANITE.keys[0], GRANITE.keys[1], EXPERT_KEYS, GRANITE.keys[2], GRANITE.keys[3], GRANITE.keys[4]],
    ..GRANITE
};

const fn both(to: &'static str) -> Row {
    Row::matrices("model.layers.{}.block_sparse_moe.input_linear", to, [Experts, GateUp, Embd])
}

/// A tensor of all experts; `part`: what it becomes.
const fn of_experts(from: &'static str, to: &'static str, shape: Shape, part: &'static str) -> Row {
    Row::new(from, to, shape).whole(part)
}

const GATE_UP: &str = "model.layers.{}.mlp.experts.gate_up_proj";
const GATE_UP_BIAS: &str = "model.layers.{}.mlp.experts.gate_up_proj_bias";
const GATE_UP_SHAPE: Shape = Shape::Matrices(Experts, Embd, GateUp);

/// arXiv 2508.10925, unquantized: gates and ups by turns, sinks, biases everywhere.
pub(super) const GPT_OSS: Arch = Arch {
    names: &["GptOssForCausalLM"],
    gguf: "gpt-oss",
    sizes: &[
        SIZES,
        &[
            Field::or(Context, "max_position_embeddings", Is(131_072)),
            kv_heads(Is(8)),
            Field::or(HeadDim, "head_dim", Is(64)),
            Field::made(GateUp, Times(FeedForward, 2)),
            Field::or(Experts, "num_local_experts", Is(128)),
            Field::or(ExpertsUsed, "num_experts_per_tok", Is(4)),
        ],
        WIDTHS,
    ],
    flags: &[(Flag::Tied, "tie_word_embeddings", false), (Flag::AttentionBias, "attention_bias", true)],
    checks: &[
        CHECKS[0],
        CHECKS[1],
        SILU,
        USED,
        Check::Set("attention_bias", true),
        // What GGUF's `gpt-oss` has without saying so.
        Check::Number("swiglu_alpha", 1.702),
        Check::Number("swiglu_limit", 7.0),
    ],
    rope: Some(Ropes { kinds: &["default", "yarn"], theta: 150_000.0, local_theta: None, part: None }),
    window: Window::Pattern(2, 128),
    layer: &[
        &[
            PRE_NORMS[0],
            Row::vector("model.layers.{}.post_attention_layernorm", "blk.{}.post_attention_norm", Embd),
            Row::vector("model.layers.{}.self_attn.sinks", "blk.{}.attn_sinks", Heads).whole("weight"),
            Row::matrix("model.layers.{}.mlp.router", "blk.{}.ffn_gate_inp", Experts, Embd).bias(Bias::Yes),
        ],
        &attention(Order::Same, Bias::Yes, Bias::Yes),
        &[
            of_experts(GATE_UP, "blk.{}.ffn_gate_exps", GATE_UP_SHAPE, "weight").order(Order::AlternateColumns(0)),
            of_experts(GATE_UP, "blk.{}.ffn_up_exps", GATE_UP_SHAPE, "weight").order(Order::AlternateColumns(1)),
            of_experts(GATE_UP_BIAS, "blk.{}.ffn_gate_exps", Shape::Matrix(Experts, GateUp), "bias")
                .order(Order::AlternateElements(0)),
            of_experts(GATE_UP_BIAS, "blk.{}.ffn_up_exps", Shape::Matrix(Experts, GateUp), "bias")
                .order(Order::AlternateElements(1)),
            of_experts(
                "model.layers.{}.mlp.experts.down_proj",
                "blk.{}.ffn_down_exps",
                Shape::Matrices(Experts, FeedForward, Embd),
                "weight",
            )
            .order(Order::Transposed),
            of_experts(
                "model.layers.{}.mlp.experts.down_proj_bias",
                "blk.{}.ffn_down_exps",
                Shape::Matrix(Experts, Embd),
                "bias",
            ),
        ],
    ],
    keys: &[
        FIRST_KEYS,
        RMS_KEYS_5,
        EXPERT_KEYS,
        HEAD_KEYS,
        &[Key::Window, Key::Size("expert_feed_forward_length", FeedForward)],
    ],
    ..QWEN2
};
