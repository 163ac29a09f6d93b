#!/usr/bin/env python3
"""Makes tests/data/arch_golden: tiny seeded checkpoints of architectures as GGUF, with the logits Hugging Face transformers
gives for them.

Needs the Python packages torch, transformers and gguf. Usage: make_arch_golden.py [FOLDER]
"""

import sys

import gguf
import torch
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from golden_models import finish, make_all
from make_llama_golden import MODULES, add_shape, add_vocabulary

N_VOCAB = 96
N_CONTEXT = 64
N_TOKENS = 48
THETA = 10000.0
# Shorter than the prompt, so that windows decide the logits.
WINDOW = 12

SHAPE = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2, "num_hidden_layers": 2}
ROPE = {"rope_parameters": {"rope_type": "default", "rope_theta": THETA}}
GEMMA = {**SHAPE, "head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": WINDOW, "tie_word_embeddings": True}
KINDS = ["sliding_attention", "full_attention"]

VARIANTS = {
    "qwen2": (Qwen2ForCausalLM, Qwen2Config, {**SHAPE, **ROPE, "tie_word_embeddings": False}),
    "qwen3": (Qwen3ForCausalLM, Qwen3Config, {**SHAPE, **ROPE, "head_dim": 16, "tie_word_embeddings": True}),
    # Bounds low enough to bend the scores and logits of a tiny model.
    "gemma2": (
        Gemma2ForCausalLM,
        Gemma2Config,
        {**GEMMA, **ROPE, "attn_logit_softcapping": 2.0, "final_logit_softcapping": 4.0, "layer_types": KINDS},
    ),
    # Eight layers: the sixth sees everything.
    "gemma3": (
        Gemma3ForCausalLM,
        Gemma3TextConfig,
        {
            **GEMMA,
            "num_hidden_layers": 8,
            "rope_parameters": {
                "sliding_attention": {"rope_type": "default", "rope_theta": THETA},
                "full_attention": {"rope_type": "default", "rope_theta": 1e6},
            },
        },
    ),
}

NAMES = {
    "input_layernorm": "attn_norm",
    **{module: name for module, name in MODULES.items() if "layernorm" not in module},
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
}
PRE_NORMS = {"post_attention_layernorm": "ffn_norm"}
SANDWICH_NORMS = {
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}


def main():
    make_all("arch_golden", VARIANTS, N_VOCAB, N_TOKENS, make_model, check_windows_and_bounds_matter, write_gguf)


def make_model(variant):
    kind, config, options = variant
    common = {"vocab_size": N_VOCAB, "max_position_embeddings": N_CONTEXT, "attn_implementation": "eager"}
    model = kind(config(**common, **options)).eval()
    if model.config.model_type.startswith("gemma"):
        for layer in model.model.layers:
            layer.mlp.act_fn = GeluFromTable()
    return model


class GeluFromTable(torch.nn.Module):
    """ggml reads GELU from a table of f16 by f16. Over eight layers that moves logits by 0.05, which would hide real faults."""

    def forward(self, x):
        return torch.nn.functional.gelu(x.half().float(), approximate="tanh").half().float()


def check_windows_and_bounds_matter(name, model, tokens, logits):
    """What does not change the logits tests nothing."""
    _, config, options = VARIANTS[name]
    if not name.startswith("gemma"):
        return
    changes = [{"sliding_window": N_CONTEXT}]
    if name == "gemma2":
        changes += [{"attn_logit_softcapping": None}, {"final_logit_softcapping": None}]
    for change in changes:
        other = make_model((type(model), config, {**options, **change}))
        other.load_state_dict(model.state_dict())
        with torch.no_grad():
            difference = (other(tokens).logits[0] - logits).abs().max().item()
        if difference < 0.05:
            sys.exit(f"error: {name}: expected {change} to move the logits by at least 0.05, found {difference}")


def write_gguf(path, name, model):
    config = model.config
    writer = gguf.GGUFWriter(path, name)
    add_shape(writer, name, config)
    head_dim = getattr(config, "head_dim", None)
    if head_dim:
        writer.add_key_length(head_dim)
        writer.add_value_length(head_dim)
    rope = config.rope_parameters
    writer.add_rope_freq_base(rope.get("full_attention", rope)["rope_theta"])
    if name.startswith("gemma"):
        writer.add_sliding_window(config.sliding_window)
    if name == "gemma2":
        writer.add_attn_logit_softcapping(config.attn_logit_softcapping)
        writer.add_final_logit_softcapping(config.final_logit_softcapping)
    add_vocabulary(writer)
    finish(writer, tensors(name, model))


def tensors(name, model):
    """GGUF names and arrays, in the order of the forward pass."""
    is_gemma = name.startswith("gemma")
    state = {key: value.numpy() for key, value in model.state_dict().items()}
    # Gemma's norms scale by one more than their weight; GGUF's weights are what norms scale by.
    scale = {key: value + 1.0 if is_gemma and key.endswith("norm.weight") else value for key, value in state.items()}
    names = {**NAMES, **(SANDWICH_NORMS if is_gemma else PRE_NORMS)}
    yield "token_embd.weight", state["model.embed_tokens.weight"]
    for il in range(model.config.num_hidden_layers):
        for module, gguf_name in names.items():
            for kind in ("weight", "bias"):
                data = scale.get(f"model.layers.{il}.{module}.{kind}")
                if data is not None:
                    yield f"blk.{il}.{gguf_name}.{kind}", data
    yield "output_norm.weight", scale["model.norm.weight"]
    if not model.config.tie_word_embeddings:
        yield "output.weight", state["lm_head.weight"]


if __name__ == "__main__":
    main()
