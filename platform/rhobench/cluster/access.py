"""Who may use a Ray cluster. Whoever reaches one can run code on it, so none is started or joined without its token.

Ray's servers listen on every interface, those of a cluster on one machine included. What protects them is Ray's token
authentication: RAY_AUTH_MODE=token, and the same token on every machine (RAY_AUTH_TOKEN, the file RAY_AUTH_TOKEN_PATH,
or ~/.ray/auth_token, in this order).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rhobench.cluster.address import Address, ClusterError
from rhobench.cluster.token import HOW_TO_SET_BOTH, MODE, Token, find_token, make_token

Answer = Literal["open", "denied", "silent"]
"""What a cluster says to a request: it is carried out, it is refused for its token, or nobody answers."""

Ask = Callable[[str | None], Answer]
"""Puts a request with this token, or without one, to the cluster."""


@dataclass(frozen=True)
class Access:
    """How a cluster is used."""

    mode: Literal["token", "disabled"]
    sentence: str
    """For the user: which cluster, and what protects it."""


def decide(
    address: Address, mode: str | None, token: Callable[[], Token | None], *, without_token: bool, ask: Ask
) -> Access:
    """Whether, and how, a running cluster may be joined.

    Args:
        address: of its head.
        mode: RAY_AUTH_MODE as the user has set it.
        token: finds the user's token. It is sent only to a cluster that has refused a request without one.
        without_token: the user accepts a cluster that everybody can use.
        ask: puts a request to the cluster.

    Raises:
        ClusterError: nobody answers, the cluster is open to everybody, or the token is missing or wrong.
    """
    known = None if mode is None else mode.lower()
    if known not in (None, "token", "disabled"):
        raise ClusterError(f"{MODE}={mode} is not known to Ray: it is token or disabled.")
    answer = ask(None)
    if answer == "silent":
        raise ClusterError(
            f"No Ray cluster answers at {address}. Start one with `ray start --head`, or use --address local."
        )
    if answer == "open":
        if not without_token and not address.is_loopback:
            raise ClusterError(
                f"The Ray cluster at {address} lets everybody in who reaches it, and run any code: start it with "
                f"{MODE}=token and a token, or say --without-token where only you can reach it."
            )
        return Access("disabled", f"Ray at {address}, without a token: whoever reaches it can run code on it")
    found = token() if known == "token" else None
    if found is None:
        lacks = f"{MODE} is not token" if known != "token" else "no token is set"
        raise ClusterError(f"The Ray cluster at {address} demands a token, and {lacks}: {HOW_TO_SET_BOTH}.")
    answer = ask(found.secret)
    if answer != "open":
        raise ClusterError(f"The Ray cluster at {address} refuses the token of {found.source}: {HOW_TO_SET_BOTH}.")
    return Access("token", f"Ray at {address}, {_protected_by(found)}")


def start_access(mode: str | None, *, without_token: bool) -> Access:
    """How a cluster that is started on this machine is protected; a token is made where there is none.

    Raises:
        ClusterError: RAY_AUTH_MODE says that it must not be, or the token cannot be kept.
    """
    if without_token:
        return Access("disabled", "Ray on this machine, without a token: whoever reaches its ports can run code on it")
    if mode is not None and mode.lower() != "token":
        raise ClusterError(
            f"{MODE}={mode} would start a Ray cluster that everybody on the network can run code on: unset it, or say "
            "--without-token where only you can reach this machine."
        )
    return Access("token", f"Ray on this machine, {_protected_by(make_token())}")


def _protected_by(token: Token) -> str:
    return f"token of {token.source}" + (f", {token.note}" if token.note else "")


@contextmanager
def access_to(address: Address | None, *, without_token: bool) -> Iterator[Access]:
    """Settle how the cluster is used, and tell Ray for the duration of the block.

    Raises:
        ClusterError: it must not be used this way.
    """
    before = os.environ.get(MODE)
    if address is None:
        access = start_access(before, without_token=without_token)
    else:
        ask = asking(address)
        access = decide(address, before, find_token, without_token=without_token, ask=ask)
    os.environ[MODE] = access.mode
    _reread()
    try:
        yield access
    finally:
        if before is None:
            del os.environ[MODE]
        else:
            os.environ[MODE] = before
        _reread()


def _reread() -> None:
    """Ray reads these variables when it is imported, and never again: a process that sets them later must say so."""
    from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined]

    Config.initialize("")
    AuthenticationTokenLoader.instance().reset_cache()


def asking(address: Address) -> Ask:
    """Requests to the head at this address. Ray itself would try for 20 seconds, and call a refusal no connection."""
    import grpc

    def ask(token: str | None) -> Answer:
        sent = [("authorization", f"Bearer {token}")] if token else None
        with _channel(address) as channel:
            alive = channel.unary_unary("/ray.rpc.NodeInfoGcsService/CheckAlive")
            try:
                alive(b"", timeout=ANSWER_SECONDS, metadata=sent)
            except grpc.RpcError as error:
                denied = (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED)
                return "denied" if error.code() in denied else "silent"
        return "open"

    return ask


ANSWER_SECONDS = 5.0
"""A head that is there answers in milliseconds."""


def _channel(address: Address) -> Any:
    import grpc

    options = [("grpc.enable_http_proxy", 0)]
    if os.environ.get("RAY_USE_TLS", "0").lower() not in ("1", "true"):
        return grpc.insecure_channel(str(address), options)
    names = ("RAY_TLS_CA_CERT", "RAY_TLS_SERVER_KEY", "RAY_TLS_SERVER_CERT")
    try:
        credentials = grpc.ssl_channel_credentials(*(Path(os.environ[name]).read_bytes() for name in names))
    except (KeyError, OSError) as error:
        raise ClusterError(f"RAY_USE_TLS is set, but {', '.join(names)} do not all name a file ({error}).") from error
    return grpc.secure_channel(str(address), credentials, options)
