"""``rhobench doctor``."""

from __future__ import annotations

import json

import typer

from rhobench.cli.options import FAILED, AsJson


def doctor(as_json: AsJson = False) -> None:
    """Test this machine: operator backends against the reference, GPU, Ray and browser."""
    from rich.console import Console

    from rhobench.runner.doctor import examine

    findings = []
    with Console(stderr=True).status("testing"):
        for finding in examine():
            findings.append(finding)
            # Flushed, because the next test may take seconds or crash the process.
            print(finding.line, flush=True)
    failed = any(finding.required and not finding.works for finding in findings)
    if as_json:
        print(json.dumps({"works": not failed, "findings": [finding.as_dict() for finding in findings]}))
    raise typer.Exit(FAILED if failed else 0)
