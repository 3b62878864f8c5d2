"""Progress of a stage: a bar with rate and ETA on a terminal, otherwise a plain line every 30 s."""

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

from side_ray.errors import printable
from side_ray.report.wording import duration

LINE_EVERY_S = 30.0
BAR_EVERY_S = 0.5


class Bar:
    """Counts the finished units of one stage. Thread-safe."""

    def __init__(self, title: str, total: int, unit: str, start: int) -> None:
        self.title, self.total, self.unit = title, total, unit
        self.done = self.start = start
        self.retries = 0
        self.note = ""
        self._rate: float | None = None
        self._began = time.monotonic()
        self._lock = threading.Lock()

    def advance(self, units: int, retries: int = 0) -> None:
        """Add finished units, and the storage requests that were retried for them."""
        with self._lock:
            self.done += units
            self.retries += retries

    def update(self, done: int, rate: float, note: str) -> None:
        """Set the number of finished units and the units per second, for a stage that measures them itself."""
        with self._lock:
            self.done, self._rate, self.note = done, rate, note

    @property
    def rate(self) -> float:
        """Units per second: the value given to `update`, else the mean since the bar started."""
        if self._rate is not None:
            return self._rate
        seconds = time.monotonic() - self._began
        return (self.done - self.start) / seconds if seconds > 0 else 0.0

    def describe(self) -> str:
        """One line of text: units done, rate, time left, note, retries."""
        rate = self.rate
        left = (
            f", about {duration((self.total - self.done) / rate)} left" if rate > 0 and self.done < self.total else ""
        )
        retries = f", {self.retries} retries" if self.retries else ""
        note = f", {self.note}" if self.note else ""
        return f"{self.title}: {self.done:,}/{self.total:,} {self.unit}, {rate:,.1f}/s{left}{note}{retries}"


class Reporter:
    """Prints messages and progress on stderr. One instance per command."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True, highlight=False, soft_wrap=True)

    def say(self, text: str) -> None:
        """Print one message."""
        self.console.print(printable(text), markup=False)

    def warn(self, text: str) -> None:
        """Print one warning."""
        self.console.print(f"warning: {printable(text)}", markup=False, style="yellow")

    @contextmanager
    def bar(self, title: str, total: int, unit: str, done: int = 0) -> Iterator[Bar]:
        """Show the progress of one stage while the block runs: `total` units, of which `done` are finished at the start."""
        bar = Bar(title, total, unit, done)
        stop = threading.Event()
        show = self._draw if self.console.is_terminal and sys.stderr.isatty() else self._log
        thread = threading.Thread(target=show, args=(bar, stop), daemon=True)
        began = time.monotonic()
        thread.start()
        try:
            yield bar
        finally:
            stop.set()
            thread.join()
            self.say(f"{bar.describe()}, {duration(time.monotonic() - began)}")

    def _log(self, bar: Bar, stop: threading.Event) -> None:
        while not stop.wait(LINE_EVERY_S):
            self.say(bar.describe())

    def _draw(self, bar: Bar, stop: threading.Event) -> None:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TimeElapsedColumn(),
            TextColumn("ETA"),
            TimeRemainingColumn(),
        )
        with RichProgress(*columns, console=self.console, transient=True) as display:
            task = display.add_task(bar.title, total=bar.total, completed=bar.done)
            while not stop.wait(BAR_EVERY_S):
                display.update(task, completed=bar.done, description=bar.describe().split(", about")[0])
