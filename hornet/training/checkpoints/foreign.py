"""What a file is that holds no weights, told from its first bytes, since a parser's complaint helps nobody."""

from __future__ import annotations

import zipfile
from pathlib import Path

from hornet.errors import UserError

FOLDER_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
"""What Hugging Face's tools and Accelerate call the weights in a folder; the first that is there is taken."""
ZIP = b"PK\x03\x04"
TORCH_BEFORE_1_6 = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
_MAX_SAFETENSORS_HEADER_BYTES = 100_000_000  # the format's own bound

HEAD_BYTES = 512
"""How much of a file's start is looked at; the mark of a tar lies at byte 257."""

_COMPRESSED = {
    b"\x1f\x8b": "gzip",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"BZh": "bzip2",
    b"\xfd7zXZ\x00": "xz",
    b"7z\xbc\xaf": "7z",
}
_FORMATS = {
    b"\x89HDF": "is an HDF5 file, as Keras writes it; give weights of this network in PyTorch's format",
    b"\x93NUMPY": "is a NumPy array; save the tensors with torch.save or safetensors",
    b"GGUF": "is a GGUF file; give weights of this network in PyTorch's format",
    b"\x80": "is a Python pickle that torch.save did not write; save its tensors by torch.save where it was made",
}


def read_weights_head(path: Path) -> bytes:
    """Return the first bytes of a file that begins as a weight file does; raises UserError that says what it is."""
    head = read_head(path)
    if not head.startswith((ZIP, TORCH_BEFORE_1_6)) and count_header_bytes(head) is None:
        raise UserError(f"{path} {explain_foreign_file(head)}")
    return head


def read_head(path: Path) -> bytes:
    """Return the first bytes of a regular file; raises UserError."""
    try:
        if path.exists() and not path.is_file():  # reading a pipe would wait for ever
            raise UserError(f"{path} is not a regular file")
        with path.open("rb") as file:
            return file.read(HEAD_BYTES)
    except FileNotFoundError as error:
        target = f": it is a link to {path.readlink()}, which is not there" if path.is_symlink() else ""
        raise UserError(f"{path} does not exist{target}") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from error


def count_header_bytes(head: bytes) -> int | None:
    """Return the length of the header that a file of safetensors says it has; None if it is no such file."""
    num_bytes = int.from_bytes(head[:8], "little")
    return num_bytes if head[8:9] == b"{" and num_bytes <= _MAX_SAFETENSORS_HEADER_BYTES else None


def explain_foreign_file(head: bytes) -> str:
    """Say what a file is that begins with `head` and is neither torch's nor safetensors', and what to do."""
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n")
    if not head:
        return "is empty (0 bytes); download or copy it again"
    if head.startswith(b"version https://git-lfs"):
        return "is a pointer of Git LFS, not the file itself; fetch that by `git lfs pull`"
    if start[:5].lower() in (b"<!doc", b"<html", b"<?xml", b"<head", b"<body"):
        return "is a web page or an answer of a server, not weights; open it to read why, and download the file again"
    for mark, name in _COMPRESSED.items():
        if head.startswith(mark):
            return f"is compressed ({name}); unpack it first"
    if head[257:262] == b"ustar":
        return "is a tar archive; unpack it and give the weight file in it"
    # A protocol buffer whose first fields are a version and the producer's name, as exporters write them.
    if head[0:1] == b"\x08" and head[2:3] == b"\x12":
        return "is an ONNX model; give the weights that it was exported from"
    for mark, sentence in _FORMATS.items():
        if head.startswith(mark):
            return sentence
    if head.isascii() and not any(byte < 32 and byte not in b"\t\r\n" for byte in head):
        kind = "JSON" if start[:1] in (b"{", b"[") else "text"
        return f"is a {kind} file, not weights (it begins with {head[:40].decode()!r}); download or copy it again"
    return f"is no weight file (it begins with {head[:8]!r}), or damaged; give a .pth or .safetensors file"


def explain_archive(path: Path) -> str | None:
    """Say why a zip archive is not one that torch.save wrote; None if it may be. Raises OSError."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError):
        return "is cut short or damaged (a zip archive without its end); download or copy it again"
    names = [Path(member.filename).name for member in members]
    if "constants.pkl" in names:
        return "is a TorchScript program; load it by torch.jit.load and save its state_dict() by torch.save"
    if "data.pkl" not in names:
        if names and all(name.endswith(".npy") for name in names):
            return "is a NumPy archive (.npz); save the tensors with torch.save or safetensors"
        return "is a zip archive that torch.save did not write; unpack it and give the weight file in it"
    if any(member.compress_type != zipfile.ZIP_STORED for member in members):
        # Sizes would not be bounded by the file's own, and tensors could not be mapped.
        return "is a compressed zip archive, which torch.save never writes; load it where it was made and save it anew"
    return None
