"""SIGINT and SIGTERM: a command stops within seconds, with one line, and leaves no process and no temporary file.

The handler raises `KeyboardInterrupt`, so that every block on the way out cleans up. Where that does not end in time, because a
library waits or computes without looking at signals, a thread ends the process. Finished work is kept either way.
"""

import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

SIGNALS = (signal.SIGINT, signal.SIGTERM)
PATIENCE_S = 4.0
"""How long the blocks on the way out may take. Ray needs about one second to end its processes."""
WOKEN_AFTER_S = 0.1
"""How long the main thread may take to see a signal before it is sent to that thread alone."""
KILLED_AFTER_S = 4.0
"""How long it may then take to kill what is left."""
Process = tuple[int, str]
"""Its id and its start time, which tells it from a later process with the same id."""
LINE = "side-ray: stopped; finished work is kept: run the same command again to resume"


@dataclass
class Stop:
    """Which signal has come, read from `told`, to which Python's C handler writes the number of every signal."""

    told: socket.socket
    line: str = LINE
    """What is said then."""
    _said: threading.Lock = field(default_factory=threading.Lock)

    @property
    def number(self) -> int:
        """0 = none yet."""
        try:
            found = self.told.recv(4096, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except OSError:
            return 0
        return next((number for number in found if number in SIGNALS), 0)

    def wait(self) -> bool:
        """Wait for a signal; False if there will be none."""
        with suppress(OSError):
            while found := self.told.recv(1, socket.MSG_PEEK):
                if found[0] in SIGNALS:
                    return True
                self.told.recv(1)
        return False

    def say(self, terminal: int) -> None:
        """Write the line to a file descriptor, once."""
        if self._said.acquire(blocking=False):
            with suppress(OSError):
                os.write(terminal, f"{self.line}\n".encode())

    def leave(self) -> NoReturn:
        """Say so on stderr, and end the process with 128 + the number of the signal."""
        with suppress(OSError, ValueError):
            sys.stdout.flush()
        self.say(2)
        # Not `sys.exit`: taking down the interpreter with all its libraries takes seconds on a busy machine.
        os._exit(128 + self.number)


@contextmanager
def stoppable(kill: Callable[[], None], line: str = LINE) -> Iterator[Stop]:
    """Handle the signals while the block runs, in the main thread; elsewhere this does nothing.

    Args:
        kill: ends what the process has started, where there is no time for the blocks on the way out.
        line: what is said on stderr when a signal comes.
    """
    reader, writer = socket.socketpair()
    stop = Stop(reader, line)
    if threading.current_thread() is not threading.main_thread():
        with reader, writer:
            yield stop
        return

    handled: list[int] = []

    def handle(number: int, _: object) -> None:
        if not handled:
            handled.append(number)
            # What is under way fails now in threads and destructors too.
            sys.unraisablehook = threading.excepthook = _ignore
            raise KeyboardInterrupt

    def wake() -> None:
        # Of several signals another thread may take all, and the main thread sleeps on: the kernel restarts its system call.
        if not handled and signal.getsignal(stop.number) is handle:
            with suppress(OSError):
                signal.pthread_kill(threading.main_thread().ident or 0, stop.number)

    ended = threading.Event()
    writer.setblocking(False)
    before = {number: signal.signal(number, handle) for number in SIGNALS}
    hooks = sys.unraisablehook, threading.excepthook
    # Told by the C handler at once, also while the main thread computes or another library's handler is installed.
    told_before = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    terminal = os.dup(2)  # stderr may be redirected when the time is up
    threading.Thread(target=_watch, args=(terminal, stop, ended, wake, kill), daemon=True, name="stopping").start()
    try:
        yield stop
    finally:
        ended.set()
        signal.set_wakeup_fd(told_before)
        for number, handler in before.items():
            signal.signal(number, handler)
        sys.unraisablehook, threading.excepthook = hooks
        writer.close()
        os.close(terminal)


def _ignore(_: object) -> None:
    pass


def _watch(
    terminal: int, stop: Stop, ended: threading.Event, wake: Callable[[], None], kill: Callable[[], None]
) -> None:
    with stop.told:
        if stop.wait() and not ended.wait(WOKEN_AFTER_S):
            wake()
            if ended.wait(PATIENCE_S):
                return
            code = 128 + stop.number
            stop.say(terminal)
            threading.Timer(KILLED_AFTER_S, os._exit, [code]).start()
            with suppress(Exception):
                kill()
            os._exit(code)


def start_time(pid: int) -> str | None:
    """Start time of a process in clock ticks since boot, which detects a reused pid; None if it is gone or a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        return None if fields[0] == "Z" else fields[19]
    except (FileNotFoundError, ProcessLookupError):
        return None


def descendants(pids: Iterable[int]) -> list[Process]:
    """The processes that are there, and those that they have started, and so on."""
    found = []
    for pid in pids:
        if (started := start_time(pid)) is not None:
            found.append((pid, started))
            with suppress(OSError):
                children = [path.read_text().split() for path in Path(f"/proc/{pid}/task").glob("*/children")]
                found += descendants(int(child) for each in children for child in each)
    return found
