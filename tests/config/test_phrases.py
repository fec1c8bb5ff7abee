"""Counts with their nouns, and that every message writes them the same way."""

from __future__ import annotations

import re
from pathlib import Path

from rhobench.config.phrases import counted, listed

ROOT = Path(__file__).parents[2]


def test_nouns_agree_with_their_number() -> None:
    assert [counted(n, "image") for n in (0, 1, 2, 1200)] == ["0 images", "1 image", "2 images", "1,200 images"]
    assert counted(2, "class", "classes") == "2 classes"
    assert [counted(n, "GPU") for n in (0.5, 1.0, 2.0)] == ["0.5 GPUs", "1 GPU", "2 GPUs"]


def test_long_lists_are_counted() -> None:
    assert listed([1, 2, 3]) == "1, 2, 3"
    assert listed(range(1203)) == "0, 1, 2 and 1,200 more"
    assert listed(["a", "b"], repr, most=1) == "'a' and 1 more"
    assert listed([]) == ""


def test_no_message_forms_them_by_itself() -> None:
    by_hand = re.compile(r"""['"]e?s['"] if |else ['"]e?s['"]\}|(?<!;) and \{len\(.*\) - .*\} more""")
    files = [file for root in ("platform", "dashboards", "experiments") for file in (ROOT / root).rglob("*.py")]
    assert len(files) > 100
    verbs = "parts.append(f\"{trained} more only need{'s' if"
    found = [f"{file.name}: {line}" for file in files for line in file.read_text().splitlines() if by_hand.search(line)]
    assert [line for line in found if verbs not in line and "phrases.py" not in line] == []
