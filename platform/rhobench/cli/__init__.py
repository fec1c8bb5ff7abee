"""The commands. Each imports what it needs in its body, so that ``rhobench --help`` is instant."""

from rhobench.cli.app import main

__all__ = ["main"]
