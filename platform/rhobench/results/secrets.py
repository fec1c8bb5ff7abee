"""Removal of passwords, tokens and keys from text that records, messages and pages repeat."""

from __future__ import annotations

import re
from collections.abc import Iterable

HIDDEN = "***"
"""Replacement for a secret."""

# "sig" is the signature in the query of an Azure URL.
_SECRET_NAME = re.compile(
    r"pass(word|wd|phrase)?$|pwd$|secret|token|credential|signature|^sig$|bearer|cookie|"
    r"(api|access|private|account|auth|encryption|license)[-_.]?key|(^|[-_.])auth$",
    re.IGNORECASE,
)
_KNOWN_KEY = re.compile(r"\b(?:A[KS]IA[0-9A-Z]{16}|hf_\w{20,}|gh[pousr]_\w{20,}|github_pat_\w{20,}|sk-[\w-]{20,})")
"""Keys with a recognisable format: those of AWS, Hugging Face, GitHub and others."""
_USER = re.compile(r"(?<=://)[^/@\s]*@")
_SETTING = re.compile(r"([\w.-]+)(=|:\s+)([^&;,\s]*)")


def is_secret(name: str) -> bool:
    """Whether the name of an option, a variable or a part of a URL indicates a secret value."""
    return bool(_SECRET_NAME.search(name))


def without_secrets(arguments: Iterable[str]) -> list[str]:
    """A command line with ``HIDDEN`` in place of everything that looks like a secret.

    Replaced are the user part of URLs, values with a secret name (``--password X``, ``train.api_key=X``,
    ``?X-Amz-Signature=X``) and keys with a recognisable format.
    """
    cleaned, value_is_secret = [], False
    for argument in arguments:
        is_option = argument.startswith("-")
        # After a switch without a value, the next option must stay readable.
        cleaned.append(HIDDEN if value_is_secret and not is_option else _clean(argument))
        value_is_secret = is_option and "=" not in argument and is_secret(argument)
    return cleaned


def _clean(text: str) -> str:
    return _KNOWN_KEY.sub(HIDDEN, _SETTING.sub(_hide_value, _USER.sub(f"{HIDDEN}@", text)))


def _hide_value(setting: re.Match[str]) -> str:
    name, separator, value = setting.groups()
    # A setting may be nested in the value of another: --set=train.api_key=X
    return name + separator + (HIDDEN if is_secret(name) else _SETTING.sub(_hide_value, value))
