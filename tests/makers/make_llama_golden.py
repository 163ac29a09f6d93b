#!/usr/bin/env python3
"""Makes tests/data/llama_golden: tiny seeded Llama checkpoints as GGUF, with the logits Hugging Face transformers gives for them.

Needs the Python packages torch, transformers and gguf. Usage: make_llama_golden.py [FOLDER]
"""

import sys

import gguf
import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from golden_models import finish, make_all

N_VOCAB = 96
N_CONTEXT = 64
N_TOKENS = 48
THETA = 10000.0
SCALED = {"rope_theta": THETA, "factor": 4.0}

WIDE = {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4, "num_key_value_heads": 2}
NARROW = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2, "num_key_value_heads": 1}
VARIANTS = {
    "gqa-untied": WIDE,
    "tied": {**WIDE, "tie_word_embeddings": True},
    "biases": {**WIDE, "attention_bias": True, "mlp_bias": True},
    "head-dim": {**NARROW, "head_dim": 32, "num_attention_heads": 4, "num_key_value_heads": 2},
    "rope-linear": {**NARROW, "rope_parameters": {**SCALED, "rope_type": "linear"}},
    "rope-yarn": {**NARROW, "rope_parameters": {**SCALED, "rope_type": "yarn", "original_max_position_embeddings": 16}},
    "rope-llama3": {
        **NARROW,
        # With 32 one frequency lies above the two bounds, one between them, and the others below.
        "rope_parameters": {
            **SCALED,
            "rope_type": "llama3",
            "original_max_position_embeddings": 32,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
        },
    },
}

MODULES = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def main():
    make_all("llama_golden", VARIANTS, N_VOCAB, N_TOKENS, make_model, check_scaling_matters, write_gguf)


def make_model(options):
    options = {"rope_parameters": {"rope_type": "default", "rope_theta": THETA}, "tie_word_embeddings": False, **options}
    config = LlamaConfig(
        vocab_size=N_VOCAB,
        num_hidden_layers=2,
        max_position_embeddings=N_CONTEXT,
        rms_norm_eps=1e-5,
        attn_implementation="eager",
        **options,
    )
    return LlamaForCausalLM(config).eval()


def check_scaling_matters(name, model, tokens, logits):
    """A variant whose scaling did not change the logits would test nothing."""
    if not name.startswith("rope-"):
        return
    unscaled = {**model.config.to_dict(), "rope_parameters": {"rope_type": "default", "rope_theta": THETA}}
    plain = LlamaForCausalLM(LlamaConfig.from_dict(unscaled))
    plain.load_state_dict(model.state_dict())
    with torch.no_grad():
        difference = (plain.eval()(tokens).logits[0] - logits).abs().max().item()
    if difference < 0.1:
        sys.exit(f"error: {name}: expected the scaling to move the logits by at least 0.1, found {difference}")


def write_gguf(path, name, model):
    config = model.config
    head_dim = config.head_dim
    writer = gguf.GGUFWriter(path, "llama")
    add_shape(writer, name, config)
    writer.add_vocab_size(config.vocab_size)
    writer.add_rope_dimension_count(head_dim)
    writer.add_rope_freq_base(THETA)
    if head_dim * config.num_attention_heads != config.hidden_size:
        writer.add_key_length(head_dim)
        writer.add_value_length(head_dim)
    add_rope_scaling(writer, model)
    add_vocabulary(writer)
    finish(writer, tensors(model))


def add_shape(writer, name, config):
    """What every architecture says of its shape."""
    writer.add_name(name)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)


def add_rope_scaling(writer, model):
    rope = model.config.rope_parameters
    if rope["rope_type"] == "llama3":
        # GGUF has no key for this kind: the file carries what each frequency is divided by.
        plain = THETA ** -(torch.arange(0, model.config.head_dim, 2, dtype=torch.float64) / model.config.head_dim)
        factors = plain / model.model.rotary_emb.inv_freq.double()
        writer.add_tensor("rope_freqs.weight", factors.numpy().astype(np.float32))
    elif rope["rope_type"] != "default":
        writer.add_rope_scaling_type(gguf.RopeScalingType(rope["rope_type"]))
        writer.add_rope_scaling_factor(rope["factor"])
        # The prompt is longer than this, so the scaling decides the logits.
        writer.add_rope_scaling_orig_ctx_len(rope.get("original_max_position_embeddings", N_CONTEXT // 4))


def add_vocabulary(writer):
    """A SentencePiece vocabulary without merges: enough for programs that insist on one."""
    letters = [chr(0x21 + i) for i in range(N_VOCAB - 4)]
    kinds = [gguf.TokenType.UNKNOWN, gguf.TokenType.CONTROL, gguf.TokenType.CONTROL]
    writer.add_tokenizer_model("llama")
    writer.add_token_list(["<unk>", "<s>", "</s>", "\u2581", *letters])
    writer.add_token_scores([-float(i) for i in range(N_VOCAB)])
    writer.add_token_types(kinds + [gguf.TokenType.NORMAL] * (N_VOCAB - 3))
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)


def tensors(model):
    """GGUF names and arrays, in the order of the forward pass."""
    state = {key: value.numpy() for key, value in model.state_dict().items()}
    config = model.config
    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
    yield "token_embd.weight", state["model.embed_tokens.weight"]
    for il in range(config.num_hidden_layers):
        for module, name in MODULES.items():
            for kind in ("weight", "bias"):
                data = state.get(f"model.layers.{il}.{module}.{kind}")
                if data is not None:
                    yield f"blk.{il}.{name}.{kind}", interleave(data, heads[name], config.head_dim) if name in heads else data
    yield "output_norm.weight", state["model.norm.weight"]
    if not config.tie_word_embeddings:
        yield "output.weight", state["lm_head.weight"]


def interleave(rows, n_head, head_dim):
    """Transformers rotates row i of a head with row i + head_dim/2; GGUF's llama has the two as neighbours."""
    order = np.arange(n_head * head_dim).reshape(n_head, 2, head_dim // 2).transpose(0, 2, 1).ravel()
    return np.ascontiguousarray(rows[order])


if __name__ == "__main__":
    main()
