"""A Markdown page as the documentation tests see it: headings, links, code blocks and inline code."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

FENCE = re.compile(r"^```(?P<language>\w*)\n(?P<code>.*?)^```$", re.DOTALL | re.MULTILINE)
INLINE_CODE = re.compile(r"(?<!`)(`+)(?!`)(?P<code>.+?)(?<!`)\1(?!`)", re.DOTALL)
LINK = re.compile(r"!?\[(?P<text>[^\]]*)\]\((?P<target>[^)\s]+)\)")
HEADING = re.compile(r"^#+ (?P<title>.+)$", re.MULTILINE)
SHELL_LANGUAGES = ("", "bash", "console", "sh", "shell")


@dataclass(frozen=True)
class Page:
    """A page with its path, which relative links start from."""

    path: Path
    text: str

    @classmethod
    def read(cls, path: Path) -> Page:
        """The page in a file."""
        return cls(path, path.read_text(encoding="utf-8"))

    @property
    def prose(self) -> str:
        """The text without fenced code blocks."""
        return FENCE.sub("", self.text)

    @property
    def links(self) -> list[str]:
        """Targets of links and images."""
        return [found["target"] for found in LINK.finditer(INLINE_CODE.sub("code", self.prose))]

    @property
    def anchors(self) -> set[str]:
        """Anchors of the headings, as GitHub derives them."""
        anchors: dict[str, int] = {}
        result = set()
        for found in HEADING.finditer(self.prose):
            title = LINK.sub(r"\g<text>", found["title"]).strip().lower()
            slug = re.sub(r"[^\w\- ]", "", title).replace(" ", "-")
            count = anchors.get(slug, 0)
            anchors[slug] = count + 1
            result.add(f"{slug}-{count}" if count else slug)
        return result

    @property
    def inline_code(self) -> list[str]:
        """Contents of inline code spans, each on one line."""
        paragraphs = self.prose.split("\n\n")
        return [" ".join(found["code"].split()) for text in paragraphs for found in INLINE_CODE.finditer(text)]

    @property
    def shell_lines(self) -> list[str]:
        """Lines of shell code blocks without comments; continued lines are joined."""
        lines = []
        for found in FENCE.finditer(self.text):
            if found["language"] in SHELL_LANGUAGES:
                lines += found["code"].replace("\\\n", " ").splitlines()
        return [stripped for line in lines if (stripped := re.sub(r"(^|\s)#.*", "", line).strip().removeprefix("$ "))]
