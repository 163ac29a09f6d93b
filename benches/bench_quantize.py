#!/usr/bin/env python3
"""Runs curtail quantize and llama.cpp's llama-quantize by turns for every type and prints the ratio of their times, their peak
memory, and whether the two files are equal.

The model is seeded random numbers in F16 with a llama's tensors, 35 million weights, or the one named with --model. llama-quantize is
built as benches/bench_llama_cpp.py builds it.
"""

import argparse
import filecmp
import os
import random
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench_llama_cpp import build_llama_cpp, log, pinned_crate

TYPES = """F32 F16 BF16 Q1_0 Q2_0 Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 Q2_K Q2_K_S Q3_K_S Q3_K_M Q3_K_L Q4_K_S Q4_K_M Q5_K_S Q5_K_M Q6_K
IQ1_S IQ1_M IQ2_XXS IQ2_XS IQ2_S IQ2_M IQ3_XXS IQ3_XS IQ3_S IQ3_M IQ4_NL IQ4_XS TQ1_0 TQ2_0 MXFP4_MOE COPY""".split()

# Numbers made at once: what this program takes itself would count as its children's.
CHUNK = 1 << 18

N_EMBD, N_FF, N_LAYER, N_VOCAB = 1024, 2816, 2, 4096


def main():
    args = parse_args()
    program = args.llama_quantize or build(args.cache)
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        folder = Path(folder)
        model, imatrix = args.model, args.imatrix
        if not model:
            model, imatrix = folder / "model.gguf", folder / "imatrix.gguf"
            make_model(model, imatrix)
        flags = ["--allow-requantize"] + (["--imatrix", imatrix] if imatrix else [])
        programs = {"llama.cpp": [program], "curtail": [args.curtail, "quantize"]}
        print(f"{args.threads} threads, {args.rounds} rounds by turns, medians; ratio: llama.cpp's time over curtail's\n")
        print("| type | llama.cpp s | curtail s | ratio | llama.cpp MB | curtail MB | files |\n|---|--:|--:|--:|--:|--:|---|")
        for target in args.types:
            compare(programs, flags, model, folder, target, args)


def parse_args():
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "curtail"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="the GGUF file both programs read (default: a random one)")
    parser.add_argument("--imatrix", type=Path, help="its importance matrix")
    parser.add_argument("--types", nargs="+", default=TYPES)
    parser.add_argument("--curtail", type=Path, default=Path("target/release/curtail"))
    parser.add_argument("--llama-quantize", type=Path, help="a llama-quantize that is there already")
    parser.add_argument("--cache", type=Path, default=cache, help=f"where llama.cpp is built (default: {cache})")
    parser.add_argument("--folder", type=Path, help="where the files are written (default: the system's temporary folder)")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each program (default: 3)")
    parser.add_argument("-t", "--threads", type=int, default=os.cpu_count())
    return parser.parse_args()


def build(cache):
    crate = pinned_crate()
    source = Path(crate["manifest_path"]).parent / "llama.cpp"
    return build_llama_cpp(source, cache / f"llama.cpp-{crate['version']}")[1]


def compare(programs, flags, model, folder, target, args):
    seconds = {name: [] for name in programs}
    peak = {name: 0 for name in programs}
    for turn in range(args.rounds):
        # Whoever comes first may meet colder files: they change places.
        for name in sorted(programs, reverse=turn % 2 == 1):
            log(f"{target}: round {turn + 1} of {args.rounds}: {name}")
            out = folder / f"{name}.gguf"
            took, rss = run([*programs[name], *flags, model, out, target, args.threads])
            seconds[name].append(took)
            peak[name] = max(peak[name], rss)
    files = [folder / f"{name}.gguf" for name in programs]
    same = "equal" if filecmp.cmp(*files, shallow=False) else "DIFFERENT"
    for file in files:
        file.unlink()
    a, b = (statistics.median(seconds[name]) for name in ["llama.cpp", "curtail"])
    print(f"| {target} | {a:.2f} | {b:.2f} | {a / b:.3f} | {peak['llama.cpp']:.0f} | {peak['curtail']:.0f} | {same} |", flush=True)


def run(command):
    """Seconds, and peak resident memory in MB."""
    command = [str(c) for c in command]
    begin = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    took = time.monotonic() - begin
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        sys.exit(f"error: `{' '.join(command)}` ended with {process.returncode}")
    return took, usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6


def make_model(model, imatrix):
    pairs = [
        ("general.architecture", "llama"),
        ("llama.block_count", N_LAYER),
        ("llama.context_length", 64),
        ("llama.embedding_length", N_EMBD),
        ("llama.feed_forward_length", N_FF),
        ("llama.attention.head_count", 8),
        ("llama.attention.head_count_kv", 8),
        ("llama.attention.layer_norm_rms_epsilon", 1e-5),
    ]
    tensors = [("token_embd.weight", [N_EMBD, N_VOCAB]), ("output.weight", [N_EMBD, N_VOCAB])]
    entries = []
    for il in range(N_LAYER):
        shapes = {part: [N_EMBD, N_EMBD] for part in ["attn_q", "attn_k", "attn_v", "attn_output"]}
        shapes |= {"ffn_gate": [N_EMBD, N_FF], "ffn_up": [N_EMBD, N_FF], "ffn_down": [N_FF, N_EMBD]}
        for part, shape in shapes.items():
            name = f"blk.{il}.{part}.weight"
            tensors.append((name, shape))
            entries += [(f"{name}.in_sum2", [shape[0], 1]), (f"{name}.counts", [1, 1])]
    rng = random.Random(1)
    write_gguf(model, pairs, tensors, 1, lambda n: (halves(rng, min(CHUNK, n - at)) for at in range(0, n, CHUNK)))
    origin = [("imatrix.datasets", ["numbers"]), ("imatrix.chunk_count", 1), ("imatrix.chunk_size", 512)]
    write_gguf(imatrix, origin, entries, 0, lambda n: (struct.pack("<f", 0.5 + rng.random()) for _ in range(n)))


def halves(rng, n):
    """Random half floats between 2^-9 and 2^-4, of either sign."""
    high = bytes((b & 0x80) | 0x18 | (b & 0x0F) for b in range(256))
    out = bytearray(2 * n)
    out[0::2] = rng.randbytes(n)
    out[1::2] = rng.randbytes(n).translate(high)
    return out


def write_gguf(path, pairs, tensors, dtype, data):
    def text(s):
        return struct.pack("<Q", len(s)) + s.encode()

    def value(v):
        if isinstance(v, str):
            return struct.pack("<I", 8) + text(v)
        if isinstance(v, list):
            return struct.pack("<IIQ", 9, 8, len(v)) + b"".join(map(text, v))
        return struct.pack("<If", 6, v) if isinstance(v, float) else struct.pack("<II", 4, v)

    element = {0: 4, 1: 2}[dtype]
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(pairs))
    head += b"".join(text(k) + value(v) for k, v in pairs)
    offset = 0
    for name, (row, n_rows) in tensors:
        head += text(name) + struct.pack("<IQQIQ", 2, row, n_rows, dtype, offset)
        offset += -(-row * n_rows * element // 32) * 32
    with open(path, "wb") as out:
        out.write(head + bytes(-len(head) % 32))
        for _, (row, n_rows) in tensors:
            out.writelines(data(row * n_rows))
            out.write(bytes(-row * n_rows * element % 32))


if __name__ == "__main__":
    main()
