#!/usr/bin/env python3
"""Times `curtail convert` beside llama.cpp's converter, by turns, on the same checkpoint.

    bench_convert.py CHECKPOINT LLAMA_CPP [--outtype f16 q8_0] [--runs 3] [--curtail target/release/curtail] [--out FOLDER]

LLAMA_CPP is a source tree of llama.cpp with `convert_hf_to_gguf.py`; the Python that runs this script runs that one, so it
needs torch, transformers, sentencepiece and gguf. Both write to FOLDER (a temporary one by default); the files are
compared and removed. Times are of the whole process; peak memory is the largest resident set, which for curtail is nearly
all of its own (it maps no checkpoint), and the largest anonymous part of it.
"""

import argparse
import filecmp
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("llama_cpp", type=Path)
    parser.add_argument("--outtype", nargs="+", default=["f16", "bf16", "q8_0"])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--curtail", type=Path, default=Path("target/release/curtail"))
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.out) as folder:
        for outtype in args.outtype:
            bench(args, outtype, Path(folder))


def bench(args, outtype, folder):
    ours, theirs = folder / "ours.gguf", folder / "theirs.gguf"
    commands = {
        "curtail": [args.curtail, "convert", args.checkpoint, "-o", ours, "--outtype", outtype],
        "llama.cpp": [sys.executable, args.llama_cpp / "convert_hf_to_gguf.py", args.checkpoint, "--outfile", theirs,
                      "--outtype", outtype],
    }
    times = {name: [] for name in commands}
    peaks = {name: (0, 0) for name in commands}
    for _ in range(args.runs):
        for name, command in commands.items():
            seconds, peak = run(command)
            times[name].append(seconds)
            peaks[name] = tuple(map(max, peaks[name], peak))
    same = "equal" if filecmp.cmp(ours, theirs, shallow=False) else "DIFFERENT"
    for name, all_ in times.items():
        peak, anonymous = peaks[name]
        print(f"{outtype:5} {name:10} best {min(all_):7.2f} s, all {' '.join(f'{t:.2f}' for t in all_)}, peak {peak / 1e6:.0f} MB "
              f"(anonymous {anonymous / 1e6:.0f} MB)")
    print(f"{outtype:5} {min(times['llama.cpp']) / min(times['curtail']):.1f} times as fast, files {same}", flush=True)
    ours.unlink()
    theirs.unlink()


def run(command):
    """Seconds, largest resident set, largest anonymous part of it, in bytes."""
    started = time.perf_counter()
    process = subprocess.Popen([str(part) for part in command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    peak = [0, 0]
    watcher = threading.Thread(target=watch, args=(process.pid, peak))
    watcher.start()
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - started
    watcher.join()
    if status != 0:
        sys.exit(f"error: {command[0]} failed: {status}")
    return seconds, (usage.ru_maxrss * 1024, peak[1])


def watch(pid, peak):
    try:
        while True:
            for line in Path(f"/proc/{pid}/status").read_text().splitlines():
                if line.startswith("RssAnon:"):
                    peak[1] = max(peak[1], int(line.split()[1]) * 1024)
            time.sleep(0.02)
    except (FileNotFoundError, ProcessLookupError):
        pass


if __name__ == "__main__":
    main()
