"""What the makers of golden files have in common: where the files go, and how a GGUF file ends."""

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
DATA = ROOT / "tests/data"


def write_out(writer):
    """Writes the file of a gguf.GGUFWriter that has its metadata and tensors."""
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
