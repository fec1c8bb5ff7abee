"""Token authentication: decisions, token files, and real clusters that refuse requests without the token."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from rhobench.cluster.access import ClusterAccess, Probe, ProbeResult, choose_access, local_access, make_probe
from rhobench.cluster.address import Address, ClusterError, read_address
from rhobench.cluster.session import ray_session
from rhobench.cluster.token import Token, find_or_create_token, find_token

FAR, NEAR = Address("10.0.0.5", 6379), Address("127.0.0.1", 6379)
SECRET = "7d5c31f0a9"


def cluster(token: str | None) -> Probe:
    """Probe of a cluster that requires this token, or of an open one."""

    def probe(sent: str | None) -> ProbeResult:
        return "open" if token in (None, sent) else "denied"

    return probe


def access_to(
    address: Address, probe: Probe, mode: str | None, token: str | None, without_token: bool = False
) -> ClusterAccess:
    own = None if token is None else Token(token, "RAY_AUTH_TOKEN")
    return choose_access(address, mode, lambda: own, without_token=without_token, probe=probe)


def test_a_cluster_with_the_users_token_is_joined() -> None:
    access = access_to(FAR, cluster(SECRET), "token", SECRET)
    assert access == ClusterAccess("token", "Ray at 10.0.0.5:6379, token of RAY_AUTH_TOKEN")


@pytest.mark.parametrize(
    ("address", "probe", "mode", "token", "message"),
    [
        (FAR, cluster(None), None, None, "is open: anyone who can reach it"),
        (FAR, cluster(None), "token", SECRET, "is open: anyone who can reach it"),
        (FAR, cluster(SECRET), None, SECRET, "RAY_AUTH_MODE is not token: export RAY_AUTH_MODE=token and"),
        (FAR, cluster(SECRET), "disabled", SECRET, "RAY_AUTH_MODE is not token"),
        (FAR, cluster(SECRET), "token", None, "no token is set"),
        (FAR, cluster(SECRET), "token", "another", "rejects the token of RAY_AUTH_TOKEN"),
        (NEAR, cluster(SECRET), None, None, "requires a token, but RAY_AUTH_MODE is not token"),
        (FAR, lambda _: "unreachable", "token", SECRET, "No Ray cluster answers at 10.0.0.5:6379"),
        (FAR, cluster(SECRET), "kerberos", SECRET, "RAY_AUTH_MODE=kerberos is not supported"),
    ],
)
def test_other_clusters_are_refused(
    address: Address, probe: Probe, mode: str | None, token: str | None, message: str
) -> None:
    with pytest.raises(ClusterError) as refusal:
        access_to(address, probe, mode, token)
    assert message in str(refusal.value)
    assert SECRET not in str(refusal.value)
    assert "another" not in str(refusal.value)


def test_an_open_cluster_is_joined_on_this_machine_or_on_request() -> None:
    assert access_to(NEAR, cluster(None), None, None).mode == "disabled"
    requested = access_to(FAR, cluster(None), "token", SECRET, without_token=True)
    assert requested.mode == "disabled"
    assert "no token" in requested.description


def test_the_token_is_not_sent_to_a_cluster_that_does_not_require_one() -> None:
    sent = []

    def recording_probe(token: str | None) -> ProbeResult:
        sent.append(token)
        return "open"

    access_to(FAR, recording_probe, "token", SECRET, without_token=True)
    assert sent == [None]


def test_a_new_token_is_readable_by_its_owner_only(tmp_path: Path) -> None:
    file = tmp_path / "new" / "token"
    created = find_or_create_token({"RAY_AUTH_TOKEN_PATH": str(file)})
    assert created.secret == file.read_text()
    assert len(created.secret) == 64
    assert file.stat().st_mode & 0o777 == 0o600
    assert file.parent.stat().st_mode & 0o777 == 0o700
    assert [p.name for p in file.parent.iterdir()] == ["token"]
    assert find_or_create_token({"RAY_AUTH_TOKEN_PATH": str(file)}) == created


def test_a_token_that_others_can_read_is_made_private_with_a_note(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(SECRET + "\n")
    file.chmod(0o644)
    found = find_token({"RAY_AUTH_TOKEN_PATH": str(file)})
    assert found is not None
    assert found.secret == SECRET
    assert found.note == "which was readable by other users (0644) and is now private (0600)"
    assert file.stat().st_mode & 0o777 == 0o600
    assert SECRET not in repr(found)


@pytest.mark.parametrize(("content", "message"), [("", "is empty"), (None, "cannot be read")])
def test_a_token_file_without_a_token_is_refused(tmp_path: Path, content: str | None, message: str) -> None:
    file = tmp_path / "token"
    file.mkdir() if content is None else file.write_text(content)
    with pytest.raises(ClusterError, match=message):
        find_or_create_token({"RAY_AUTH_TOKEN_PATH": str(file)})


def test_a_token_file_that_cannot_be_created_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ClusterError, match=r"cannot be read .*RAY_AUTH_TOKEN_PATH=FILE"):
        find_or_create_token({"RAY_AUTH_TOKEN_PATH": str(tmp_path / "file" / "token")})


def test_an_open_cluster_is_started_only_on_request() -> None:
    with pytest.raises(ClusterError, match="RAY_AUTH_MODE=disabled would start an open Ray cluster"):
        local_access("disabled", without_token=False)
    assert local_access("disabled", without_token=True).mode == "disabled"


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("10.0.0.5:6379", Address("10.0.0.5", 6379)),
        ("node-3.cluster:6379", Address("node-3.cluster", 6379)),
        ("[fd00::1]:6379", Address("fd00::1", 6379)),
        ("local", None),
    ],
)
def test_address_formats(text: str, wanted: Address | None) -> None:
    read = read_address(text, {})
    assert read == wanted
    assert read is None or str(read) == text


def test_auto_reads_ray_address_or_the_cluster_of_this_machine(tmp_path: Path) -> None:
    assert read_address("auto", {"RAY_ADDRESS": "10.0.0.5:6379"}) == FAR
    with pytest.raises(ClusterError, match="found no Ray cluster"):
        read_address("auto", {"RAY_TMPDIR": str(tmp_path)})
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray" / "ray_current_cluster").write_text("127.0.0.1:6379")
    assert read_address("auto", {"RAY_TMPDIR": str(tmp_path)}) == NEAR


@pytest.mark.parametrize(("host", "wanted"), [("::1", True), ("127.8.0.1", True), ("localhost", True), ("h", False)])
def test_loopback(host: str, wanted: bool) -> None:
    assert Address(host, 1).is_loopback is wanted


@pytest.mark.ray
def test_a_local_cluster_refuses_requests_without_its_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even if Ray has been imported before, as other tests have done by then."""
    import ray

    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "token"))
    with ray_session("local") as session:
        where = read_address(ray.get_runtime_context().gcs_address)
        assert where is not None
        secret = (tmp_path / "token").read_text()
        assert [make_probe(where)(sent) for sent in (None, "another", secret)] == ["denied", "denied", "open"]
        assert session.access == f"Ray on this machine, token of {tmp_path / 'token'}"
        assert not any(secret in line for line in command_lines())
    assert "RAY_AUTH_MODE" not in os.environ


@pytest.fixture(scope="module")
def head() -> Iterator[tuple[Address, Path]]:
    """Address of the head of a cluster with a token, and the token file."""
    # A temporary folder of pytest would be too long for the paths of Ray's sockets.
    with tempfile.TemporaryDirectory(prefix="rhobench-") as name, socket.socket() as free:
        folder = Path(name)
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        token = folder / "token"
        find_or_create_token({"RAY_AUTH_TOKEN_PATH": str(token)})
        own = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token), "RAY_TMPDIR": name}
        start = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", f"--port={port}", "--num-cpus=1"]
        start += ["--include-dashboard=false", "--disable-usage-stats", "--node-ip-address=127.0.0.1", "--block"]
        with open(folder / "log", "wb") as log:
            process = subprocess.Popen(start, env=os.environ | own, stdout=log, stderr=log)
        address = Address("127.0.0.1", port)
        deadline = time.monotonic() + 90
        while make_probe(address)(token.read_text()) != "open":
            assert process.poll() is None, (folder / "log").read_text()
            assert time.monotonic() < deadline, (folder / "log").read_text()
            time.sleep(0.5)
        yield address, token
        process.terminate()
        process.wait(timeout=60)


@pytest.mark.ray
def test_a_running_cluster_is_joined_only_with_its_token(
    head: tuple[Address, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address, token = head
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "other"))
    find_or_create_token()
    started = time.monotonic()
    with pytest.raises(ClusterError, match="rejects the token of"), ray_session(str(address)):
        pass
    assert time.monotonic() - started < 10, "Ray itself would take 20 seconds"
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(token))
    with ray_session(str(address)) as session:
        assert session.cpus == 1
        assert session.access == f"Ray at {address}, token of {token}"


def command_lines() -> list[str]:
    """Command lines of all visible processes."""
    lines = []
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            lines.append(process.read_text(errors="replace"))
        except OSError:  # the process has ended
            continue
    return lines
