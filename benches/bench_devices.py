#!/usr/bin/env python3
"""Compares a device with the CPU of the same machine, and measures stops and looks on it.

Usage: bench_devices.py [--curtail target/release/curtail] [--model FILE] [--prompts 80] [-n 64] [--llama-bench FILE]
                        [--no-text] [-- FLAGS ...]
FLAGS name the device: `-ngl all`, `--device CUDA0`, `--rpc HOST:PORT,...`. Prints Markdown for docs/gpu.md: whether the greedy texts
of prompts of tests/data/smollm2_greedy.jsonl are the CPU's, plain and with guesses verified; tokens per second of pp512 and tg128 at
full depth and with every token stopped at a quarter, half and three quarters of the layers, with the share of the ideal time; and
what a look at a checkpoint costs.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
REPEATS = 5


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--curtail", type=Path, default=ROOT / "target/release/curtail")
    parser.add_argument("--model", type=Path, default=ROOT / "models/SmolLM2-135M-Instruct.Q4_1.gguf")
    parser.add_argument("--prompts", type=int, default=80)
    parser.add_argument("-n", type=int, default=64)
    parser.add_argument("--llama-bench", type=Path, help="of the same ggml, to stand beside")
    parser.add_argument("--no-text", action="store_true", help="speed only: the model's text means nothing")
    parser.add_argument("flags", nargs="*")
    args = parser.parse_args()

    doctor = json.loads(call(args, ["doctor", "-c", "512", "--json", *args.flags]))
    for device in doctor["devices"]:
        print(f"- {device['name']}: {device['description']}")
    n_layer = doctor["model"]["layers"][-1]["last"] + 1
    print(f"- `{args.model.name}`: " + ", ".join(f"layers {l['first']} to {l['last']} on {l['device']}" for l in doctor["model"]["layers"]))
    print()
    if not args.no_text:
        texts(args)
    speeds(args, n_layer)


def call(args, arguments):
    command = [args.curtail, arguments[0], "-m", args.model, *arguments[1:]]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode != 0:
        sys.exit(f"error: `{' '.join(map(str, command))}` ended with {done.returncode}")
    return done.stdout


def texts(args):
    lines = (ROOT / "tests/data/smollm2_greedy.jsonl").read_text().splitlines()[: args.prompts]
    with tempfile.TemporaryDirectory() as folder:
        batch = Path(folder) / "prompts.jsonl"
        batch.write_text("".join(json.dumps({"prompt": json.loads(line)["prompt"]}) + "\n" for line in lines))

        def answers(flags):
            arguments = ["run", "--batch", str(batch), "--temp", "0", "-n", str(args.n), *flags]
            return [json.loads(line)["text"] for line in call(args, arguments).splitlines()]

        here = answers(["--device", "none"])
        for name, flags in [("full depth", []), ("lookup, verified", ["--draft", "lookup"])]:
            there = answers([*args.flags, *flags])
            same = sum(a == b for a, b in zip(here, there, strict=True))
            print(f"- {name}: {same} of {len(here)} greedy texts of {args.n} tokens equal the CPU's")
    print()


def speeds(args, n_layer):
    def bench(*flags):
        return json.loads(call(args, ["bench", "-o", "json", "-r", str(REPEATS), *args.flags, *flags]))

    beside = {}
    if args.llama_bench:
        command = [args.llama_bench, "-m", args.model, "-ngl", "99", "-fa", "1", "-p", "512", "-n", "128", "-r", str(REPEATS), "-o", "json"]
        for row in json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True).stdout):
            beside[row["n_prompt"], row["n_gen"]] = row["avg_ts"]
    print("| test | tok/s | of ideal | llama.cpp | ratio |\n|---|--:|--:|--:|--:|")
    for row in bench("-p", "512", "-n", "128"):
        name = f"pp{row['n_prompt']}" if row["n_prompt"] else f"tg{row['n_gen']}"
        other = beside.get((row["n_prompt"], row["n_gen"]))
        print(f"| {name} | {row['median_ts']:.1f} | | " + (f"{other:.1f} | {row['median_ts'] / other:.3f} |" if other else "| |"))
    for layers in [n_layer // 4, n_layer // 2, n_layer * 3 // 4]:
        row = bench("-p", "0", "-n", "128", "--exit-layers", str(layers))[-1]
        print(f"| tg128, stopped after layer {layers} of {n_layer} | {row['median_ts']:.1f} | {row['of_ideal']:.3f} | | |")
    looks = ",".join(str(layer) for layer in range(n_layer // 2, n_layer, max(1, n_layer // 8)))
    row = bench("-p", "0", "-n", "128", "--exit", "off", "--look-layers", looks)[-1]
    print(f"\nA look (after layers {looks}): {row['look_us']:.1f} us, {100 * row['look_of_layer']:.1f} % of a layer.")


if __name__ == "__main__":
    main()
