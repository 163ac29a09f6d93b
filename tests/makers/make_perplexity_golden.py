#!/usr/bin/env python3
"""Makes the golden files in tests/data/perplexity: what llama.cpp's llama-perplexity and llama-imatrix give for its two texts.

Also reads curtail's own files with llama.cpp's programs and prints how far apart the two are. Needs the Python packages gguf and
numpy, a build of llama.cpp's tools (--tools: the folder with the programs), curtail, and the demo model.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import gguf
import numpy as np

from shared import DATA, ROOT

FOLDER = DATA / "perplexity"
TINY = DATA / "llama_golden"
BASE_MODEL, OTHER_MODEL = TINY / "gqa-untied.gguf", TINY / "tied.gguf"
# An f32 cache without flash attention, so that only the order of sums differs.
EXACT = ["-fa", "off", "-ctk", "f32", "-ctv", "f32"]
TINY_TEXT = ["-f", "letters.txt", "-c", "32"]

# The label in llama-perplexity's output, and the field in `perplexity --json`.
STATISTICS = {
    "Mean PPL(Q)": "ppl",
    "Mean PPL(base)": "ppl_base",
    "Cor(ln(PPL(Q)), ln(PPL(base)))": "ln_ppl_correlation",
    "Mean ln(PPL(Q)/PPL(base))": "ln_ppl_ratio",
    "Mean PPL(Q)/PPL(base)": "ppl_ratio",
    "Mean PPL(Q)-PPL(base)": "ppl_difference",
    "Mean KLD": "kld",
    "Mean Δp": "delta_p",
    "RMS Δp": "delta_p_rms",
    "Same top p": "same_top",
}


def main():
    args = parse_args()
    tools = Tools(args)
    if args.level:
        # The stored distributions are input of the test, and stay those of the first machine.
        write_golden(statistics(tools, args.model), f"golden.{args.level}.json")
        return
    tools.store(BASE_MODEL, FOLDER / "base.kld")
    golden = statistics(tools, args.model)
    tools.llama("llama-imatrix", "-m", BASE_MODEL, *TINY_TEXT, *EXACT, "-o", FOLDER / "imatrix.gguf")
    write_golden(golden, "golden.json")
    with tempfile.TemporaryDirectory() as work:
        compare_bases(tools, Path(work), golden)
        compare_matrices(tools, Path(work), args.model)


def statistics(tools, model):
    return {"demo": demo(tools, model), "other": divergence(tools, OTHER_MODEL), "same": divergence(tools, BASE_MODEL)}


def write_golden(golden, name):
    (FOLDER / name).write_text(json.dumps(golden, indent=1) + "\n")
    print(f"demo model: llama.cpp {golden['demo']}")


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tools", type=Path, required=True, help="folder with llama-perplexity and llama-imatrix")
    parser.add_argument("--curtail", type=Path, default=ROOT / "target/release/curtail")
    parser.add_argument("--model", type=Path, default=ROOT / "models/SmolLM2-135M-Instruct.Q4_1.gguf")
    parser.add_argument("--level", choices=["avx2"], help="write the statistics of a lower level of instructions, and no other file")
    parser.add_argument("-t", "--threads", type=int, default=os.cpu_count())
    return parser.parse_args()


class Tools:
    def __init__(self, args):
        self.args = args

    def llama(self, program, *arguments):
        return checked([self.args.tools.resolve() / program, *arguments, "-t", self.args.threads])

    def curtail(self, *arguments):
        return checked([self.args.curtail.resolve(), *arguments, "-t", self.args.threads])

    def store(self, model, path):
        self.llama("llama-perplexity", "-m", model, *TINY_TEXT, *EXACT, "--kl-divergence-base", path)


def checked(command):
    """Standard output and errors of a program that runs where the texts lie, so that no path gets into the files."""
    result = subprocess.run([str(c) for c in command], cwd=FOLDER, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if result.returncode != 0:
        sys.exit(f"error: `{' '.join(map(str, command))}` ended with {result.returncode}\n{result.stdout}")
    return result.stdout


def demo(tools, model):
    """Perplexity of the demo model, with both forms of attention."""
    found = {}
    for name, flags in {"ppl": ["-fa", "off"], "ppl_flash_attn": ["-fa", "on"]}.items():
        output = tools.llama("llama-perplexity", "-m", model.resolve(), "-f", "passage.txt", "-c", "128", *flags)
        value, error = re.search(r"Final estimate: PPL = ([\d.]+) \+/- ([\d.]+)", output).groups()
        found[name] = {"value": float(value), "error": float(error)}
    return found


def divergence(tools, model, base=FOLDER / "base.kld"):
    output = tools.llama("llama-perplexity", "-m", model, "-c", "32", *EXACT, "--kl-divergence", "--kl-divergence-base", base)
    found = {"kld_quantiles": [], "delta_p_quantiles": []}
    for label, value, unit, error in re.findall(r"^(.*?)\s*:\s+(-?[\d.]+)(%?)(?: ±\s+([\d.]+|-?nan))?", output, re.M):
        label, percent = re.sub(r"\s+", " ", label.strip()), unit == "%" or "Δp" in label or "Same" in label
        # Between nearly equal models llama.cpp takes the root of what cancellation made negative: nan, null here.
        value, error = (None if "nan" in x else round(float(x or 0) / (100 if percent else 1), 8) for x in (value, error))
        if label in STATISTICS:
            bare = STATISTICS[label] == "ln_ppl_correlation"
            found[STATISTICS[label]] = value if bare else {"value": value, "error": error}
        elif label.endswith(("KLD", "Δp")):
            found["kld_quantiles" if label.endswith("KLD") else "delta_p_quantiles"].append(value)
    missing = set(STATISTICS.values()) - set(found)
    if missing or (len(found["kld_quantiles"]), len(found["delta_p_quantiles"])) != (11, 13):
        sys.exit(f"error: llama-perplexity: expected all statistics, {missing} are missing in\n{output}")
    return found


def compare_bases(tools, work, golden):
    own = work / "own.kld"
    tools.curtail("perplexity", "-m", BASE_MODEL, *TINY_TEXT, *EXACT, "--kl-divergence-base", own)
    theirs, ours = (np.frombuffer(path.read_bytes(), dtype="<u2") for path in (FOLDER / "base.kld", own))
    same = (theirs == ours).mean() if len(theirs) == len(ours) else 0
    print(f"stored distributions: {len(theirs) * 2} and {len(ours) * 2} bytes, {same:.4%} of the 16-bit numbers equal")
    read = divergence(tools, OTHER_MODEL, own)
    print(f"mean KLD by llama.cpp: {read['kld']} from curtail's file, {golden['other']['kld']} from its own")


def compare_matrices(tools, work, model):
    for name, model, text in [
        ("tiny", BASE_MODEL, [*TINY_TEXT, *EXACT]),
        ("demo", model.resolve(), ["-f", "passage.txt", "-c", "128", "-fa", "off"]),
    ]:
        theirs, ours, merged = (work / f"{name}.{who}.gguf" for who in ("theirs", "ours", "merged"))
        tools.llama("llama-imatrix", "-m", model, *text, "-o", theirs)
        tools.curtail("imatrix", "-m", model, *text, "-o", ours)
        a, b = sums(theirs), sums(ours)
        if set(a) - set(b) or {key for key in set(b) - set(a) if not key.endswith(".in_sum")}:
            sys.exit(f"error: {name}: expected the tensors {sorted(a)}, found {sorted(b)}")
        largest = max((np.abs(a[key] - b[key]) / np.abs(a[key]).max()).max() for key in a)
        each = max((np.abs(a[key] - b[key]) / np.abs(a[key])).max() for key in a if key.endswith("in_sum2"))
        print(f"imatrix, {name} model: {len(a)} tensors, largest difference {largest:.2e} of a tensor's largest value, {each:.2e} of the value")
        tools.llama("llama-imatrix", "--in-file", ours, "--in-file", theirs, "-c", "32", "-m", model, "-o", merged)
        c = sums(merged)
        twice = max((np.abs(a[key] + b[key] - c[key]) / np.abs(c[key]).max()).max() for key in a)
        print(f"imatrix, {name} model: llama.cpp's sum of both files is both within {twice:.2e}")


def sums(path):
    return {tensor.name: tensor.data.astype(np.float64).ravel() for tensor in gguf.GGUFReader(path).tensors}


if __name__ == "__main__":
    main()
