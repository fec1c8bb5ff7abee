"""Text of other people, made fit to be shown: records come from any machine, and a terminal obeys what it prints."""

from __future__ import annotations

import unicodedata


def printable(text: object) -> str:
    """``text`` on one line, with everything that a terminal would obey (colours, links, cursor, reversed writing)
    written out, such as ``\\x1b``.

    It is not yet escaped for HTML or for rich's markup.
    """
    line = str(text)
    if line.isprintable():
        return line
    return "".join(map(_shown, line))


def _shown(character: str) -> str:
    if character in "\n\r\t":
        return " "
    if unicodedata.category(character)[0] == "C" or character in "\u2028\u2029":
        return character.encode("unicode_escape").decode()
    return character


def is_file_name(text: str) -> bool:
    """Whether ``text`` is the visible name of one file or folder, and cannot lead anywhere else."""
    return text != "" and text[0] != "." and "/" not in text and "\\" not in text and printable(text) == text
