"""The folder of a run for a training that writes files: the run's own in a local store, else a copy that follows it.

A training knows files only. Where the store is a bucket it gets a scratch folder of this machine; what others left
there of the run is brought first, and what the training writes is uploaded while it goes on.
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

from rhobench.results.files import Files, StoreAccessError, StoreNotFoundError
from rhobench.results.record import FILE_NAME
from rhobench.results.store import Store
from rhobench.results.text import is_file_name

BROUGHT = ("model.safetensors", FILE_NAME)
"""Files that are brought beside the checkpoints: what measuring needs."""

CHECKPOINT = "checkpoint-"
"""How the names of files begin that are removed there when they are removed here."""

LOOK_EVERY_SECONDS = 1.0
"""Between two looks at the folder."""

AGAIN_SECONDS = 60.0
"""A file that grows, such as a log, is uploaded again at most so often before the end."""

ATTEMPTS = 6
"""How often the last upload of a file is tried, with longer and longer waits."""

_FAILURES = (OSError, StoreAccessError, StoreNotFoundError)


class MirrorError(ValueError):
    """Files of a run that could not be uploaded."""


@contextmanager
def mirrored(
    store: Store, run_id: str, scratch: Path, *, upload: bool = True, look_every: float = LOOK_EVERY_SECONDS
) -> Iterator[Path]:
    """The folder of a run, to be read and written in the block.

    In a local store it is ``store.run_dir(run_id)``, and nothing else happens. Otherwise it is a folder below
    ``scratch`` with the checkpoints, the model and the record of the store. Every file that is whole (not hidden, not
    ".tmp", at rest for ``look_every``) is uploaded by a thread of its own; checkpoints removed here are then removed
    there. The record goes last, at the end of the block, so that nothing it promises is missing; then the folder is
    removed. Whoever is killed loses the files of the last seconds, and their folder is taken up on the same machine.

    Args:
        store: where the run belongs.
        run_id: of the run; no other process writes it.
        scratch: folder of this machine for copies.
        upload: False for processes that only read: their copy is their own and removed unchanged.
        look_every: seconds between two looks at the folder.

    Raises:
        MirrorError: at the end of the block, when something could not be uploaded; the folder is then kept.
        StoreAccessError, StoreNotFoundError: at its begin, when the store cannot be read.
    """
    if store.is_local:
        yield store.run_dir(run_id)
        return
    remote = f"runs/{run_id}"
    scratch.mkdir(parents=True, exist_ok=True)
    if not upload:
        with tempfile.TemporaryDirectory(dir=scratch, prefix=f"{run_id}.") as copy:
            _bring(store.files, remote, Path(copy))
            yield Path(copy)
        return
    place = hashlib.sha256(store.place.partition("?")[0].encode()).hexdigest()[:8]
    folder = scratch / place / run_id
    folder.mkdir(parents=True, exist_ok=True)
    brought = _bring(store.files, remote, folder)
    following = _Following(files=store.files, folder=folder, remote=remote)
    following.uploaded = {name: seen for name, seen in following.look().items() if name in brought}
    following.there = {name for name in brought if name.startswith(CHECKPOINT)}
    thread = threading.Thread(target=following.run, args=(look_every,), name=f"upload of {run_id}", daemon=True)
    thread.start()
    try:
        yield folder
    except BaseException as error:
        following.finish(thread)
        if following.error:  # the one that ended the block comes first
            error.add_note(following.sentence())
        raise
    following.finish(thread)
    if following.error:
        raise MirrorError(following.sentence()) from following.error
    shutil.rmtree(folder)


def _bring(files: Files, remote: str, folder: Path) -> set[str]:
    """Download what a continued training and a measurement need -> names of the files that are the same here and there.

    A checkpoint's name holds the hash of its content, so one that is here is the same. Checkpoints that only this
    machine has were left by a killed training and are kept; everything else here is older than what the store has.
    """
    for old in folder.iterdir():
        if not old.name.startswith(CHECKPOINT):
            shutil.rmtree(old) if old.is_dir() and not old.is_symlink() else old.unlink()
    there = {path.removeprefix(f"{remote}/"): found for path, found in files.list(remote).items()}
    wanted = {name for name in there if name in BROUGHT or (name.startswith(CHECKPOINT) and is_file_name(name))}
    for name in wanted:
        file = folder / name
        if not file.exists() or file.stat().st_size != there[name].size:
            files.download(f"{remote}/{name}", file)
    return wanted


@dataclass(frozen=True)
class _Seen:
    """A file as it was at one look."""

    size: int
    modified_ns: int
    inode: int


@dataclass(kw_only=True)
class _Following:
    """Keeps the files of a run in a store up with a folder."""

    files: Files
    folder: Path
    remote: str
    there: set[str] = field(default_factory=set)
    """Names of the checkpoints in the store."""
    uploaded: dict[str, _Seen] = field(default_factory=dict)
    """By path in the folder, what the store has."""
    uploaded_at: dict[str, float] = field(default_factory=dict)
    error: Exception | None = None
    """Why files of the last try could not be uploaded, or removed."""
    ended: threading.Event = field(default_factory=threading.Event)

    def run(self, look_every: float) -> None:
        """Until ``ended``: upload what has come to rest, the record excepted."""
        before: dict[str, _Seen] = {}
        while not self.ended.wait(look_every):
            now = self.look()
            resting = {name: seen for name, seen in now.items() if before.get(name) == seen and name != FILE_NAME}
            before = now
            sent = self._send({name: seen for name, seen in resting.items() if self._is_due(name)})
            # A run whose last checkpoint is gone has ended: until its record is there, the store needs the checkpoint.
            if sent and any(name in self.there for name in now):
                self._remove(now)

    def finish(self, thread: threading.Thread) -> None:
        """Upload the rest, the record last, then remove checkpoints that are gone here; see ``error``."""
        self.ended.set()
        thread.join()
        for attempt in range(ATTEMPTS):
            time.sleep(2.0**attempt / 4 if attempt else 0)
            now = self.look()
            record = {FILE_NAME: now[FILE_NAME]} if FILE_NAME in now else {}
            rest = {name: seen for name, seen in now.items() if name not in record}
            if self._send(rest) and self._send(record) and self._remove(now):
                self.error = None
                return

    def look(self) -> dict[str, _Seen]:
        """Every file that may travel, by its path in the folder."""
        found = {}
        for parent, folders, names in os.walk(self.folder):
            folders[:] = [name for name in folders if not name.startswith(".")]
            for name in names:
                if name.startswith(".") or name.endswith(".tmp"):
                    continue
                file = os.path.join(parent, name)
                try:
                    status = os.lstat(file)
                except FileNotFoundError:  # removed since
                    continue
                if stat.S_ISREG(status.st_mode):
                    path = Path(file).relative_to(self.folder).as_posix()
                    found[path] = _Seen(status.st_size, status.st_mtime_ns, status.st_ino)
        return found

    def sentence(self) -> str:
        """What could not be uploaded, and where it is."""
        names = sorted(name for name, seen in self.look().items() if self.uploaded.get(name) != seen)
        shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
        return (
            f"{shown or 'Not all changes'} of {self.remote} could not be brought to the store in {ATTEMPTS} attempts: "
            f"{self.error} They are kept in {self.folder}: copy them there, {FILE_NAME} last, or give the same command "
            "again, which goes on from the last checkpoint in the store and makes them anew."
        )

    def _is_due(self, name: str) -> bool:
        return time.monotonic() - self.uploaded_at.get(name, -AGAIN_SECONDS) >= AGAIN_SECONDS

    def _send(self, files: dict[str, _Seen]) -> bool:
        """Upload what the store does not have -> whether it has all of them now."""
        for name, seen in sorted(files.items()):
            if self.uploaded.get(name) == seen:
                continue
            try:
                self.files.upload(self.folder / name, f"{self.remote}/{name}")
            except FileNotFoundError:  # removed since: a checkpoint that a newer one replaced
                continue
            except _FAILURES as error:
                self.error = error
                return False
            self.uploaded[name], self.uploaded_at[name] = seen, time.monotonic()
            if name.startswith(CHECKPOINT):
                self.there.add(name)
        return True

    def _remove(self, now: dict[str, _Seen]) -> bool:
        """Remove checkpoints there that are gone here -> whether all are."""
        for name in self.there - now.keys():
            try:
                self.files.delete(f"{self.remote}/{name}")
            except _FAILURES as error:
                self.error = error
                return False
            self.there.discard(name)
        return True
