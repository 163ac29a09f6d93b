#!/usr/bin/env python3
"""Makes tests/data/smollm2_greedy.LEVEL.jsonl: the greedy tokens that llama.cpp gives on this machine for every tenth prompt of
smollm2_greedy.jsonl, and says how many of them are those of that file.

llama.cpp adds up in another order for each level of instructions, and at a near tie that decides: so each level that the test
runs has a file of its own, made on a machine with that level. Needs the build of llama.cpp that `make bench-compare` makes, and
the demo model.
"""

import argparse
import json
import os
import subprocess
import tempfile
from pathlib import Path

from shared import DATA, ROOT

REFERENCE = DATA / "smollm2_greedy.jsonl"
# The test takes these lines of the reference.
STEP = 10


def main():
    args = parse_args()
    lines = [json.loads(line) for line in REFERENCE.read_text().splitlines()][::STEP]
    prompts = "".join(" ".join(map(str, line["prompt"])) + "\n" for line in lines)
    with tempfile.TemporaryDirectory() as work:
        program = build(args.build, args.source, Path(work) / "greedy")
        most = max(len(line["tokens"]) for line in lines)
        command = [program, args.model, str(most), str(args.threads)]
        output = subprocess.run(command, input=prompts, stdout=subprocess.PIPE, text=True, check=True).stdout
    found = [[int(id) for id in line.split()] for line in output.splitlines()]
    same = sum(tokens == line["tokens"] for line, tokens in zip(lines, found, strict=True))
    print(f"{same} of {len(lines)} answers are those of {REFERENCE.name}")
    path = REFERENCE.with_suffix(f".{args.level}.jsonl")
    golden = [{"prompt": line["prompt"], "tokens": tokens} for line, tokens in zip(lines, found)]
    path.write_text("".join(json.dumps(line) + "\n" for line in golden))


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("level", choices=["avx2"], help="the instructions that llama.cpp was built for; the reference itself is of AVX-512")
    parser.add_argument("--build", type=Path, required=True, help="the folder that llama.cpp was built in")
    parser.add_argument("--source", type=Path, required=True, help="the folder with llama.cpp's source")
    parser.add_argument("--model", type=Path, default=ROOT / "models/SmolLM2-135M-Instruct.Q4_1.gguf")
    parser.add_argument("-t", "--threads", type=int, default=os.cpu_count())
    return parser.parse_args()


def build(folder, source, program):
    libraries = [folder / "src/libllama.a", *(folder / f"ggml/src/lib{name}.a" for name in ("ggml", "ggml-cpu", "ggml-base"))]
    includes = [f"-I{source / 'include'}", f"-I{source / 'ggml/include'}"]
    here = Path(__file__).with_suffix(".cpp")
    # The libraries refer to each other in turn.
    group = ["-Wl,--start-group", *map(str, libraries), "-Wl,--end-group", "-fopenmp", "-lpthread", "-ldl"]
    subprocess.run(["c++", "-O2", "-std=c++17", *includes, str(here), "-o", str(program), *group], check=True)
    return program


if __name__ == "__main__":
    main()
