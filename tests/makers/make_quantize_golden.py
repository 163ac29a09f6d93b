#!/usr/bin/env python3
"""Makes tests/data/quantize: tiny seeded models and importance matrices, and what llama.cpp's llama-quantize makes of them.

Needs the Python packages gguf and numpy, and a llama-quantize of the pinned release (benches/bench_llama_cpp.py builds one in its
cache folder). Usage: make_quantize_golden.py LLAMA_QUANTIZE [--demo MODEL]; with --demo also the hashes for the demo model.
"""

import argparse
import hashlib
import json
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

import gguf
import numpy as np

from shared import DATA, write_out

FOLDER = DATA / "quantize"

TYPES = """F32 F16 BF16 Q1_0 Q2_0 Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 Q2_K Q2_K_S Q3_K_S Q3_K_M Q3_K_L Q4_K_S Q4_K_M Q5_K_S Q5_K_M Q6_K
IQ1_S IQ1_M IQ2_XXS IQ2_XS IQ2_S IQ2_M IQ3_XXS IQ3_XS IQ3_S IQ3_M IQ4_NL IQ4_XS TQ1_0 TQ2_0 MXFP4_MOE COPY""".split()

MIXES = "Q2_K Q3_K_S Q3_K_M Q3_K_L Q4_0 Q4_K_S Q4_K_M Q5_K_M IQ3_S IQ3_M IQ4_XS Q8_0".split()

DEMO_TYPES = ["Q4_0", "Q8_0", "Q2_K", "Q4_K_M", "IQ4_XS"]

ONE_HEAD_EACH = ["--override-kv", "llama.attention.head_count_kv=int:8"]
IMATRIX = ["--imatrix", "imatrix.gguf"]

# Of mix.gguf.
WISHES = [
    ["--pure", "Q4_K_M"],
    ["--pure", *IMATRIX, "IQ3_XXS"],
    ["--leave-output-tensor", "Q4_K_M"],
    ["--output-tensor-type", "q8_0", "Q3_K_L"],
    ["--output-tensor-type", "f16", "--token-embedding-type", "q5_K", "Q2_K"],
    ["--token-embedding-type", "bf16", "F16"],
    ["--tensor-type", r"blk\.[0-3]\.attn_k=q8_0", "--tensor-type", "ffn_down=q2_k", "Q4_K_S"],
    ["--tensor-type", "ffn_up=nvfp4", "--tensor-type", "ffn_gate=mxfp4", "--tensor-type", "attn_q=f16", "Q6_K"],
    [*IMATRIX, "--include-weights", "attn_v", "--include-weights", "ffn", "Q4_K_M"],
    [*IMATRIX, "--exclude-weights", "ffn_down", "Q4_0"],
    ["--imatrix", "imatrix.dat", "IQ2_XS"],
    [*IMATRIX, "--prune-layers", "3,0,9", "Q4_K_M"],
    ["--override-kv", "general.name=str:other", "--override-kv", "a.b=bool:true", "--override-kv", "a.c=float:0.5", "Q8_0"],
]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", type=Path)
    parser.add_argument("--demo", type=Path)
    args = parser.parse_args()
    program = args.program.resolve()
    FOLDER.mkdir(parents=True, exist_ok=True)
    make_mix(np.random.default_rng(1), FOLDER / "mix.gguf")
    make_experts(np.random.default_rng(4), FOLDER / "experts.gguf")
    make_odd(np.random.default_rng(2), FOLDER / "odd.gguf")
    make_parts(np.random.default_rng(5), FOLDER / "falcon.gguf", "falcon", 16, ["attn_qkv", "attn_output", "ffn_up", "ffn_down"])
    make_parts(np.random.default_rng(6), FOLDER / "seventy.gguf", "llama", 80, ["attn_v"])
    for name in ["mix", "odd", "experts"]:
        make_imatrix(np.random.default_rng(3), FOLDER / f"{name}.gguf", FOLDER / f"{name}.imatrix.gguf")
    make_legacy(FOLDER / "mix.imatrix.gguf", FOLDER / "mix.imatrix.dat")
    cases = [run(program, model, arguments) for model, arguments in all_cases()]
    (FOLDER / "expected.json").write_text("[\n" + ",\n".join(map(json.dumps, cases)) + "\n]\n")
    print(f"{len(cases)} cases, {sum(c['file'] is None for c in cases)} refused")
    if args.demo:
        demo = [run_demo(program, args.demo.resolve(), t) for t in DEMO_TYPES]
        (FOLDER / "demo.json").write_text("[\n" + ",\n".join(map(json.dumps, demo)) + "\n]\n")


def all_cases():
    for t in TYPES:
        yield "mix", [t]
        yield "mix", [*IMATRIX, t]
        yield "mix", [*ONE_HEAD_EACH, t]
        yield "mix", [*ONE_HEAD_EACH, *IMATRIX, t]
        yield "experts", [*IMATRIX, t]
        yield "odd", [*IMATRIX, t]
    for t in MIXES:
        yield "falcon", [t]
        yield "seventy", [t]
    for t in ["IQ3_XXS", "Q4_K_M", "IQ4_XS", "Q8_0"]:
        yield "odd", [t]
    for wishes in WISHES:
        yield "mix", wishes


def run(program, model, arguments):
    """In a folder where the files have the names that the metadata will hold."""
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        for name in ["imatrix.gguf", "imatrix.dat"]:
            source = FOLDER / f"{model}.{name}"
            if source.is_file():
                (folder / name).write_bytes(source.read_bytes())
        *flags, target = arguments
        command = [program, *flags, FOLDER / f"{model}.gguf", "out.gguf", target]
        result = subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        out = folder / "out.gguf"
        digest = hashlib.sha256(out.read_bytes()).hexdigest() if result.returncode == 0 else None
        if digest is None:
            print(f"refused: {model} {' '.join(arguments)}", file=sys.stderr)
        return {"model": model, "arguments": arguments, "file": digest}


def run_demo(program, model, target):
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out.gguf"
        command = [program, "--allow-requantize", model, out, target]
        subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        return {"type": target, "file": hashlib.sha256(out.read_bytes()).hexdigest()}


def writer(path, n_embd, n_layer, architecture="llama"):
    w = gguf.GGUFWriter(path, architecture)
    w.add_name("tiny")
    w.add_context_length(64)
    w.add_embedding_length(n_embd)
    w.add_block_count(n_layer)
    w.add_feed_forward_length(n_embd)
    w.add_head_count(8)
    w.add_head_count_kv(2)
    w.add_layer_norm_rms_eps(1e-5)
    w.add_layer_norm_eps(1e-5)
    w.add_file_type(1)
    w.add_array("tokenizer.ggml.tokens", ["<unk>", "a", "b"])
    return w


def numbers(rng, shape):
    """Mostly small, a few large, some rows' ends zero: what the searches for scales meet in real models."""
    x = rng.standard_normal(shape) * 0.05
    x *= np.where(rng.random(shape) < 0.01, 8.0, 1.0)
    x.reshape(-1, shape[-1])[0, -32:] = 0.0
    return x.astype(np.float32)


def add(w, rng, name, shape, dtype):
    x = numbers(rng, shape)
    if dtype == "bf16":
        bits = (x.view(np.uint32) + 0x8000) >> 16
        w.add_tensor(name, bits.astype(np.uint16).view(np.uint8), raw_dtype=gguf.GGMLQuantizationType.BF16)
    else:
        w.add_tensor(name, x.astype({"f16": np.float16, "f32": np.float32}[dtype]))


def make_mix(rng, path):
    """Sixteen layers with rows of 256, so that every mix and every type shows."""
    w = writer(path, 256, 16)
    add(w, rng, "token_embd.weight", (5, 256), "f16")
    add(w, rng, "output.weight", (5, 256), "f32")
    add(w, rng, "output_norm.weight", (256,), "f32")
    add(w, rng, "position_embd.weight", (3, 256), "f16")
    for il in range(16):
        dtype = ["f16", "f32", "bf16"][il % 3] if il < 3 else "f16"
        for part in ["attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"]:
            add(w, rng, f"blk.{il}.{part}.weight", (2, 256), dtype)
        add(w, rng, f"blk.{il}.attn_norm.weight", (256,), "f32")
    add(w, rng, "blk.3.attn_q.bias", (256,), "f32")
    add(w, rng, "blk.3.attn_qkv.weight", (2, 256), "f16")
    add(w, rng, "blk.4.ffn_gate_inp.weight", (3, 256), "f32")
    add(w, rng, "blk.4.ffn_down_exps.weight", (3, 2, 256), "f16")
    add(w, rng, "blk.4.ffn_up_exps.weight", (3, 2, 256), "f32")
    write_out(w)


def make_experts(rng, path):
    """Eight layers with eight experts, some tensors out of order, as in the models that the rules were made for."""
    w = writer(path, 256, 8)
    w.add_expert_count(8)
    w.add_expert_used_count(2)
    add(w, rng, "token_embd.weight", (3, 256), "f16")
    for il in [5, 0, 7, 1, 2, 3, 4, 6]:
        for part in ["attn_q", "attn_k", "attn_v", "attn_output"]:
            add(w, rng, f"blk.{il}.{part}.weight", (1 + (part == "attn_v"), 256), "f16")
        add(w, rng, f"blk.{il}.ffn_gate_inp.weight", (8, 256), "f32")
        for part in ["ffn_gate_exps", "ffn_up_exps", "ffn_down_exps"]:
            add(w, rng, f"blk.{il}.{part}.weight", (2, 1 + il % 2, 256), "f16")
    write_out(w)


def make_parts(rng, path, architecture, n_layer, parts):
    """Two rows of each of a few parts: for rules that depend on the architecture or the number of layers."""
    w = writer(path, 256, n_layer, architecture)
    add(w, rng, "token_embd.weight", (3, 256), "f16")
    add(w, rng, "output.weight", (3, 256), "f16")
    for il in range(n_layer):
        for part in parts:
            # A single row would be a vector to ggml, and kept.
            add(w, rng, f"blk.{il}.{part}.weight", (2, 256), "f16")
    write_out(w)


def make_odd(rng, path):
    """Rows that are no multiples of 256, or of 32, and long enough for several pieces; the head is the embedding."""
    w = writer(path, 96, 2)
    add(w, rng, "token_embd.weight", (400, 96), "f32")
    for il, row in enumerate([160, 288]):
        for part in ["attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up"]:
            add(w, rng, f"blk.{il}.{part}.weight", (4, row), "f16")
        add(w, rng, f"blk.{il}.ffn_down.weight", (3, [384, 320][il]), "f32")
    add(w, rng, "blk.1.ffn_down_shexp.weight", (3, 100), "f32")
    add(w, rng, "blk.1.one_row.weight", (1, 160), "f16")
    write_out(w)


def make_imatrix(rng, model, path):
    w = gguf.GGUFWriter(path, "imatrix")
    w.add_type("imatrix")
    w.add_array("imatrix.datasets", ["some text.txt", "more.txt"])
    w.add_uint32("imatrix.chunk_count", 12)
    w.add_uint32("imatrix.chunk_size", 512)
    for tensor in gguf.GGUFReader(model).tensors:
        if not tensor.name.startswith("blk.") or len(tensor.shape) < 2 or "_inp" in tensor.name:
            continue
        n_expert = int(tensor.shape[2]) if len(tensor.shape) > 2 else 1
        sums = rng.gamma(0.5, 10.0, (n_expert, int(tensor.shape[0]))).astype(np.float32)
        counts = np.full((n_expert, 1), 6144, dtype=np.float32)
        counts[1:2] = 0
        w.add_tensor(f"{tensor.name}.in_sum2", sums)
        w.add_tensor(f"{tensor.name}.counts", counts)
    write_out(w)


def make_legacy(source, path):
    tensors = {t.name: t.data for t in gguf.GGUFReader(source).tensors}
    names = [name.removesuffix(".in_sum2") for name in tensors if name.endswith(".in_sum2")]
    out = struct.pack("<i", len(names))
    for name in names:
        values = tensors[f"{name}.in_sum2"].reshape(-1)
        out += struct.pack("<i", len(name)) + name.encode() + struct.pack("<ii", 12, len(values)) + values.tobytes()
    path.write_bytes(out + struct.pack("<ii", 12, 8) + b"text.txt")


if __name__ == "__main__":
    main()
