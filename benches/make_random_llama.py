#!/usr/bin/env python3
"""Writes a GGUF file in the shape of Llama2-7B with random weights (q4_0, output head q8_0), to measure what the engine makes of
saved layers on a model of that size. Its text means nothing.

Usage: make_random_llama.py OUT.gguf [--layers 32]. Needs the packages gguf and numpy, and 4 GB of room.
"""

import argparse

import gguf
import numpy as np

N_EMBD, N_FF, N_HEAD, N_VOCAB = 4096, 11008, 32, 32000
RNG = np.random.default_rng(1)


def blocks(n_out, n_in, quant_bytes, scale):
    """Rows of blocks of 32: a scale and random quants."""
    data = RNG.integers(0, 256, (n_out, n_in // 32, 2 + quant_bytes), dtype=np.uint8)
    data[:, :, :2] = np.frombuffer(np.float16(scale).tobytes(), dtype=np.uint8)
    return data.reshape(n_out, -1)


def q4_0(n_out, n_in):
    return blocks(n_out, n_in, 16, 0.2 / np.sqrt(n_in)), gguf.GGMLQuantizationType.Q4_0


def q8_0(n_out, n_in):
    return blocks(n_out, n_in, 32, 0.02 / np.sqrt(n_in)), gguf.GGMLQuantizationType.Q8_0


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out")
    parser.add_argument("--layers", type=int, default=32)
    args = parser.parse_args()
    w = gguf.GGUFWriter(args.out, "llama")
    w.add_name("random, Llama2-7B-shaped")
    w.add_context_length(4096)
    w.add_embedding_length(N_EMBD)
    w.add_block_count(args.layers)
    w.add_feed_forward_length(N_FF)
    w.add_head_count(N_HEAD)
    w.add_head_count_kv(N_HEAD)
    w.add_layer_norm_rms_eps(1e-5)
    w.add_vocab_size(N_VOCAB)
    w.add_tokenizer_model("llama")
    tokens = [b"<unk>", b"<s>", b"</s>"] + [f"<0x{i:02X}>".encode() for i in range(256)]
    tokens += [f"w{i}".encode() for i in range(N_VOCAB - len(tokens))]
    w.add_token_list(tokens)
    w.add_token_scores([0.0] * N_VOCAB)
    w.add_token_types([2, 3, 3] + [6] * 256 + [1] * (N_VOCAB - 259))
    w.add_bos_token_id(1)
    w.add_eos_token_id(2)
    w.add_unk_token_id(0)
    ones = np.ones(N_EMBD, dtype=np.float32)
    square, wide, narrow = q4_0(N_EMBD, N_EMBD), q4_0(N_FF, N_EMBD), q4_0(N_EMBD, N_FF)
    matrix = lambda name, data: w.add_tensor(f"{name}.weight", data[0], raw_dtype=data[1])
    matrix("token_embd", q4_0(N_VOCAB, N_EMBD))
    for il in range(args.layers):
        for name in ("attn_norm", "ffn_norm"):
            w.add_tensor(f"blk.{il}.{name}.weight", ones)
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            matrix(f"blk.{il}.{name}", square)
        matrix(f"blk.{il}.ffn_gate", wide)
        matrix(f"blk.{il}.ffn_up", wide)
        matrix(f"blk.{il}.ffn_down", narrow)
    w.add_tensor("output_norm.weight", ones)
    matrix("output", q8_0(N_VOCAB, N_EMBD))
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file(progress=True)
    w.close()


main()
