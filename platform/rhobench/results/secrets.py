"""What must not get into a record, a message or a page: passwords, tokens and keys in addresses and command lines."""

from __future__ import annotations

import re
from collections.abc import Iterable

HIDDEN = "***"
"""Stands where a secret was."""

_NAME = re.compile(
    r"pass(word|wd|phrase)?$|pwd$|secret|token|credential|signature|^sig$|bearer|cookie|"
    r"(api|access|private|account|auth|encryption|license)[-_.]?key|(^|[-_.])auth$",
    re.IGNORECASE,
)
_KNOWN = re.compile(r"\b(?:A[KS]IA[0-9A-Z]{16}|hf_\w{20,}|gh[pousr]_\w{20,}|github_pat_\w{20,}|sk-[\w-]{20,})")
"""Keys that can be told by their form: AWS, Hugging Face, GitHub and others."""
_USER = re.compile(r"(?<=://)[^/@\s]*@")
_SETTING = re.compile(r"([\w.-]+)(=|:\s+)([^&;,\s]*)")


def is_secret(name: str) -> bool:
    """Whether a value under this name, of an option, a variable or a part of an address, is a secret by its name."""
    return bool(_NAME.search(name))


def without_secrets(arguments: Iterable[str]) -> list[str]:
    """A command line with ``HIDDEN`` in place of what looks like a secret.

    Hidden are the user's part of addresses, values of names that tell it (``--password X``, ``train.api_key=X``,
    ``?X-Amz-Signature=X``) and keys that can be told by their form.
    """
    cleaned, expected = [], False
    for argument in arguments:
        option = argument.startswith("-")
        cleaned.append(HIDDEN if expected and not option else _clean(argument))
        expected = option and "=" not in argument and is_secret(argument)
    return cleaned


def _clean(text: str) -> str:
    return _KNOWN.sub(HIDDEN, _SETTING.sub(_hide, _USER.sub(f"{HIDDEN}@", text)))


def _hide(setting: re.Match[str]) -> str:
    name, sign, value = setting.groups()
    return name + sign + (HIDDEN if is_secret(name) else _SETTING.sub(_hide, value))  # --set=train.api_key=X
