"""Ray's token: found where Ray looks for it, made where there is none, and closed to everybody else.

It is given to Ray alone: never printed, recorded or passed as an argument.
"""

from __future__ import annotations

import os
import secrets
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rhobench.cluster.address import ClusterError

MODE, TOKEN, TOKEN_PATH = "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"
"""Ray's variables, set on every machine of a cluster and on those that use it."""

HOW_TO_SET_BOTH = (
    f"export {MODE}=token and {TOKEN_PATH}=FILE, where FILE holds the token that the cluster was started with"
)


@dataclass(frozen=True)
class Token:
    """A token, where it comes from, and what was done to its file."""

    secret: str
    source: str
    note: str = ""

    def __repr__(self) -> str:
        return f"Token(source={self.source!r})"  # a traceback or a log must not show the secret


def find_token(environment: Mapping[str, str] = os.environ) -> Token | None:
    """The token that Ray would use. A file that others can read is closed to them; None: there is no token.

    Raises:
        ClusterError: the file holds none, or cannot be read.
    """
    if given := environment.get(TOKEN, "").strip():
        return Token(given, TOKEN)
    file = token_file(environment)
    try:
        secret = file.read_text(encoding="utf-8").strip()
        mode = file.stat().st_mode & 0o777
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise ClusterError(f"Ray's token cannot be read from {file} ({error}): {HOW_TO_SET_BOTH}.") from error
    if not secret:
        raise ClusterError(f"Ray's token file {file} is empty: delete it, or write the cluster's token into it.")
    if not mode & 0o077:
        return Token(secret, str(file))
    try:
        file.chmod(0o600)
    except OSError:
        return Token(secret, str(file), f"which others on this machine can read ({mode:04o})")
    return Token(secret, str(file), f"which others could read ({mode:04o}) until now (0600)")


def token_file(environment: Mapping[str, str] = os.environ) -> Path:
    """Where Ray looks for a token that is not in a variable."""
    return Path(environment.get(TOKEN_PATH) or Path.home() / ".ray" / "auth_token")


def make_token(environment: Mapping[str, str] = os.environ) -> Token:
    """The token that there is, or a new one in a file that its owner alone can read.

    Raises:
        ClusterError: the file cannot be written or read.
    """
    found = find_token(environment)
    if found is not None:
        return found
    file = token_file(environment)
    try:
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle, temporary = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")  # made with mode 0600
        try:
            with os.fdopen(handle, "w") as written:
                written.write(secrets.token_hex(32))
            os.link(temporary, file)  # unlike a rename it leaves the token of somebody who was quicker
        except FileExistsError:
            pass
        finally:
            os.unlink(temporary)
    except OSError as error:
        raise ClusterError(
            f"No token for Ray can be kept in {file} ({error}): set {TOKEN_PATH} to a file of yours."
        ) from error
    made = find_token(environment)
    assert made is not None
    return made
