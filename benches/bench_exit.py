#!/usr/bin/env python3
"""Measures early-exit modes beside full depth on varied prompts, by turns, and whether their text is full depth's.

Usage: bench_exit.py --exit-file FILE [--curtail target/release/curtail] [--model FILE] [--prompts 20] [--rounds 3] [-n 96]
                     [--modes auto fast ...] [--llama-bench FILE]
The prompts are every so many-th of tests/data/smollm2_greedy.jsonl; the exit file is made by `curtail train-exit --task self`;
llama-bench is what benches/bench_llama_cpp.py builds (it times as many tokens of its own, without a prompt).
Prints, per mode: text equal, median and lowest over the prompts of the median over rounds of (speed / full depth's speed in
the same round).
"""

import argparse
import json
import re
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--exit-file", type=Path, required=True)
    parser.add_argument("--curtail", type=Path, default=ROOT / "target/release/curtail")
    parser.add_argument("--model", type=Path, default=ROOT / "models/SmolLM2-135M-Instruct.Q4_1.gguf")
    parser.add_argument("--prompts", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("-n", type=int, default=96)
    parser.add_argument("--modes", nargs="*", help="only these beside full depth")
    parser.add_argument("--llama-bench", type=Path)
    args = parser.parse_args()
    with_file = ["--exit-file", args.exit_file]
    modes = {
        "full depth, whole head": ["--exit", "off", "--shortlist", "off"],
        "full depth": ["--exit", "off"],
        "full depth again": ["--exit", "off"],
        "auto": ["--exit", "auto", *with_file],
        "always checkpoints, verified": ["--draft", "checkpoints", *with_file],
        "always lookup, verified": ["--draft", "lookup"],
        "fast": ["--exit", "fast", *with_file],
    }
    if args.modes is not None:
        modes = {mode: flags for mode, flags in modes.items() if mode in ["full depth", *args.modes]}
    lines = (ROOT / "tests/data/smollm2_greedy.jsonl").read_text().splitlines()
    lines = lines[:: max(1, len(lines) // args.prompts)][: args.prompts]
    speeds = {mode: [[] for _ in lines] for mode in [*modes, *(["llama.cpp"] if args.llama_bench else [])]}
    same = dict.fromkeys(modes, 0)
    with tempfile.TemporaryDirectory() as folder:
        batch = Path(folder) / "prompt.jsonl"
        for i, line in enumerate(lines):
            batch.write_text(json.dumps({"prompt": json.loads(line)["prompt"]}) + "\n")
            texts = {}
            for _ in range(args.rounds):
                for mode, flags in modes.items():
                    texts[mode], speed = run(args, batch, flags)
                    speeds[mode][i].append(speed)
                if args.llama_bench:
                    speeds["llama.cpp"][i].append(llama_cpp(args))
            for mode in modes:
                same[mode] += texts[mode] == texts["full depth"]
            print(f"{i + 1}/{len(lines)}", end="\r", file=sys.stderr, flush=True)
    print("| mode | text equal | tok/s | of full depth, median | lowest prompt |\n|---|--:|--:|--:|--:|")
    for mode in speeds:
        pairs = zip(speeds[mode], speeds["full depth"])
        ratios = [statistics.median(x / y for x, y in zip(a, b)) for a, b in pairs]
        median = statistics.median(statistics.median(s) for s in speeds[mode])
        equal = f"{same[mode]} of {len(lines)}" if mode in same else ""
        print(f"| {mode} | {equal} | {median:.0f} | {statistics.median(ratios):.3f} | {min(ratios):.3f} |")


def run(args, batch, flags):
    command = [args.curtail, "run", "-m", args.model, "--temp", "0", "-n", str(args.n), "--batch", batch, *flags]
    result = subprocess.run([str(c) for c in command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    found = re.search(r"generated \d+ tokens?, ([\d.]+) tok/s", result.stderr)
    if result.returncode != 0 or not found:
        sys.exit(f"error: `{' '.join(map(str, command))}` ended with {result.returncode}:\n{result.stderr}")
    return json.loads(result.stdout)["tokens"], float(found.group(1))


def llama_cpp(args):
    command = [args.llama_bench, "-m", args.model, "-p", "0", "-n", str(args.n), "-r", "1", "-t", "2", "-o", "json"]
    result = subprocess.run([str(c) for c in command], check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    return json.loads(result.stdout)[0]["avg_ts"]


main()
