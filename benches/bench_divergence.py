#!/usr/bin/env python3
"""How far rounding in the kernels moves the answers, per file type: the mean Kullback-Leibler divergence (nats) of a quantized
model from the same weights dequantized to F32, by curtail and by llama.cpp's plain kernels (--no-repack).

Each type is made with `curtail quantize` from the given model. The stored distributions are llama.cpp's of the F32 file, so both
programs are measured against the same numbers. Needs llama-perplexity (--tools: the folder with it).
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TYPES = "Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 Q2_K Q3_K_M Q4_K_S Q4_K_M Q5_K_S Q5_K_M Q6_K IQ4_NL IQ4_XS IQ3_M F16 BF16".split()


def main():
    args = parse_args()
    print("| type | curtail | llama.cpp, plain kernels | ratio |\n|---|--:|--:|--:|")
    with tempfile.TemporaryDirectory(dir=args.work) as work:
        for name in args.types:
            one_type(args, name, Path(work))


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tools", type=Path, required=True, help="folder with llama-perplexity")
    parser.add_argument("--curtail", type=Path, default=ROOT / "target/release/curtail")
    parser.add_argument("--model", type=Path, default=ROOT / "models/SmolLM2-135M-Instruct.Q4_1.gguf")
    parser.add_argument("--text", type=Path, default=ROOT / "tests/data/perplexity/passage.txt")
    parser.add_argument("--types", nargs="+", default=TYPES)
    parser.add_argument("--work", type=Path, help="where files of the size of the F32 model go (default: the system's)")
    parser.add_argument("-t", "--threads", default="2")
    return parser.parse_args()


def one_type(args, name, work):
    quantized, plain, base = work / "quantized.gguf", work / "f32.gguf", work / "base.kld"
    quantize = [args.curtail, "quantize", "--allow-requantize"]
    checked([*quantize, args.model, quantized, name])
    checked([*quantize, quantized, plain, "F32"])
    theirs = [args.tools / "llama-perplexity", "-t", args.threads, "-c", "128", "--no-repack"]
    checked([*theirs, "-m", plain, "-f", args.text, "--kl-divergence-base", base])
    output = checked([*theirs, "-m", quantized, "--kl-divergence", "--kl-divergence-base", base])
    expected = float(re.search(r"Mean\s+KLD:\s+(-?[\d.]+)", output).group(1))
    ours = [args.curtail, "perplexity", "--json", "-t", args.threads, "-m", quantized]
    output = checked([*ours, "--kl-divergence", "--kl-divergence-base", base], errors=subprocess.DEVNULL)
    found = json.loads(output)["divergence"]["kld"]["value"]
    ratio = f"{found / expected:.2f}" if expected > 1e-5 else ""
    print(f"| {name} | {found:.6f} | {expected:.6f} | {ratio} |", flush=True)
    for path in (quantized, plain, base):
        path.unlink()


def checked(command, errors=subprocess.STDOUT):
    result = subprocess.run([str(c) for c in command], stdout=subprocess.PIPE, stderr=errors, text=True)
    if result.returncode != 0:
        sys.exit(f"error: `{' '.join(map(str, command))}` ended with {result.returncode}\n{result.stdout}")
    return result.stdout


if __name__ == "__main__":
    main()
