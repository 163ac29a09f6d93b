#!/usr/bin/env python3
"""Trains early stops for the demo model's tasks, measures them beside full depth, and prints the table of docs/src/results/answers.md.

Usage: eval_tasks.py [--curtail target/release/curtail] [--model FILE] [--out FOLDER]. Takes about half an hour on two cores.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TASKS = ROOT / "models/tasks"
MOVIE, TOPIC, PRODUCT, TWEET = "movie-sentiment", "topic", "product-sentiment", "tweet-sentiment"
# What is read, fitted to what, on which task; more options of eval.
RUNS = [
    ("label logits", MOVIE, ["--input", "labels"], []),
    ("hidden state", MOVIE, [], []),
    ("hidden state, prompt evaluated whole", MOVIE, [], ["--no-prefix-cache", "--rows", "150"]),
    ("hidden state, true labels, --loss 0", MOVIE, ["--target", "truth", "--loss", "0"], []),
    ("hidden state, true labels", TOPIC, ["--target", "truth"], []),
    ("hidden state", PRODUCT, [], []),
    ("hidden state", TWEET, [], []),
    *((f"hidden state, {n} shots", MOVIE, ["--shots", n], ["--shots", n, "--rows", "150"]) for n in ("5", "10", "15", "20")),
    ("AdaInfer: vocabulary, SVM, every layer", MOVIE, ["--preset", "adainfer"], ["--rows", "150"]),
    ("the same, prompt evaluated whole", MOVIE, ["--preset", "adainfer"], ["--rows", "150", "--no-prefix-cache"]),
]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--curtail", type=Path, default=ROOT / "target/release/curtail")
    parser.add_argument("--model", type=Path, default=ROOT / "models/SmolLM2-135M-Instruct.Q4_1.gguf")
    parser.add_argument("--out", type=Path, default=TASKS / "exit", help="where exit files and pages go")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    print("| read-out | task | n | full depth | early | agreement | mean layers | saved | speed-up | ideal | of ideal |")
    print("|---|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|", flush=True)
    for i, (name, task, how, options) in enumerate(RUNS):
        print(f"==> {name}: {task}", file=sys.stderr, flush=True)
        exit_file, page = args.out / f"{i}-{task}.exit.gguf", args.out / f"{i}-{task}.html"
        given = ["-m", args.model, "--task", TASKS / f"{task}.toml"]
        run([args.curtail, "train-exit", *given, "-o", exit_file, *how])
        out = run([args.curtail, "eval", *given, "--exit", exit_file, "--json", "--report", page, *options])
        print(row(name, json.loads(out)[0]), flush=True)


def run(command):
    result = subprocess.run([str(c) for c in command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if result.returncode != 0:
        sys.exit(f"error: `{' '.join(map(str, command))}` ended with {result.returncode}:\n{result.stderr}")
    return result.stdout


def row(name, m):
    saved = 100 * (1 - m["mean_layers"] / m["n_layer"])
    cells = [
        name,
        m["task"],
        m["n"],
        f"{100 * m['accuracy_dense']:.1f} %",
        f"{100 * m['accuracy_exit']:.1f} %",
        f"{100 * m['agreement']:.1f} %",
        f"{m['mean_layers']:.1f} of {m['n_layer']}",
        f"{saved:.1f} %",
        f"{m['speedup']:.2f}x",
        f"{m['ideal_speedup']:.2f}x",
        f"{m['efficiency']:.3f}",
    ]
    return "| " + " | ".join(map(str, cells)) + " |"


if __name__ == "__main__":
    main()
