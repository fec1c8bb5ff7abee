"""Token authentication for Ray clusters: anyone who can reach an open cluster can run code on it.

Ray's servers listen on all network interfaces, even for a cluster on one machine. Token authentication protects them:
RAY_AUTH_MODE=token, and the same token on every machine, read from RAY_AUTH_TOKEN, the file RAY_AUTH_TOKEN_PATH, or
~/.ray/auth_token, in this order.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rhobench.cluster.address import Address, ClusterError
from rhobench.cluster.token import AUTH_MODE, SETUP_HINT, Token, find_or_create_token, find_token

ProbeResult = Literal["open", "denied", "unreachable"]
"""Outcome of a request to a cluster: executed, refused because of its token, or not answered."""

Probe = Callable[[str | None], ProbeResult]
"""Sends a request to a cluster, with the given token or without one."""

PROBE_TIMEOUT_SECONDS = 5.0
"""Time allowed for an answer; a running head node takes milliseconds."""


@dataclass(frozen=True)
class ClusterAccess:
    """How to authenticate to a cluster."""

    mode: Literal["token", "disabled"]
    """Value of RAY_AUTH_MODE."""
    description: str
    """Cluster and its protection, for the user."""


def choose_access(
    address: Address, mode: str | None, find_token: Callable[[], Token | None], *, without_token: bool, probe: Probe
) -> ClusterAccess:
    """Decide how to authenticate to a running cluster.

    Args:
        address: of the head node.
        mode: RAY_AUTH_MODE as the user has set it.
        find_token: returns the user's token, which is sent only to a cluster that refused a request without one.
        without_token: whether the user accepts a cluster that is open to everyone.
        probe: sends a request to the cluster.

    Raises:
        ClusterError: the cluster does not answer or is open to everyone, or the token is missing or wrong.
    """
    known = None if mode is None else mode.lower()
    if known not in (None, "token", "disabled"):
        raise ClusterError(f"{AUTH_MODE}={mode} is not supported by Ray: set it to token or disabled.")
    result = probe(None)
    if result == "unreachable":
        raise ClusterError(
            f"No Ray cluster answers at {address}. Start one with `ray start --head`, or use --address local."
        )
    if result == "open":
        if not without_token and not address.is_loopback:
            raise ClusterError(
                f"The Ray cluster at {address} is open: anyone who can reach it can run code on it. Start it with "
                f"{AUTH_MODE}=token and a token, or pass --without-token if only you can reach it."
            )
        return ClusterAccess("disabled", f"Ray at {address}, no token: anyone who can reach it can run code on it")
    token = find_token() if known == "token" else None
    if token is None:
        missing = f"{AUTH_MODE} is not token" if known != "token" else "no token is set"
        raise ClusterError(f"The Ray cluster at {address} requires a token, but {missing}: {SETUP_HINT}.")
    result = probe(token.secret)
    if result != "open":
        raise ClusterError(f"The Ray cluster at {address} rejects the token of {token.source}: {SETUP_HINT}.")
    return ClusterAccess("token", f"Ray at {address}, {_describe(token)}")


def local_access(mode: str | None, *, without_token: bool) -> ClusterAccess:
    """Decide how a cluster that is started on this machine is protected; creates a token if there is none.

    Raises:
        ClusterError: RAY_AUTH_MODE disables authentication, or the token cannot be stored.
    """
    if without_token:
        return ClusterAccess(
            "disabled", "Ray on this machine, no token: anyone who can reach its ports can run code on it"
        )
    if mode is not None and mode.lower() != "token":
        raise ClusterError(
            f"{AUTH_MODE}={mode} would start an open Ray cluster, on which anyone in the network can run code: unset "
            "it, or pass --without-token if only you can reach this machine."
        )
    return ClusterAccess("token", f"Ray on this machine, {_describe(find_or_create_token())}")


def _describe(token: Token) -> str:
    return f"token of {token.source}" + (f", {token.note}" if token.note else "")


@contextmanager
def cluster_access(address: Address | None, *, without_token: bool) -> Iterator[ClusterAccess]:
    """Choose how to authenticate and configure Ray accordingly for the duration of the block.

    Raises:
        ClusterError: see ``choose_access`` and ``local_access``.
    """
    previous = os.environ.get(AUTH_MODE)
    if address is None:
        access = local_access(previous, without_token=without_token)
    else:
        probe = make_probe(address)
        access = choose_access(address, previous, find_token, without_token=without_token, probe=probe)
    # In the environment, because ray.init has no parameter for it and the processes that it starts inherit it.
    os.environ[AUTH_MODE] = access.mode
    _reload_ray_config()
    try:
        yield access
    finally:
        if previous is None:
            del os.environ[AUTH_MODE]
        else:
            os.environ[AUTH_MODE] = previous
        _reload_ray_config()


def _reload_ray_config() -> None:
    """Make Ray read its environment variables again; otherwise it reads them only when it is imported."""
    from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined]

    Config.initialize("")
    AuthenticationTokenLoader.instance().reset_cache()


def make_probe(address: Address) -> Probe:
    """Return a probe of the head node at ``address``.

    ``ray.init`` cannot serve as one: it retries for 20 seconds and reports a refused token as a failed connection.
    """
    import grpc

    def probe(token: str | None) -> ProbeResult:
        metadata = [("authorization", f"Bearer {token}")] if token else None
        with _open_channel(address) as channel:
            check_alive = channel.unary_unary("/ray.rpc.NodeInfoGcsService/CheckAlive")
            try:
                # b"" is an empty request: protobuf encodes a message whose fields all have their defaults as no bytes.
                check_alive(b"", timeout=PROBE_TIMEOUT_SECONDS, metadata=metadata)
            except grpc.RpcError as error:
                denied = (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED)
                return "denied" if error.code() in denied else "unreachable"
        return "open"

    return probe


def _open_channel(address: Address) -> Any:
    import grpc

    # Like Ray's own channels: gRPC would otherwise look for the cluster behind the proxy of http_proxy.
    options = [("grpc.enable_http_proxy", 0)]
    if os.environ.get("RAY_USE_TLS", "0").lower() not in ("1", "true"):
        return grpc.insecure_channel(str(address), options)
    # In the order of grpc's parameters. Ray's TLS is mutual, so clients present the key and certificate, too.
    names = ("RAY_TLS_CA_CERT", "RAY_TLS_SERVER_KEY", "RAY_TLS_SERVER_CERT")
    try:
        credentials = grpc.ssl_channel_credentials(*(Path(os.environ[name]).read_bytes() for name in names))
    except (KeyError, OSError) as error:
        raise ClusterError(f"RAY_USE_TLS is set, but {', '.join(names)} do not all name a file ({error}).") from error
    return grpc.secure_channel(str(address), credentials, options)
