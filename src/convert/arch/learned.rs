//! Architectures whose positions have embeddings.

use super::Otherwise::{Is, Quotient, Same, Sum, Times};
use super::Size::{Context, Embd, FeedForward, HeadDim, Heads, Layers, Positions, Qkv, Vocab, Word};
use super::{Arch, Bias, Check, Field, Flag, Key, Order, Row, RowKind, When, Window};
use crate::convert::vocab;

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
pub(super) const OPT: Arch = Arch {
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
    part: None,
    lead: Some(("model.", "decoder.")),
    passed_over: &[],
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

/// GPT-2's matrices have a row for each element that goes in.
const fn gpt2_linear(from: &'static str, to: &'static str, rows: super::Size, columns: super::Size) -> Row {
    Row::matrix(from, to, rows, columns).order(Order::Transposed).bias(Bias::Yes)
}

const fn gpt2_norm(from: &'static str, to: &'static str) -> Row {
    Row::vector(from, to, Embd).bias(Bias::Yes)
}

/// GPT-2, in every size. GGUF's feed-forward network is four times as wide as the hidden state.
pub(super) const GPT2: Arch = Arch {
    names: &["GPT2LMHeadModel"],
    gguf: "gpt2",
    sizes: &[&[
        Field::need(Embd, "n_embd"),
        Field::need(Vocab, "vocab_size"),
        Field::need(Layers, "n_layer"),
        Field::need(Heads, "n_head"),
        Field::or(FeedForward, "n_inner", Times(Embd, 4)),
        Field::or(Context, "n_positions", Is(1024)),
        Field::made(Positions, Same(Context)),
        Field::made(HeadDim, Quotient(Embd, Heads)),
        Field::made(Qkv, Times(Embd, 3)),
    ]],
    flags: &[(Flag::Tied, "tie_word_embeddings", true)],
    checks: &[
        Check::Word("activation_function", &["gelu_new", "gelu_pytorch_tanh"]),
        Check::Divides("n_head", Heads, Embd, "of `n_embd`"),
        Check::Set("scale_attn_weights", true),
        Check::Unset("scale_attn_by_inverse_layer_idx"),
        Check::Unset("add_cross_attention"),
    ],
    rope: None,
    window: Window::None,
    part: None,
    lead: Some(("transformer.", "")),
    // Masks, in old checkpoints.
    passed_over: &[".attn.bias", ".attn.masked_bias"],
    first: &[
        Row::matrix("wte", "token_embd", Vocab, Embd),
        Row::matrix("wpe", "position_embd", Positions, Embd),
        Row::matrix("lm_head", "output", Vocab, Embd).kind(RowKind::Head),
        gpt2_norm("ln_f", "output_norm"),
    ],
    layer: &[&[
        gpt2_norm("h.{}.ln_1", "blk.{}.attn_norm"),
        gpt2_linear("h.{}.attn.c_attn", "blk.{}.attn_qkv", Embd, Qkv),
        gpt2_linear("h.{}.attn.c_proj", "blk.{}.attn_output", Embd, Embd),
        gpt2_norm("h.{}.ln_2", "blk.{}.ffn_norm"),
        gpt2_linear("h.{}.mlp.c_fc", "blk.{}.ffn_up", Embd, FeedForward),
        gpt2_linear("h.{}.mlp.c_proj", "blk.{}.ffn_down", FeedForward, Embd),
    ]],
    last: &[],
    keys: &[&[
        Key::Size("block_count", Layers),
        Key::Size("context_length", Context),
        Key::Size("embedding_length", Embd),
        Key::Size("feed_forward_length", FeedForward),
        Key::Size("attention.head_count", Heads),
        Key::Number("attention.layer_norm_epsilon", "layer_norm_epsilon", 1e-5),
        Key::FileType,
    ]],
    vocabulary: vocab::PLAIN,
};
