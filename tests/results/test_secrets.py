from __future__ import annotations

import sys

import pytest

from rhobench.results import describe_environment
from rhobench.results.secrets import without_secrets

HUSH = "hush-9f8e7d"


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        (["run", "demo", "--store", f"s3://key:{HUSH}@bucket/a"], ["run", "demo", "--store", "s3://***@bucket/a"]),
        (
            ["--store", f"https://host/a?X-Amz-Signature={HUSH}&part=2"],
            ["--store", "https://host/a?X-Amz-Signature=***&part=2"],
        ),
        (["--store", f"s3://b/a?secret_key={HUSH};region=eu"], ["--store", "s3://b/a?secret_key=***;region=eu"]),
        (["--set", f"train.token={HUSH}"], ["--set", "train.token=***"]),
        ([f"--set=train.token={HUSH}"], ["--set=train.token=***"]),
        (["--set", f"wandb.api_key={HUSH}", "--smoke"], ["--set", "wandb.api_key=***", "--smoke"]),
        ([f"--redis-password={HUSH}", "--port=1"], ["--redis-password=***", "--port=1"]),
        (["--password", HUSH, "--port", "1"], ["--password", "***", "--port", "1"]),
        (["--token", "--smoke"], ["--token", "--smoke"]),
        ([f"AWS_SECRET_ACCESS_KEY={HUSH}"], ["AWS_SECRET_ACCESS_KEY=***"]),
        (["--header", f"Authorization_token: {HUSH}"], ["--header", "Authorization_token: ***"]),
        (["x AKIAIOSFODNN7EXAMPLE y"], ["x *** y"]),
        (["--set", "model.scoring=hf_" + "a" * 30], ["--set", "model.scoring=***"]),
    ],
)
def test_secrets_on_a_command_line_are_hidden(line: list[str], shown: list[str]) -> None:
    assert without_secrets(line) == shown


@pytest.mark.parametrize(
    "argument",
    [
        *("run", "--set", "model.rho=0.1", "train.lr=2e-4", "--data", "/data/coco/tokens", "user@host"),
        *("s3://bucket/a?region=eu-west-1", "10.0.0.1:6379", "--session-name=session_1", "demo-rho0.1-seed0-0a1b2c3d"),
        "model.backbone.weights=package:efficientnet",
        "--node-id=435efd9cfc32279743dd35d7297964b59921e93ee4f5e824a73c544c",
    ],
)
def test_other_arguments_are_unchanged(argument: str) -> None:
    assert without_secrets([argument]) == [argument]


def test_the_environment_of_a_record_has_a_clean_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["rhobench", "run", "demo", "--store", f"s3://a:{HUSH}@b/c", "--token", HUSH])
    environment = describe_environment()
    assert HUSH not in str(environment)
    assert environment["argv"][:3] == ["rhobench", "run", "demo"]
