#!/usr/bin/env python3
"""Writes a Llama2-7B-shaped checkpoint of random f16 numbers, 13 GB in sharded safetensors, with a real vocabulary.

    make_random_checkpoint.py FOLDER [--layers 32] [--dtype f16|bf16] [--tokenizer tests/data/convert/llama-spm]

Needs numpy. With fewer layers it is smaller by 0.4 GB each; what remains is 0.5 GB.
"""

import argparse
import json
import shutil
from pathlib import Path

import numpy as np

N_EMBD, N_FF, N_HEAD, N_VOCAB = 4096, 11008, 32, 32000
SHARD_BYTES = 5_000_000_000


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--dtype", choices=["f16", "bf16"], default="f16")
    data = Path(__file__).resolve().parent.parent / "tests/data"
    parser.add_argument("--tokenizer", type=Path, default=data / "convert/llama-spm")
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    for name in ("tokenizer.model", "tokenizer_config.json", "special_tokens_map.json"):
        shutil.copy(args.tokenizer / name, args.folder)
    write_config(args)
    write_shards(args)


def write_config(args):
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "hidden_size": N_EMBD,
        "intermediate_size": N_FF, "num_attention_heads": N_HEAD, "num_key_value_heads": N_HEAD,
        "num_hidden_layers": args.layers, "vocab_size": N_VOCAB, "max_position_embeddings": 4096, "rms_norm_eps": 1e-5,
        "bos_token_id": 1, "eos_token_id": 2, "tie_word_embeddings": False,
    }
    (args.folder / "config.json").write_text(json.dumps(config))


def shapes(n_layer):
    yield "model.embed_tokens.weight", [N_VOCAB, N_EMBD]
    for il in range(n_layer):
        for module in ("q_proj", "k_proj", "v_proj", "o_proj"):
            yield f"model.layers.{il}.self_attn.{module}.weight", [N_EMBD, N_EMBD]
        yield f"model.layers.{il}.mlp.gate_proj.weight", [N_FF, N_EMBD]
        yield f"model.layers.{il}.mlp.up_proj.weight", [N_FF, N_EMBD]
        yield f"model.layers.{il}.mlp.down_proj.weight", [N_EMBD, N_FF]
        yield f"model.layers.{il}.input_layernorm.weight", [N_EMBD]
        yield f"model.layers.{il}.post_attention_layernorm.weight", [N_EMBD]
    yield "model.norm.weight", [N_EMBD]
    yield "lm_head.weight", [N_VOCAB, N_EMBD]


def write_shards(args):
    shards, size = [[]], 0
    for name, shape in shapes(args.layers):
        n = 2 * int(np.prod(shape))
        if size + n > SHARD_BYTES:
            shards.append([])
            size = 0
        shards[-1].append((name, shape, n))
        size += n
    # Numbers between -1/32 and 1/32, a block of them again and again: the speed of a copy does not depend on them.
    block = np.random.default_rng(1).uniform(-1 / 32, 1 / 32, 1 << 20).astype(np.float32)
    halves = (block.view(np.uint32) >> 16).astype("<u2") if args.dtype == "bf16" else block.astype("<f2")
    weight_map = {}
    for i, shard in enumerate(shards, start=1):
        file = f"model-{i:05}-of-{len(shards):05}.safetensors"
        write_shard(args.folder / file, shard, args.dtype.upper(), halves.tobytes())
        weight_map.update((name, file) for name, _, _ in shard)
        print(file, flush=True)
    (args.folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def write_shard(path, shard, dtype, block):
    header, offset = {}, 0
    for name, shape, n in shard:
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [offset, offset + n]}
        offset += n
    header = json.dumps(header).encode()
    with open(path, "wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        while offset > 0:
            file.write(block[:offset])
            offset -= min(offset, len(block))


if __name__ == "__main__":
    main()
