#!/usr/bin/env python3
"""Measures what leaving out the attention of the last k layers saves and costs (arXiv 2404.05741): speed beside full depth, by turns,
at short and long context, and the quality of the predictions on a text.

Usage: bench_layers.py [--curtail target/release/curtail] [--model FILE] [--text models/tasks/news.txt] [--no-quality]
                       [--most N] [--step N] [--contexts 0,2048] [-n 64] [-r 5] [-t THREADS]
Speed is `curtail bench --layers`: every plan takes turns with full depth. Quality is `curtail layers prune --method latter`, on the
windows that decide nothing. `make tasks` fetches the text; a model of random weights has no quality (--no-quality).
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--curtail", type=Path, default=ROOT / "target/release/curtail")
    parser.add_argument("--model", type=Path, default=ROOT / "models/SmolLM2-135M-Instruct.Q4_1.gguf")
    parser.add_argument("--text", type=Path, default=ROOT / "models/tasks/news.txt")
    parser.add_argument("--no-quality", action="store_true")
    parser.add_argument("--most", type=int, help="layers without attention at most [default: half of them]")
    parser.add_argument("--step", type=int, default=2)
    parser.add_argument("--contexts", default="0,2048")
    parser.add_argument("-n", type=int, default=64)
    parser.add_argument("-r", type=int, default=5)
    parser.add_argument("-t", type=int)
    args = parser.parse_args()
    n_layer = layers_of(args)
    counts = list(range(args.step, (args.most or n_layer // 2) + 1, args.step))
    plans = {k: plan(n_layer, k) for k in counts}
    contexts = [int(n) for n in args.contexts.split(",")]
    speed = speeds(args, plans, args.contexts)
    quality = {} if args.no_quality else qualities(args, counts)
    heads = [f"speed @ {n} (tok/s)" for n in contexts]
    print("| layers without attention | " + " | ".join(heads) + " | same best token | KL divergence | perplexity |")
    print("|--:|" + "--:|" * (len(contexts) + 3))
    for k in [0, *counts]:
        cells = [f"{ratio:.3f}x ({tokens:.1f})" for ratio, tokens in (speed[k, n] for n in contexts)]
        print(f"| {k} | " + " | ".join(cells) + f" | {' | '.join(quality.get(k, ['', '', '']))} |", flush=True)


def plan(n_layer, k):
    return f"~{n_layer - 1}:attn" if k == 1 else f"~{n_layer - k}-{n_layer - 1}:attn"


def run(args, *rest):
    threads = ["-t", args.t] if args.t else []
    command = [str(c) for c in [args.curtail, *rest, "-m", args.model, *threads]]
    result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if result.returncode != 0:
        sys.exit(f"error: `{' '.join(command)}` ended with {result.returncode}:\n{result.stderr}")
    return json.loads(result.stdout)


def layers_of(args):
    command = [str(args.curtail), "inspect", str(args.model), "--json"]
    metadata = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)["metadata"]
    return metadata[metadata["general.architecture"] + ".block_count"]


def speeds(args, plans, contexts):
    """(k, context) -> (speed over full depth's, tokens per second), medians."""
    wanted = [flag for text in plans.values() for flag in ("--layers", text)]
    rows = run(args, "bench", "-p", 0, "-n", args.n, "-r", args.r, "-d", contexts, "-o", "json", *wanted)
    # Full depth first, then the plans as they were asked for.
    order = [0, *plans]
    found = {}
    for i, row in enumerate(rows):
        found[order[i % len(order)], row["n_depth"]] = (row["of_full_depth"], row["median_ts"])
    return found


def qualities(args, counts):
    """k -> cells."""
    flags = ["--method", "latter", "--skip", max(counts), "--json"]
    points = run(args, "layers", "prune", "-f", args.text, *flags)["points"]
    return {k: cells(points[k]["checks"]) for k in [0, *counts]}


def cells(checks):
    rise = 100 * checks["perplexity_rise"]
    return [f"{100 * checks['agreement']:.1f} %", f"{checks['kld']:.4f}", f"{rise:+.1f} %"]


if __name__ == "__main__":
    main()
