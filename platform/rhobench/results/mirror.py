"""The local folder of a run: the one in a local store, or a scratch folder that is uploaded to a bucket continuously.

Training code only knows local files. If the store is a bucket, it works in a scratch folder: checkpoints of the run are
downloaded first, and files that the training writes are uploaded while it runs.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from rhobench.config.phrases import listed
from rhobench.results.files import Files, StoreAccessError, StoreNotFoundError
from rhobench.results.record import FILE_NAME
from rhobench.results.store import Store
from rhobench.results.text import is_file_name

DOWNLOADED = ("model.safetensors", FILE_NAME)
"""Files that are downloaded in addition to checkpoints, because measuring a trained model needs them."""

CHECKPOINT = "checkpoint-"
"""Prefix of the names of files that are removed from the store when they are removed locally."""

POLL_SECONDS = 1.0
"""Seconds between two scans of the folder."""

REUPLOAD_SECONDS = 60.0
"""Shortest time in seconds between two uploads of a file that keeps growing, such as a log."""

MAX_ATTEMPTS = 6
"""Attempts at the final upload, with exponentially growing pauses."""

_FAILURES = (OSError, StoreAccessError, StoreNotFoundError)


class MirrorError(ValueError):
    """Files of a run that could not be uploaded."""


@contextmanager
def mirrored(
    store: Store, run_id: str, scratch: Path, *, upload: bool = True, poll_seconds: float = POLL_SECONDS
) -> Iterator[Path]:
    """Provide the folder of a run for reading and writing inside the block.

    In a local store this is ``store.run_dir(run_id)`` itself. Otherwise it is a folder below ``scratch`` with the
    checkpoints, the model and the record that the store has. A background thread uploads every complete file (not
    hidden, not ".tmp", unchanged for ``poll_seconds``), and removes checkpoints from the store that were removed
    locally. The record is uploaded last, at the end of the block, so that every file it refers to exists; then the
    folder is removed. A killed process loses the files of its last seconds; the next one on the same machine continues
    with its folder.

    Args:
        store: store of the run.
        run_id: id of the run; no other process may write it.
        scratch: local folder for copies.
        upload: False for processes that only read; they get a private copy, which is removed without an upload.
        poll_seconds: seconds between two scans of the folder.

    Raises:
        MirrorError: at the end of the block, if files could not be uploaded; the folder is then kept.
        StoreAccessError, StoreNotFoundError: at the beginning, if the store cannot be read.
    """
    if store.is_local:
        yield store.run_dir(run_id)
        return
    remote = f"runs/{run_id}"
    scratch.mkdir(parents=True, exist_ok=True)
    if not upload:
        with tempfile.TemporaryDirectory(dir=scratch, prefix=f"{run_id}.") as copy:
            _download(store.files, remote, Path(copy))
            yield Path(copy)
        return
    # Stores may hold runs with the same id.
    place = hashlib.sha256(store.place.partition("?")[0].encode()).hexdigest()[:8]
    folder = scratch / place / run_id
    folder.mkdir(parents=True, exist_ok=True)
    downloaded = _download(store.files, remote, folder)
    uploader = _Uploader(files=store.files, folder=folder, remote=remote)
    # What has just been downloaded need not be uploaded again.
    uploader.uploaded = {name: seen for name, seen in uploader.scan().items() if name in downloaded}
    uploader.remote_checkpoints = {name for name in downloaded if name.startswith(CHECKPOINT)}
    thread = threading.Thread(target=uploader.run, args=(poll_seconds,), name=f"upload of {run_id}", daemon=True)
    thread.start()
    try:
        yield folder
    except BaseException as error:  # an interrupted run is continued from the last checkpoint in the store
        uploader.finish(thread)
        if uploader.error:  # the exception that ended the block takes precedence
            error.add_note(uploader.describe_failure())
        raise
    uploader.finish(thread)
    if uploader.error:
        raise MirrorError(uploader.describe_failure()) from uploader.error
    shutil.rmtree(folder)


def _download(files: Files, remote: str, folder: Path) -> set[str]:
    """Download what continuing or measuring a run needs; return the names of the files equal in both places.

    The name of a checkpoint contains the hash of its content, so an existing one is not downloaded again. Checkpoints
    that only this machine has were left by a killed training and are kept; every other local file is older than the
    store.
    """
    for old in folder.iterdir():
        if not old.name.startswith(CHECKPOINT):
            shutil.rmtree(old) if old.is_dir() and not old.is_symlink() else old.unlink()
    remote_files = {path.removeprefix(f"{remote}/"): found for path, found in files.list(remote).items()}
    wanted = {
        name for name in remote_files if name in DOWNLOADED or (name.startswith(CHECKPOINT) and is_file_name(name))
    }
    for name in wanted:
        file = folder / name
        if not file.exists() or file.stat().st_size != remote_files[name].size:
            files.download(f"{remote}/{name}", file)
    return wanted


@dataclass(frozen=True)
class _FileState:
    """State of a file in one scan, by which changes are detected."""

    size: int
    modified_ns: int
    inode: int


@dataclass(kw_only=True)
class _Uploader:
    """Uploads the files of a local folder to the folder of a run in a store."""

    files: Files
    folder: Path
    remote: str
    remote_checkpoints: set[str] = field(default_factory=set)
    """Names of the checkpoints that the store has."""
    uploaded: dict[str, _FileState] = field(default_factory=dict)
    """State of each file when it was last uploaded, by path in the folder."""
    uploaded_at: dict[str, float] = field(default_factory=dict)
    """Monotonic time of the last upload of each file, by path in the folder."""
    error: Exception | None = None
    """Why the last attempt could not upload or remove a file; None after a success."""
    ended: threading.Event = field(default_factory=threading.Event)
    """Set when the block of ``mirrored`` has ended."""

    def run(self, poll_seconds: float) -> None:
        """Upload files that have stopped changing, except the record, until ``ended`` is set."""
        before: dict[str, _FileState] = {}
        while not self.ended.wait(poll_seconds):
            now = self.scan()
            stable = {name: seen for name, seen in now.items() if before.get(name) == seen and name != FILE_NAME}
            before = now
            succeeded = self._upload({name: seen for name, seen in stable.items() if self._is_due(name)})
            # A run without a local checkpoint has ended: the store keeps the last one until it has the record.
            if succeeded and any(name in self.remote_checkpoints for name in now):
                self._remove_checkpoints(now)

    def finish(self, thread: threading.Thread) -> None:
        """Stop the thread, upload the remaining files, the record last, and remove obsolete checkpoints.

        ``error`` is None if all succeeded.
        """
        self.ended.set()
        thread.join()
        for attempt in range(MAX_ATTEMPTS):
            time.sleep(2.0**attempt / 4 if attempt else 0)
            now = self.scan()
            record = {FILE_NAME: now[FILE_NAME]} if FILE_NAME in now else {}
            rest = {name: seen for name, seen in now.items() if name not in record}
            if self._upload(rest) and self._upload(record) and self._remove_checkpoints(now):
                self.error = None
                return

    def scan(self) -> dict[str, _FileState]:
        """State of every file to upload, by its path in the folder."""
        found = {}
        for parent, folders, names in os.walk(self.folder):
            # In place, so that os.walk does not enter hidden folders
            folders[:] = [name for name in folders if not name.startswith(".")]
            for name in names:
                if name.startswith(".") or name.endswith(".tmp"):
                    continue
                file = os.path.join(parent, name)
                try:
                    status = os.lstat(file)
                except FileNotFoundError:  # removed meanwhile
                    continue
                if stat.S_ISREG(status.st_mode):
                    path = Path(file).relative_to(self.folder).as_posix()
                    found[path] = _FileState(status.st_size, status.st_mtime_ns, status.st_ino)
        return found

    def describe_failure(self) -> str:
        """Which files could not be uploaded, and where they are kept."""
        names = sorted(name for name, seen in self.scan().items() if self.uploaded.get(name) != seen)
        return (
            f"{listed(names) or 'Some changes'} of {self.remote} could not be uploaded in {MAX_ATTEMPTS} attempts: "
            f"{self.error} The files are kept in {self.folder}. Copy them to the store, {FILE_NAME} last, or run the "
            "same command again, which continues from the last checkpoint in the store."
        )

    def _is_due(self, name: str) -> bool:
        return time.monotonic() - self.uploaded_at.get(name, -REUPLOAD_SECONDS) >= REUPLOAD_SECONDS

    def _upload(self, files: dict[str, _FileState]) -> bool:
        """Upload the files that the store lacks; return whether all succeeded."""
        for name, seen in sorted(files.items()):
            if self.uploaded.get(name) == seen:
                continue
            try:
                self.files.upload(self.folder / name, f"{self.remote}/{name}")
            except FileNotFoundError:  # removed meanwhile: a checkpoint that a newer one replaced
                continue
            except _FAILURES as error:
                self.error = error
                return False
            self.uploaded[name], self.uploaded_at[name] = seen, time.monotonic()
            if name.startswith(CHECKPOINT):
                self.remote_checkpoints.add(name)
        return True

    def _remove_checkpoints(self, now: dict[str, _FileState]) -> bool:
        """Remove checkpoints from the store that are not among the local files; return whether all succeeded."""
        for name in self.remote_checkpoints - now.keys():
            try:
                self.files.delete(f"{self.remote}/{name}")
            except _FAILURES as error:
                self.error = error
                return False
            self.remote_checkpoints.discard(name)
        return True
