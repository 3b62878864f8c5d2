"""Progress of a stage: a bar with rate and ETA on a terminal, otherwise a plain line every 30 s."""

import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

from side_ray.errors import printable
from side_ray.report.wording import about, duration

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
        self._first: tuple[float, int] | None = None
        self._lock = threading.Lock()

    def advance(self, units: int, retries: int = 0) -> None:
        """Add finished units, and the storage requests that were retried for them."""
        with self._lock:
            self.done += units
            self.retries += retries
            self._first = self._first or (time.monotonic(), self.done)

    def update(self, done: int, rate: float, note: str) -> None:
        """Set the number of finished units and the units per second, for a stage that measures them itself."""
        with self._lock:
            self.done, self._rate, self.note = done, rate, note

    @property
    def rate(self) -> float:
        """Units per second: the value given to `update`, else the mean since the first units were finished, which leaves out
        the time that actors take to start. 0 as long as it is not known."""
        if self._rate is not None:
            return self._rate
        began, first = self._first or (0.0, self.done)
        return (self.done - first) / (time.monotonic() - began) if self.done > first else 0.0

    def describe(self) -> str:
        """One line of text: units done, rate, time left, note, retries."""
        rate = self.rate
        left = (
            f", about {duration((self.total - self.done) / rate)} left" if rate > 0 and self.done < self.total else ""
        )
        speed = f", {rate:,.1f}/s" if rate > 0 else ""
        retries = f", {self.retries} retries" if self.retries else ""
        note = f", {self.note}" if self.note else ""
        return f"{self.title}: {self.done:,}/{self.total:,} {self.unit}{speed}{left}{note}{retries}"


class Reporter:
    """Prints messages and progress on stderr. One instance per command.

    Args:
        quiet: print warnings only.
        progress: show bars, or lines every 30 s; else one line at the end of each stage.
        as_json: print one JSON object per line: `at` (Unix time, s), `level` (info or warning), `step` and `text`.
    """

    def __init__(
        self, console: Console | None = None, *, quiet: bool = False, progress: bool = True, as_json: bool = False
    ) -> None:
        self.console = console or Console(stderr=True, highlight=False, soft_wrap=True)
        self.quiet, self.progress, self.as_json = quiet, progress and not quiet, as_json
        self._step = ""

        self.forecast: Callable[[str, float, int], float | None] | None = None
        """Seconds left of the whole audit, from the title of a bar, its rate and its units left; see `Forecast.left`."""

    def step(self, number: int, of: int, name: str) -> None:
        """Say which step of the audit the next messages belong to."""
        self._step = f"{number}/{of} {name}"

    def overall(self, bar: Bar) -> str:
        """`; stage 3 of 7, about 6 min left`: the progress of the whole audit; empty where it is not known."""
        left = self.forecast(bar.title, bar.rate, bar.total - bar.done) if self.forecast and self._step else None
        if left is None:
            return ""
        number, _, of = self._step.split()[0].partition("/")
        return f"; stage {number} of {of}, about {about(left)} left"

    def say(self, text: str) -> None:
        """Print one message."""
        if not self.quiet:
            self._print(text, "info")

    def warn(self, text: str) -> None:
        """Print one warning."""
        self._print(text, "warning")

    def _print(self, text: str, level: str) -> None:
        text = printable(text)
        if self.as_json:
            line = {"at": round(time.time(), 3), "level": level, "step": self._step, "text": text}
            self.console.print(json.dumps(line, ensure_ascii=False), markup=False)
        elif level == "warning":
            self.console.print(f"warning: {text}", markup=False, style="yellow")
        else:
            self.console.print(f"[{self._step.split()[0]}] {text}" if self._step else text, markup=False)

    @contextmanager
    def bar(self, title: str, total: int, unit: str, done: int = 0) -> Iterator[Bar]:
        """Show the progress of one stage while the block runs: `total` units, of which `done` are finished at the start."""
        bar = Bar(title, total, unit, done)
        stop = threading.Event()
        drawn = self.console.is_terminal and sys.stderr.isatty() and not self.as_json
        thread = threading.Thread(target=self._draw if drawn else self._log, args=(bar, stop), daemon=True)
        began = time.monotonic()
        if self.progress:
            thread.start()
        try:
            yield bar
        finally:
            stop.set()
            if self.progress:
                thread.join()
            self.say(f"{bar.describe()}, {duration(time.monotonic() - began)}")

    def _log(self, bar: Bar, stop: threading.Event) -> None:
        while not stop.wait(LINE_EVERY_S):
            self.say(bar.describe() + self.overall(bar))

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
                display.update(
                    task, completed=bar.done, description=bar.describe().split(", about")[0] + self.overall(bar)
                )
