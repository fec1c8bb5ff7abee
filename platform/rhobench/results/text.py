"""Sanitising of untrusted text for display: a terminal interprets control characters."""

from __future__ import annotations

import unicodedata


def printable(text: object) -> str:
    """``text`` on one line, with control characters replaced by escapes such as ``\\x1b``.

    Control characters set colours and links, move the cursor and reverse the direction of text in a terminal. The
    result is not escaped for HTML or for rich's markup.
    """
    line = str(text)
    if line.isprintable():
        return line
    return "".join(map(_escape, line))


def _escape(character: str) -> str:
    if character in "\n\r\t":
        return " "
    # The last two separate lines and paragraphs, but are not in a category of control characters.
    if unicodedata.category(character)[0] == "C" or character in "\u2028\u2029":
        return character.encode("unicode_escape").decode()
    return character


def is_file_name(text: str) -> bool:
    """Whether ``text`` is the visible name of a single file or folder, without separators or control characters."""
    return text != "" and text[0] != "." and "/" not in text and "\\" not in text and printable(text) == text
