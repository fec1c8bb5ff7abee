"""What a file is that was given in place of a model, by its first bytes."""

from __future__ import annotations

from pathlib import Path

IMPORT = "convert it with `rhobench weights import`"

_KINDS: tuple[tuple[tuple[bytes, ...], str], ...] = (
    ((b"<!doctype", b"<html", b"<?xml"), "a web page: download the file itself"),
    ((b"version https://git-lfs",), "a Git LFS pointer: run `git lfs pull`"),
    ((b"PK\x03\x04",), f"a zip archive, such as a checkpoint of PyTorch: {IMPORT}"),
    ((b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"), f"a pickle, such as an old checkpoint of PyTorch: {IMPORT}"),
    ((b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"BM", b"II*\x00", b"MM\x00*", b"RIFF"), "an image"),
    ((b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"7z\xbc\xaf"), "a compressed file: unpack it"),
    ((b"%PDF",), "a PDF document"),
    ((b"{", b"["), "a JSON file"),
)
"""First bytes -> what the file is, and what to do if that is known."""


def file_kind(file: Path) -> str | None:
    """Describe a file that is no model of rhobench, such as "a web page: download the file itself"; None: unknown."""
    with file.open("rb") as stream:
        start = stream.read(200)
    if not start:
        return "an empty file"
    # HTML may begin with blank lines and in either case; binary signatures must not be changed.
    text = start.lstrip().lower()
    for signatures, kind in _KINDS:
        if start.startswith(signatures) or text.startswith(signatures):
            return kind
    return None
