"""``python -m rhobench.cli`` is the command line."""

from rhobench.cli.app import main

main()
