"""Which cluster ``--address`` means."""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


class ClusterError(ValueError):
    """A cluster that cannot be reached or used, or that can never run what was asked for."""


@dataclass(frozen=True)
class Address:
    """Where a cluster's head listens."""

    host: str
    port: int

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine is meant."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def read_address(text: str, environment: Mapping[str, str] = os.environ) -> Address | None:
    """The cluster that ``--address`` means; None: one that is started on this machine.

    Raises:
        ClusterError: the text is no address, or "auto" finds no cluster.
    """
    if text == "local":
        return None
    if text != "auto":
        return _host_and_port(text, f"--address {text!r}")
    if environment.get("RAY_ADDRESS"):
        return _host_and_port(environment["RAY_ADDRESS"], f"RAY_ADDRESS={environment['RAY_ADDRESS']!r}")
    folder = environment.get("RAY_TMPDIR") or environment.get("TMPDIR") or "/tmp"
    file = Path(folder, "ray", "ray_current_cluster")
    if not file.is_file():
        raise ClusterError(
            f"--address auto finds no Ray cluster: RAY_ADDRESS is not set and there is no {file}. "
            "Start one with `ray start --head`, give HOST:PORT, or use --address local."
        )
    return _host_and_port(file.read_text().strip(), str(file))


def _host_and_port(text: str, source: str) -> Address:
    if text.startswith("ray://"):
        raise ClusterError(
            f"{source} is an address of Ray Client, which rhobench does not use: it lacks what a sweep needs. "
            "Run rhobench on a node of the cluster with --address auto, or submit it with `ray job submit`."
        )
    host, _, port = text.rpartition(":")
    bare = host.removeprefix("[").removesuffix("]") if host.startswith("[") else host
    right = re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?", bare) or _is_ip(bare)
    if not right or not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
        raise ClusterError(f"{source} is no address: it takes local, auto or HOST:PORT, such as 10.0.0.5:6379.")
    return Address(bare, int(port))


def _is_ip(text: str) -> bool:
    try:
        return bool(ipaddress.ip_address(text))
    except ValueError:
        return False
