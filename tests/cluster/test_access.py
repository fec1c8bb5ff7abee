"""No cluster without a token: what is decided, what becomes of token files, and that Ray really is closed to others."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from rhobench.cluster.access import Access, Answer, Ask, asking, decide, start_access
from rhobench.cluster.address import Address, ClusterError, read_address
from rhobench.cluster.session import ray_session
from rhobench.cluster.token import Token, find_token, make_token

FAR, NEAR = Address("10.0.0.5", 6379), Address("127.0.0.1", 6379)
SECRET = "7d5c31f0a9"


def cluster(token: str | None) -> Ask:
    """One that wants this token, or lets everybody in."""

    def ask(sent: str | None) -> Answer:
        return "open" if token in (None, sent) else "denied"

    return ask


def decided(where: Address, ask: Ask, mode: str | None, token: str | None, without_token: bool = False) -> Access:
    own = None if token is None else Token(token, "RAY_AUTH_TOKEN")
    return decide(where, mode, lambda: own, without_token=without_token, ask=ask)


def test_a_cluster_with_our_token_is_joined() -> None:
    access = decided(FAR, cluster(SECRET), "token", SECRET)
    assert access == Access("token", "Ray at 10.0.0.5:6379, token of RAY_AUTH_TOKEN")


@pytest.mark.parametrize(
    ("where", "ask", "mode", "token", "wanted"),
    [
        (FAR, cluster(None), None, None, "lets everybody in"),
        (FAR, cluster(None), "token", SECRET, "lets everybody in"),
        (FAR, cluster(SECRET), None, SECRET, "RAY_AUTH_MODE is not token: export RAY_AUTH_MODE=token and"),
        (FAR, cluster(SECRET), "disabled", SECRET, "RAY_AUTH_MODE is not token"),
        (FAR, cluster(SECRET), "token", None, "no token is set"),
        (FAR, cluster(SECRET), "token", "another", "refuses the token of RAY_AUTH_TOKEN"),
        (NEAR, cluster(SECRET), None, None, "demands a token"),
        (FAR, lambda _: "silent", "token", SECRET, "No Ray cluster answers at 10.0.0.5:6379"),
        (FAR, cluster(SECRET), "kerberos", SECRET, "RAY_AUTH_MODE=kerberos is not known"),
    ],
)
def test_others_are_refused(where: Address, ask: Ask, mode: str | None, token: str | None, wanted: str) -> None:
    with pytest.raises(ClusterError) as refusal:
        decided(where, ask, mode, token)
    assert wanted in str(refusal.value)
    assert SECRET not in str(refusal.value)
    assert "another" not in str(refusal.value)


def test_an_open_cluster_is_joined_on_this_machine_or_when_told_so() -> None:
    assert decided(NEAR, cluster(None), None, None).mode == "disabled"
    told = decided(FAR, cluster(None), "token", SECRET, without_token=True)
    assert told.mode == "disabled"
    assert "without a token" in told.sentence


def test_the_token_is_not_sent_to_a_cluster_that_does_not_ask_for_one() -> None:
    sent = []

    def listens(token: str | None) -> Answer:
        sent.append(token)
        return "open"

    decided(FAR, listens, "token", SECRET, without_token=True)
    assert sent == [None]


def test_a_new_token_can_be_read_by_its_owner_alone(tmp_path: Path) -> None:
    file = tmp_path / "new" / "token"
    made = make_token({"RAY_AUTH_TOKEN_PATH": str(file)})
    assert made.secret == file.read_text()
    assert len(made.secret) == 64
    assert file.stat().st_mode & 0o777 == 0o600
    assert file.parent.stat().st_mode & 0o777 == 0o700
    assert [p.name for p in file.parent.iterdir()] == ["token"]
    assert make_token({"RAY_AUTH_TOKEN_PATH": str(file)}) == made


def test_a_token_that_others_can_read_is_closed_to_them_and_told(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(SECRET + "\n")
    file.chmod(0o644)
    found = find_token({"RAY_AUTH_TOKEN_PATH": str(file)})
    assert found is not None
    assert found.secret == SECRET
    assert found.note == "which others could read (0644) until now (0600)"
    assert file.stat().st_mode & 0o777 == 0o600
    assert SECRET not in repr(found)


@pytest.mark.parametrize(("content", "wanted"), [("", "is empty"), (None, "cannot be read")])
def test_a_token_file_without_a_token_is_refused(tmp_path: Path, content: str | None, wanted: str) -> None:
    file = tmp_path / "token"
    file.mkdir() if content is None else file.write_text(content)
    with pytest.raises(ClusterError, match=wanted):
        make_token({"RAY_AUTH_TOKEN_PATH": str(file)})


def test_a_token_that_cannot_be_kept_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ClusterError, match="RAY_AUTH_TOKEN_PATH"):
        make_token({"RAY_AUTH_TOKEN_PATH": str(tmp_path / "file" / "token")})


def test_ray_is_not_started_open_unless_told_so() -> None:
    with pytest.raises(ClusterError, match="RAY_AUTH_MODE=disabled would start"):
        start_access("disabled", without_token=False)
    assert start_access("disabled", without_token=True).mode == "disabled"


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("10.0.0.5:6379", Address("10.0.0.5", 6379)),
        ("node-3.cluster:6379", Address("node-3.cluster", 6379)),
        ("[fd00::1]:6379", Address("fd00::1", 6379)),
        ("local", None),
    ],
)
def test_addresses_are_read(text: str, wanted: Address | None) -> None:
    read = read_address(text, {})
    assert read == wanted
    assert read is None or str(read) == text


def test_auto_is_the_variable_or_the_cluster_of_this_machine(tmp_path: Path) -> None:
    assert read_address("auto", {"RAY_ADDRESS": "10.0.0.5:6379"}) == FAR
    with pytest.raises(ClusterError, match="finds no Ray cluster"):
        read_address("auto", {"RAY_TMPDIR": str(tmp_path)})
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray" / "ray_current_cluster").write_text("127.0.0.1:6379")
    assert read_address("auto", {"RAY_TMPDIR": str(tmp_path)}) == NEAR


@pytest.mark.parametrize(("host", "wanted"), [("::1", True), ("127.8.0.1", True), ("localhost", True), ("h", False)])
def test_loopback(host: str, wanted: bool) -> None:
    assert Address(host, 1).is_loopback is wanted


@pytest.mark.ray
def test_a_cluster_of_our_own_is_closed_to_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where Ray was imported before: `ray_session` has been by other tests."""
    import ray

    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "token"))
    with ray_session("local") as session:
        where = read_address(ray.get_runtime_context().gcs_address)
        assert where is not None
        secret = (tmp_path / "token").read_text()
        assert [asking(where)(sent) for sent in (None, "another", secret)] == ["denied", "denied", "open"]
        assert session.access == f"Ray on this machine, token of {tmp_path / 'token'}"
        assert not any(secret in line for line in command_lines())
    assert "RAY_AUTH_MODE" not in os.environ


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Address, Path]]:
    """The head of a cluster with a token, and the file of that token."""
    folder = tmp_path_factory.mktemp("head")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    token = folder / "token"
    make_token({"RAY_AUTH_TOKEN_PATH": str(token)})
    own = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token), "RAY_TMPDIR": str(folder)}
    start = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", f"--port={port}", "--num-cpus=1"]
    start += ["--include-dashboard=false", "--disable-usage-stats", "--node-ip-address=127.0.0.1", "--block"]
    with open(folder / "log", "wb") as log:
        process = subprocess.Popen(start, env=os.environ | own, stdout=log, stderr=log)
    address = Address("127.0.0.1", port)
    deadline = time.monotonic() + 90
    while asking(address)(token.read_text()) != "open":
        assert process.poll() is None, (folder / "log").read_text()
        assert time.monotonic() < deadline, (folder / "log").read_text()
        time.sleep(0.5)
    yield address, token
    process.terminate()
    process.wait(timeout=60)


@pytest.mark.ray
def test_a_running_cluster_is_joined_with_its_token_alone(
    head: tuple[Address, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address, token = head
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "other"))
    make_token()
    started = time.monotonic()
    with pytest.raises(ClusterError, match="refuses the token of"), ray_session(str(address)):
        pass
    assert time.monotonic() - started < 10, "Ray itself would take 20 seconds"
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(token))
    with ray_session(str(address)) as session:
        assert session.cpus == 1
        assert session.access == f"Ray at {address}, token of {token}"


def command_lines() -> list[str]:
    """Of every process that can be seen."""
    lines = []
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            lines.append(process.read_text(errors="replace"))
        except OSError:  # it has ended
            continue
    return lines
