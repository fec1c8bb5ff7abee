"""Parse ``--address``: the Ray cluster to use."""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


class ClusterError(ValueError):
    """A cluster that cannot be reached or used, or that is too small for the runs."""


@dataclass(frozen=True)
class Address:
    """Host and port on which the head node of a cluster listens."""

    host: str
    port: int

    @property
    def is_loopback(self) -> bool:
        """Whether the address can only be reached from this machine."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"  # a name; of these, only localhost is reserved for loopback

    def __str__(self) -> str:
        # An IPv6 address contains colons, so it needs brackets before a port.
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def read_address(text: str, environment: Mapping[str, str] = os.environ) -> Address | None:
    """Parse ``--address``; None stands for a cluster that is started on this machine.

    Raises:
        ClusterError: the text is not an address, or "auto" finds no cluster.
    """
    if text == "local":
        return None
    if text != "auto":
        return _parse_host_and_port(text, f"--address {text!r}")
    if environment.get("RAY_ADDRESS"):
        return _parse_host_and_port(environment["RAY_ADDRESS"], f"RAY_ADDRESS={environment['RAY_ADDRESS']!r}")
    # The order in which Ray itself chooses its folder.
    folder = environment.get("RAY_TMPDIR") or environment.get("TMPDIR") or "/tmp"
    file = Path(folder, "ray", "ray_current_cluster")  # written by `ray start`
    if not file.is_file():
        raise ClusterError(
            f"--address auto found no Ray cluster: RAY_ADDRESS is not set and {file} does not exist. "
            "Start a cluster with `ray start --head`, give HOST:PORT, or use --address local."
        )
    return _parse_host_and_port(file.read_text().strip(), str(file))


def _parse_host_and_port(text: str, source: str) -> Address:
    if text.startswith("ray://"):
        raise ClusterError(
            f"{source} is a Ray Client address, and rhobench does not support Ray Client. "
            "Run rhobench on a node of the cluster with --address auto, or submit it with `ray job submit`."
        )
    host, _, port = text.rpartition(":")  # the last colon, because an IPv6 address contains others
    bare = host.removeprefix("[").removesuffix("]") if host.startswith("[") else host
    valid = re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?", bare) or _is_ip(bare)
    # isdigit() alone accepts digits such as "²", which int() rejects.
    if not valid or not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
        raise ClusterError(f"{source} is not an address: give local, auto or HOST:PORT, such as 10.0.0.5:6379.")
    return Address(bare, int(port))


def _is_ip(text: str) -> bool:
    try:
        return bool(ipaddress.ip_address(text))
    except ValueError:
        return False
