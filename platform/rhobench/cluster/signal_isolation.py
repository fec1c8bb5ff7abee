"""Start a local Ray so that stop signals reach the driver, and only the driver."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ray._private import services


class _OwnGroup(services.ConsolePopen):
    """Process of Ray in a process group of its own, as Ray itself starts it on Windows."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, process_group=0, **options)


@contextmanager
def signal_isolation() -> Iterator[None]:
    """Isolate the processes that Ray starts in the block, and keep the driver's handler of SIGTERM.

    A closed terminal, `timeout` and some job schedulers signal a whole process group. Ray's processes would end with
    it, before the trainings could write their checkpoints. Ray's own handler aborts the driver with a C++ trace.
    """
    handler = signal.getsignal(signal.SIGTERM)
    original = services.ConsolePopen
    if sys.platform == "linux":  # where the kernel ends them together with the driver
        services.ConsolePopen = _OwnGroup
    try:
        yield
    finally:
        services.ConsolePopen = original
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)
