"""``rhobench doctor``."""

from __future__ import annotations

import json

import typer

from rhobench.cli.options import FAILED, AsJson


def doctor(as_json: AsJson = False) -> None:
    """Try what works on this machine: backends against float64, GPU, Ray, browser."""
    from rich.console import Console

    from rhobench.runner.doctor import examine

    findings = []
    with Console(stderr=True).status("trying"):
        for finding in examine():
            findings.append(finding)
            print(f"{finding.verdict:<7} {finding.name}: {finding.sentence}", flush=True)
    failed = any(finding.required and not finding.works for finding in findings)
    if as_json:
        print(json.dumps({"works": not failed, "findings": [finding.as_dict() for finding in findings]}))
    raise typer.Exit(FAILED if failed else 0)
