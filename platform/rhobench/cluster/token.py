"""Find or create Ray's authentication token, readable by its owner only.

The secret is passed to Ray only: it is never printed, recorded or given as a command-line argument.
"""

from __future__ import annotations

import os
import secrets
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rhobench.cluster.address import ClusterError

AUTH_MODE, AUTH_TOKEN, AUTH_TOKEN_PATH = "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"
"""Ray's environment variables, which must be set on every machine of a cluster and on its clients."""

SETUP_HINT = (
    f"export {AUTH_MODE}=token and {AUTH_TOKEN_PATH}=FILE, where FILE holds the token that the cluster was started with"
)


@dataclass(frozen=True)
class Token:
    """A token and where it was found."""

    secret: str
    source: str
    """Name of the environment variable, or path of the file."""
    note: str = ""
    """Remark about the permissions of the file; empty when they are safe."""

    def __repr__(self) -> str:
        return f"Token(source={self.source!r})"  # a traceback or a log must not show the secret


def find_token(environment: Mapping[str, str] = os.environ) -> Token | None:
    """Return the token that Ray would use, or None; a file that others can read is restricted to its owner.

    Raises:
        ClusterError: the token file is empty or cannot be read.
    """
    if given := environment.get(AUTH_TOKEN, "").strip():
        return Token(given, AUTH_TOKEN)
    file = token_file(environment)
    try:
        secret = file.read_text(encoding="utf-8").strip()
        mode = file.stat().st_mode & 0o777
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise ClusterError(f"Ray's token file {file} cannot be read ({error}): {SETUP_HINT}.") from error
    if not secret:
        raise ClusterError(f"Ray's token file {file} is empty: delete it, or write the cluster's token into it.")
    if not mode & 0o077:
        return Token(secret, str(file))
    try:
        file.chmod(0o600)
    except OSError:
        return Token(secret, str(file), f"which other users of this machine can read ({mode:04o})")
    return Token(secret, str(file), f"which was readable by other users ({mode:04o}) and is now private (0600)")


def token_file(environment: Mapping[str, str] = os.environ) -> Path:
    """Path where Ray looks for a token when RAY_AUTH_TOKEN is not set."""
    return Path(environment.get(AUTH_TOKEN_PATH) or Path.home() / ".ray" / "auth_token")


def find_or_create_token(environment: Mapping[str, str] = os.environ) -> Token:
    """Return the existing token, or write a new one to a file that only its owner can read.

    Raises:
        ClusterError: the file cannot be written or read.
    """
    found = find_token(environment)
    if found is not None:
        return found
    file = token_file(environment)
    try:
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle, temporary = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")  # created with mode 0600
        try:
            with os.fdopen(handle, "w") as stream:
                stream.write(secrets.token_hex(32))  # 64 characters, as in the tokens that Ray creates
            os.link(temporary, file)  # unlike a rename, it keeps a token that another process created meanwhile
        except FileExistsError:
            pass
        finally:
            os.unlink(temporary)
    except OSError as error:
        raise ClusterError(
            f"A token for Ray cannot be written to {file} ({error}): set {AUTH_TOKEN_PATH} to a writable file."
        ) from error
    created = find_token(environment)  # read back, because another process may have been first
    assert created is not None
    return created
