#!/usr/bin/env python3
"""Makes tests/data/opt_golden: tiny seeded OPT checkpoints as GGUF, with the logits Hugging Face transformers gives for them.

Needs the Python packages torch, transformers and gguf. Usage: make_opt_golden.py [FOLDER]
"""

import sys

import gguf
import numpy as np
import torch
from transformers import OPTConfig, OPTForCausalLM

from golden_models import finish, make_all

N_VOCAB = 104
N_CONTEXT = 56
N_TOKENS = 48

SHAPE = {"hidden_size": 32, "word_embed_proj_dim": 32, "ffn_dim": 48, "num_attention_heads": 2}
VARIANTS = {
    "pre-norm": {"num_hidden_layers": 3},
    # As opt-350m.
    "post-norm": {"num_hidden_layers": 2, "word_embed_proj_dim": 16, "do_layer_norm_before": False},
    # As Galactica: GELU and no biases; norms that do not scale.
    "galactica": {
        "num_hidden_layers": 2,
        "enable_bias": False,
        "activation_function": "gelu",
        "layer_norm_elementwise_affine": False,
    },
}

MODULES = {
    "self_attn_layer_norm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.out_proj": "attn_output",
    "final_layer_norm": "ffn_norm",
    "fc1": "ffn_up",
    "fc2": "ffn_down",
}


def main():
    make_all("opt_golden", VARIANTS, N_VOCAB, N_TOKENS, make_model, check_activation_matters, write_gguf)


def make_model(options):
    config = OPTConfig(
        vocab_size=N_VOCAB,
        max_position_embeddings=N_CONTEXT,
        attn_implementation="eager",
        **{**SHAPE, **options},
    )
    return OPTForCausalLM(config).eval()


def check_activation_matters(name, model, tokens, logits):
    """GELU has an approximation by tanh: a test that cannot tell them apart would show nothing."""
    if model.config.activation_function != "gelu":
        return
    other = OPTForCausalLM(OPTConfig.from_dict({**model.config.to_dict(), "activation_function": "gelu_new"}))
    other.load_state_dict(model.state_dict())
    with torch.no_grad():
        difference = (other.eval()(tokens).logits[0] - logits).abs().max().item()
    print(f"{name}: the approximation by tanh moves the logits by up to {difference:.1e}")
    if difference < 3e-4:
        sys.exit(f"error: {name}: expected at least 3e-4")


def write_gguf(path, name, model):
    config = model.config
    writer = gguf.GGUFWriter(path, "opt")
    writer.add_name(name)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_uint32("opt.word_embed_proj_dim", config.word_embed_proj_dim)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.ffn_dim)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_attention_heads)
    writer.add_layer_norm_eps(1e-5)
    writer.add_string("opt.activation", config.activation_function)
    writer.add_bool("opt.do_layer_norm_before", config.do_layer_norm_before)
    writer.add_vocab_size(config.vocab_size)
    add_vocabulary(writer)
    finish(writer, tensors(model))


def add_vocabulary(writer):
    """Letters, a few pairs of them, and OPT's special tokens at their places."""
    specials = ["<s>", "<pad>", "</s>", "<unk>"]
    letters = ["\u0120", "\u010a"] + [chr(0x21 + i) for i in range(94)]
    merges = ["t h", "\u0120 a", "e r", "\u0120 th"]
    kinds = [gguf.TokenType.CONTROL] * 4 + [gguf.TokenType.NORMAL] * (N_VOCAB - 4)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(specials + letters + [merge.replace(" ", "") for merge in merges])
    writer.add_token_types(kinds)
    writer.add_token_merges(merges)
    writer.add_bos_token_id(2)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(1)
    writer.add_unk_token_id(3)
    writer.add_add_bos_token(True)


def tensors(model):
    """GGUF names and arrays, in the order of the forward pass."""
    state = {key.removeprefix("model.decoder."): value.numpy() for key, value in model.state_dict().items()}
    config = model.config
    yield "token_embd.weight", state["embed_tokens.weight"]
    yield "position_embd.weight", state["embed_positions.weight"][2:]  # the first two rows belong to no position
    if "project_in.weight" in state:
        yield "token_embd_proj_in.weight", state["project_in.weight"]
    for il in range(config.num_hidden_layers):
        for module, name in MODULES.items():
            yield from parts(state, f"layers.{il}.{module}", f"blk.{il}.{name}")
            if name.endswith("norm") and not config.layer_norm_elementwise_affine:
                yield f"blk.{il}.{name}.weight", np.ones(config.hidden_size, dtype=np.float32)
    yield from parts(state, "final_layer_norm", "output_norm")
    if not config.layer_norm_elementwise_affine:
        yield "output_norm.weight", np.ones(config.hidden_size, dtype=np.float32)
    if "project_out.weight" in state:
        yield "token_embd_proj_out.weight", state["project_out.weight"]


def parts(state, module, name):
    """Weight and bias, those that are there."""
    for kind in ("weight", "bias"):
        data = state.get(f"{module}.{kind}")
        if data is not None:
            yield f"{name}.{kind}", data


if __name__ == "__main__":
    main()
