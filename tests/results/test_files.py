"""Files in a folder and in an object store: the same behaviour, atomic writes and clear errors."""

from __future__ import annotations

import os
import pickle
import re
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import obstore
import pytest
from obstore.exceptions import PermissionDeniedError

from rhobench.results import Store
from rhobench.results.atomic_write import STALE_SECONDS
from rhobench.results.files import StoreAccessError, StoreNotFoundError
from rhobench.results.local_files import LocalFiles
from rhobench.results.open_files import open_files


def test_files_are_written_listed_read_and_removed(place: str, tmp_path: Path) -> None:
    files = open_files(place)
    with pytest.raises(StoreNotFoundError, match="no store at"):
        files.require_store()
    assert files.list("runs") == {}
    files.write("runs/a/record.json", b"one")
    files.write("runs/a/record.json", b"second")
    files.write("runs/a/logs/events", b"")
    files.write("runs/b/model.safetensors", b"m")
    files.require_store()
    found = files.list("runs")
    sizes = {path: file.size for path, file in found.items()}
    assert sizes == {"runs/a/record.json": 6, "runs/a/logs/events": 0, "runs/b/model.safetensors": 1}
    assert abs(found["runs/a/record.json"].modified - time.time()) < 120
    listing = files.subfolders("runs", "record.json")
    assert (list(listing.found), listing.missing, listing.problems) == (["a"], ["b"], [])
    assert listing.found["a"] == found["runs/a/record.json"]
    assert files.read("runs/a/record.json") == b"second"
    contents = list(files.read_all(["runs/a/record.json", "runs/c/record.json", "runs/b/model.safetensors"]))
    assert contents[::2] == [b"second", b"m"]
    assert isinstance(contents[1], FileNotFoundError)
    files.delete("runs/a/record.json")
    files.delete("runs/a/record.json")
    with pytest.raises(FileNotFoundError):
        files.read("runs/a/record.json")

    large = tmp_path / "large"
    large.write_bytes(os.urandom(12 * 2**20))  # more than one part of an upload
    files.upload(large, "runs/a/model.safetensors")
    files.download("runs/a/model.safetensors", tmp_path / "new" / "copy")
    assert (tmp_path / "new" / "copy").read_bytes() == large.read_bytes()
    (tmp_path / "empty").touch()
    files.upload(tmp_path / "empty", "runs/a/empty")
    assert files.read("runs/a/empty") == b""


def test_create_does_not_replace_an_existing_file(place: str) -> None:
    files = open_files(place)
    assert files.create("experiments/a.json", b"first")
    assert not files.create("experiments/a.json", b"second")
    assert files.read("experiments/a.json") == b"first"


def test_of_many_creators_at_once_one_succeeds(place: str) -> None:
    def create(number: int) -> bool:
        return open_files(place).create("experiments/a.json", str(number).encode())

    with ThreadPoolExecutor(16) as pool:
        created = list(pool.map(create, range(64)))
    assert created.count(True) == 1
    assert open_files(place).read("experiments/a.json") == str(created.index(True)).encode()


@pytest.mark.parametrize("name", ["a~b", "a b", "ρ=0.1", "50%", "a#b", "a?b", "[a]"])
def test_names_are_kept_as_they_are(place: str, name: str) -> None:
    files = open_files(place)
    files.write(f"runs/{name}/record.json", b"x")
    assert list(files.list("runs")) == [f"runs/{name}/record.json"]
    assert list(files.subfolders("runs", "record.json").found) == [name]
    assert files.read(f"runs/{name}/record.json") == b"x"


def test_the_version_of_a_changed_file_differs(place: str) -> None:
    files = open_files(place)
    files.write("runs/a/record.json", b"first")
    first = files.subfolders("runs", "record.json")
    assert first.version("a") == "", "a file that is new may change within the resolution of the clock"
    first.started += 60
    assert first.version("a")
    files.write("runs/a/record.json", b"another")
    assert files.subfolders("runs", "record.json").found["a"].version != first.found["a"].version


def test_a_store_can_be_pickled(place: str) -> None:
    store = Store(place)
    store.files.write("experiments/a.json", b"x")
    assert pickle.loads(pickle.dumps(store)).files.read("experiments/a.json") == b"x"
    assert Store(store.place).files.read("experiments/a.json") == b"x"


def test_stale_files_of_killed_writers_are_hidden_and_removed(tmp_path: Path) -> None:
    files = open_files(tmp_path)
    old, new = (tmp_path / "runs" / "a" / f".record.json.{name}.tmp" for name in ("old", "new"))
    old.parent.mkdir(parents=True)
    for file in (old, new):
        file.write_text("{")
    past = time.time() - STALE_SECONDS - 1
    os.utime(old, (past, past))
    assert files.subfolders("runs", "record.json").missing == ["a"]
    files.write("runs/a/record.json", b"{}")
    assert not old.exists()
    assert new.exists(), "its writer may be alive"


def test_an_unreachable_or_missing_bucket_is_reported_at_once_in_one_sentence(s3_url, tmp_path: Path) -> None:
    missing = re.sub(r"//[^/]+/", "//bucket-that-is-not-there/", s3_url("store"))
    unreachable = "s3://bench/store?endpoint_override=127.0.0.1:9&scheme=http&region=us-east-1"
    (tmp_path / "file").touch()
    for url, kind, says in ((missing, StoreNotFoundError, "no.*bucket"), (unreachable, StoreAccessError, "reached")):
        place = url.partition("?")[0]
        for use in (
            lambda store: store.frame(),
            lambda store: store.files.write("runs/a/record.json", b""),
            lambda store: store.files.upload(tmp_path / "file", "runs/a/model.safetensors"),
        ):
            started = time.monotonic()
            with pytest.raises(kind, match=f"^{place}.*{says}.*") as error:
                use(Store(url))
            assert isinstance(error.value, ValueError)
            assert str(error.value).count(".") <= 1 + place.count(".")
            assert time.monotonic() - started < 30


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("s3://KEY123:hush@bucket/store", "AWS_ACCESS_KEY_ID.*AWS_PROFILE"),
        ("s3://hush@bucket/store", "AWS_ACCESS_KEY_ID"),
        ("s3://bucket/store?access_key=KEY123&secret_key=hush", "AWS_ACCESS_KEY_ID"),
        ("s3://bucket/store?session_token=hush", "AWS_ACCESS_KEY_ID"),
        ("gs://bucket/store?access_token=hush", "GOOGLE_APPLICATION_CREDENTIALS"),
        ("s3://bucket/store?regoin=eu", "'regoin'.*region, endpoint_override, scheme"),
        ("ftp://hush@host/store", "ftp://.*s3://, gs:// or az://"),
        ("s3://", "is not a valid location"),
        ("s3://bucket/../other", "is not a valid location"),
    ],
)
def test_a_url_with_credentials_or_mistakes_is_refused_without_repeating_them(url: str, message: str) -> None:
    with pytest.raises(StoreAccessError, match=message) as error:
        Store(url)
    assert "hush" not in str(error.value)
    assert "KEY123" not in str(error.value)


def test_denied_access_names_where_credentials_belong(s3_url, monkeypatch: pytest.MonkeyPatch) -> None:
    files = open_files(s3_url("store"))

    def denied(*arguments: object) -> None:
        raise PermissionDeniedError("Error performing GET: Server returned non-2xx status code: 403 Forbidden")

    monkeypatch.setattr(obstore, "get", denied)
    with pytest.raises(StoreAccessError, match=r"access is denied.*AWS_PROFILE"):
        files.read("runs/a/record.json")


def test_a_remote_store_has_a_name_but_no_folder(s3_url) -> None:
    store = Store(s3_url("team/ablations"))
    assert (store.name, store.is_local) == ("ablations", False)
    with pytest.raises(StoreAccessError, match="no folder on this machine"):
        store.run_dir("a")


def test_credentials_of_a_profile_are_used(s3_url, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = s3_url("store")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(StoreAccessError, match="access is denied; give credentials as"):
        open_files(url).write("runs/a/record.json", b"x")
    (tmp_path / "credentials").write_text("[lab]\naws_access_key_id = key\naws_secret_access_key = secret\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_PROFILE", "lab")
    files = open_files(url)
    files.write("runs/a/record.json", b"x")
    assert files.read("runs/a/record.json") == b"x"


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs the files of Linux whose size is 0")
def test_a_file_is_read_to_its_end_whatever_size_it_reports(tmp_path: Path) -> None:
    """As one that another process extends between its size and its content."""
    assert LocalFiles(Path("/proc/self")).read("limits").startswith(b"Limit")
    for size in (0, 1, 2**16, 2**22 + 1):
        (tmp_path / "file").write_bytes(bytes(size))
        assert len(LocalFiles(tmp_path).read("file")) == size
