"""Sanitising of untrusted text for display: a terminal interprets control characters."""

from __future__ import annotations

import re
import unicodedata
from typing import Any

_BIDI = re.compile("[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
"""Characters that set the direction of text (Unicode Bidi_Control)."""
_BIDI_IN_JSON = re.compile(_BIDI.pattern + r"|\\u(?:061c|200[ef]|202[a-e]|206[6-9])", re.IGNORECASE)
"""The same in JSON text, where they may also be written as escapes."""


def printable(text: object) -> str:
    """``text`` on one line, with control characters replaced by escapes such as ``\\x1b``.

    Control characters set colours and links, move the cursor and reverse the direction of text in a terminal. The
    result is not escaped for HTML or for rich's markup.
    """
    line = str(text)
    if line.isprintable():
        return line
    return "".join(map(_escape, line))


def clause(text: object) -> str:
    """``printable`` text of an error for use within a sentence: without a full stop at its end."""
    return printable(text).strip().removesuffix(".")


def json_has_bidi(content: str | bytes) -> bool:
    """Whether JSON text contains a character that ``without_bidi`` removes."""
    backslash = "\\" if isinstance(content, str) else b"\\"
    if content.isascii() and backslash not in content:  # type: ignore[operator]
        return False  # the usual case, which takes a hundredth of the search
    text = content if isinstance(content, str) else content.decode(errors="replace")
    return _BIDI_IN_JSON.search(text) is not None


def without_bidi(value: Any) -> Any:
    """Parsed JSON without bidirectional controls, with which a name could turn around the text of a page beside it."""
    if isinstance(value, str):
        return _BIDI.sub("", value)
    if isinstance(value, dict):
        return {without_bidi(key): without_bidi(item) for key, item in value.items()}
    return [without_bidi(item) for item in value] if isinstance(value, list) else value


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
