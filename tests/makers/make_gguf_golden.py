"""Makes tests/data/gguf/: small GGUF files written by the Python package `gguf`, and what its reader finds in them.

    pip install gguf==0.19.0 && python tests/makers/make_gguf_golden.py

With --check FILE.gguf ... it prints what the package's reader finds in other files, as one JSON line a file.
"""

import json
import sys

import numpy as np
from gguf import GGMLQuantizationType, GGUFEndian, GGUFReader, GGUFValueType, GGUFWriter
from gguf.constants import GGML_QUANT_SIZES

from shared import DATA, write_out

FOLDER = DATA / "gguf"


def main():
    if sys.argv[1:2] == ["--check"]:
        for path in sys.argv[2:]:
            print(json.dumps(contents(path), ensure_ascii=True))
        return
    FOLDER.mkdir(parents=True, exist_ok=True)
    write_all_types(FOLDER / "types.gguf")
    write_big_endian(FOLDER / "big-endian.gguf")
    write_split(FOLDER / "split.gguf")
    expected = {p.name: contents(p) for p in sorted(FOLDER.glob("*.gguf")) if p.name != "big-endian.gguf"}
    lines = [f"{json.dumps(name)}: {json.dumps(c)}" for name, c in expected.items()]
    (FOLDER / "expected.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")


def write_all_types(path):
    """Every metadata type, alone and in arrays, and a tensor of nearly every element type, aligned to 64 bytes."""
    w = GGUFWriter(path, "llama")
    w.add_custom_alignment(64)
    numbers = [
        ("u8", GGUFValueType.UINT8, [0, 255]),
        ("i8", GGUFValueType.INT8, [-128, 127]),
        ("u16", GGUFValueType.UINT16, [0, 65535]),
        ("i16", GGUFValueType.INT16, [-32768, 32767]),
        ("u32", GGUFValueType.UINT32, [0, 2**32 - 1]),
        ("i32", GGUFValueType.INT32, [-(2**31), 2**31 - 1]),
        ("u64", GGUFValueType.UINT64, [0, 2**64 - 1]),
        ("i64", GGUFValueType.INT64, [-(2**63), 2**63 - 1]),
        ("f32", GGUFValueType.FLOAT32, [0.5, -1.0e30]),
        ("f64", GGUFValueType.FLOAT64, [0.1, 1.0e300]),
        ("bool", GGUFValueType.BOOL, [False, True]),
        ("string", GGUFValueType.STRING, ["", "na\u00efve \u2603 \U0001f600\n\0"]),
    ]
    for name, kind, values in numbers:
        w.add_key_value(f"one.{name}", values[1], kind)
        w.add_key_value(f"many.{name}", values, GGUFValueType.ARRAY, sub_type=kind)
    for i, (kind, (_, block_bytes)) in enumerate(GGML_QUANT_SIZES.items()):
        if kind == GGMLQuantizationType.Q8_1:
            continue  # the package counts 40 bytes a block, ggml 36
        rows = 2 if i % 3 else 1
        data = np.arange(rows * block_bytes, dtype=np.uint32).astype(np.uint8).reshape(rows, block_bytes)
        w.add_tensor(f"t.{kind.name}", data, raw_shape=[rows, block_bytes], raw_dtype=kind)
    write_out(w)


def write_big_endian(path):
    w = GGUFWriter(path, "llama", endianess=GGUFEndian.BIG)
    w.add_uint32("llama.block_count", 1)
    write_out(w)


def write_split(path):
    """Five tensors in three parts."""
    w = GGUFWriter(path, "llama", split_max_tensors=2)
    w.add_uint32("llama.block_count", 1)
    for i in range(5):
        w.add_tensor(f"t{i}", np.full((i + 1, 3), i, dtype=np.float32))
    write_out(w)


def contents(path):
    r = GGUFReader(path)
    fields = {k: f for k, f in r.fields.items() if not k.startswith("GGUF.")}
    return {
        "version": int(r.fields["GGUF.version"].contents()),
        "metadata": {k: [f.types[-1].name.lower(), f.contents()] for k, f in fields.items()},
        "tensors": [
            {
                "name": t.name,
                "type": t.tensor_type.value,
                "shape": [int(n) for n in t.shape],
                "offset": int(t.data_offset),
                "data": t.data.tobytes().hex(),
            }
            for t in r.tensors
        ],
    }


if __name__ == "__main__":
    main()
