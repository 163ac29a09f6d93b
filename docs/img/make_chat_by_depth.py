#!/usr/bin/env python3
"""Draws docs/img/chat-by-depth.svg: a chat with the demo model, each token marked by the layers that it needed.

Talks with `curtail chat` on a pseudo-terminal with `/depth on`; colours and `/stats` say how deep each token went. The exit file of
the picture was made with

    curtail train-exit --task self --prompts 40 --from-layer 12 --agreement 0.9 -o picture.exit.gguf

Usage: make_chat_by_depth.py --exit-file FILE [--curtail target/release/curtail] [--model FILE] [--out FILE]
"""

import argparse
import os
import pty
import re
from html import escape
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
INPUTS = ["Why is the sky blue?", "Say it in one short sentence."]
MOST_TOKENS = 64

# The eight colours of the chat, from no layers to all; each stands for a range of depths.
COLOURS = [27, 33, 39, 44, 48, 118, 214, 203]
# What the chat shows where it waits for an input.
PROMPT = rb"\x1b\[1;32m> \x1b\[0m"
TOKEN = re.compile(r"\x1b\[38;5;(\d+)m(.*?)\x1b\[0m", re.S)

# Of the picture: characters of a line, and sizes in its own units.
COLUMNS, CHAR, FONT, LINE, MARGIN = 42, 10.9, 18, 31, 22


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--exit-file", type=Path, required=True)
    parser.add_argument("--curtail", type=Path, default=ROOT / "target/release/curtail")
    parser.add_argument("--model", type=Path, default=ROOT / "models/SmolLM2-135M-Instruct.Q4_1.gguf")
    parser.add_argument("--out", type=Path, default=ROOT / "docs/img/chat-by-depth.svg")
    args = parser.parse_args()
    flags = ["--temp", "0", "-n", str(MOST_TOKENS), "-t", "1", "--exit", "verified", "--draft", "checkpoints"]
    answers, stats = talk([args.curtail, "chat", "-m", args.model, "--exit-file", args.exit_file, *flags])
    args.out.write_text(picture(answers, stats))


def talk(command):
    """The answers as lists of (colour, text), and what `/stats` says."""
    pid, fd = pty.fork()
    if pid == 0:
        os.execve(command[0], [str(part) for part in command], {**os.environ, "TERM": "xterm-256color"})
    heard(fd)
    said(fd, "/depth on")
    answers = [[(int(colour), token) for colour, token in TOKEN.findall(said(fd, text))] for text in INPUTS]
    stats = said(fd, "/stats")
    os.write(fd, b"/exit\r")
    heard(fd)
    os.waitpid(pid, 0)
    return answers, stats


def said(fd, text):
    """What comes of an input."""
    os.write(fd, text.encode() + b"\r")
    return heard(fd)


def heard(fd):
    """What comes up to the next prompt, or the end."""
    text = b""
    while not re.search(PROMPT + rb"[^>]*$", text):
        try:
            text += os.read(fd, 65536)
        except OSError:
            break
    return text.decode(errors="replace")


def picture(answers, stats):
    executed, n_layer, needed = re.search(r"layers ([\d.]+) of (\d+) per token.*?, ([\d.]+) needed", stats).groups()
    counts = {int(depth): int(count) for depth, count in re.findall(r"^\s+(\d+) layers\s+(\d+) #", stats, re.M)}
    n_layer = int(n_layer)
    depth_of = {COLOURS[min(depth * (len(COLOURS) - 1) // n_layer, len(COLOURS) - 1)]: depth for depth in counts}
    assert len(depth_of) == len(counts), "two depths have one colour"
    found = [depth_of[colour] for answer in answers for colour, _ in answer]
    # A token that ends an answer is counted, and has no text.
    ends = sum(len(answer) < MOST_TOKENS for answer in answers)
    assert len(found) + ends == sum(counts.values()), "the tokens are not those that /stats counts"
    # The fewer layers, the stronger the mark: s1 is the strongest, and all layers have none.
    marks = {depth: f"s{i + 1}" for i, depth in enumerate(sorted(counts)) if depth < n_layer}
    body, y = [], MARGIN + FONT
    for asked, answer in zip(INPUTS, answers):
        body.append(f'<text class="ask" x="{MARGIN}" y="{y}">&gt; {escape(asked)}</text>')
        tokens = [(depth_of[colour], token) for colour, token in answer]
        if len(answer) == MOST_TOKENS:
            tokens.append((n_layer, " ..."))
        for line in lines(tokens):
            y += LINE
            body += drawn(line, y, marks, n_layer)
        y += LINE + 12
    body.append(f'<line x1="{MARGIN}" x2="{MARGIN + COLUMNS * CHAR:.0f}" y1="{y - 26}" y2="{y - 26}"/>')
    x = MARGIN
    for depth in sorted(counts):
        label = f" {depth} of {n_layer} "
        body += drawn([(depth, label)], y + 4, marks, n_layer, x)
        body.append(f'<text class="small" x="{x + 8:.0f}" y="{y + 28}">{found.count(depth)} tokens</text>')
        x += (len(label) + 0.6) * CHAR
    note = f"layers per token: {needed} needed, {executed} executed"
    body.append(f'<text class="small" x="{MARGIN}" y="{y + 54}">{note}</text>')
    width, height = 2 * MARGIN + COLUMNS * CHAR, y + 54 + MARGIN - 4
    about = "; ".join(f"{found.count(depth)} tokens after {depth} layers" for depth in sorted(counts))
    size = {"width": round(width), "height": height, "inner_width": round(width) - 1, "inner_height": height - 1}
    return TEMPLATE.format(**size, about=f"{about}. {note}.", body="\n".join(body))


def lines(tokens):
    """Tokens in lines; a token that begins with a space may begin a line."""
    words = []
    for depth, text in tokens:
        if words and not text.startswith(" "):
            words[-1].append((depth, text))
        else:
            words.append([(depth, text)])
    line, used = [], 0
    for word in words:
        length = sum(len(text) for _, text in word)
        if line and used + length > COLUMNS:
            yield line
            line, used = [], 0
            word = [(word[0][0], word[0][1].lstrip()), *word[1:]]
            length = sum(len(text) for _, text in word)
        line += word
        used += length
    yield line


def drawn(line, y, marks, n_layer, x=MARGIN):
    for depth, text in line:
        # The mark lies under the letters of a token, not under the space before it.
        shown = text.lstrip(" ") if text.strip() and not text.endswith(" ") else text
        start = x + (len(text) - len(shown)) * CHAR
        width = len(shown) * CHAR
        mark = marks.get(depth)
        if mark:
            yield f'<rect class="{mark}" x="{start - 2:.1f}" y="{y - 20}" width="{width + 4:.1f}" height="27" rx="4"/>'
        style = f' class="{mark}t"' if mark else ""
        yield (
            f'<text{style} x="{start:.1f}" y="{y}" textLength="{width:.1f}" xml:space="preserve">'
            f"<title>{depth} of {n_layer} layers</title>{escape(shown)}</text>"
        )
        x += len(text) * CHAR


TEMPLATE = """<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" aria-labelledby="title about">
<title id="title">A chat, each token marked by the layers that it needed</title>
<desc id="about">{about} The fewer layers, the stronger the mark; tokens of all layers have none.</desc>
<style>
text {{ font: 18px ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace; fill: #1f2328; }}
.ask {{ font-weight: bold; }}
.small {{ font-size: 15px; fill: #59636e; }}
.card {{ fill: #ffffff; stroke: #d1d9e0; }}
line {{ stroke: #d1d9e0; }}
.s1 {{ fill: #0b3d78; }} .s2 {{ fill: #2f7cc4; }} .s3 {{ fill: #c4def6; }}
.s1t, .s2t {{ fill: #ffffff; }}
@media (prefers-color-scheme: dark) {{
text {{ fill: #e6edf3; }}
.small {{ fill: #9aa4af; }}
.card {{ fill: #0d1117; stroke: #3d444d; }}
line {{ stroke: #3d444d; }}
.s1 {{ fill: #e3f1ff; }} .s2 {{ fill: #74b4f0; }} .s3 {{ fill: #1d4670; }}
.s1t, .s2t {{ fill: #0d1117; }}
}}
</style>
<rect class="card" x="0.5" y="0.5" width="{inner_width}" height="{inner_height}" rx="10"/>
{body}
</svg>
"""


if __name__ == "__main__":
    main()
