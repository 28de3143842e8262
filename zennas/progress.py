"""What a run says while it runs: a live panel on a terminal, plain lines now and then elsewhere; the log has it all."""

import contextlib
import datetime
import os
import pathlib
import time
from collections.abc import Callable, Iterable, Mapping
from typing import IO, TextIO

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from zennas.names import print_any_name
from zennas.records import UserError

LINE_EVERY_S = 15.0  # where output is not a terminal


class Progress:
    """Says things to a rich Console and to a log file."""

    def __init__(self, console: Console | None = None) -> None:
        """console: of rich; without one, standard error."""
        self.console = console or console_for(json_output=True)
        self._log: TextIO | None = None
        self._live: Live | None = None
        self._stage, self._last_line = "", 0.0

    @property
    def place(self) -> str:
        """Where it speaks, in a word that another process takes: progress_at(place)."""
        if self.console.quiet:
            return "nowhere"
        return "stderr" if self.console.stderr else "stdout"

    def log_to(self, path: pathlib.Path | str) -> None:
        """Write everything said from here on to a log file as well."""
        try:
            self._log = open(path, "a", encoding="utf-8", errors="backslashreplace")  # noqa: SIM115 - open as long as the run
        except OSError as error:
            raise UserError(
                f"{path}: cannot be written: {error.strerror}; mend the rights or choose another --out"
            ) from None

    def say(self, text: str, *, style: str | None = None) -> None:
        """One line, at once."""
        self.note(text)
        self.console.print(Text(text, style=style or ""), soft_wrap=True)

    def notices(self, sentences: Iterable[str]) -> None:
        """Sentences on the data, below the lines that announce a run."""
        for sentence in sentences:
            self.say(f"{'data':>8}  {sentence}")

    def note(self, text: str) -> None:
        """One line, for the log alone."""
        if self._log:
            try:
                self._log.write(f"{datetime.datetime.now().isoformat(timespec='seconds')} {text}\n")
                self._log.flush()
            except OSError:  # a full disk: the ledger says so, and a log is no reason to stop
                self._log = None

    def begin(self, stage: str) -> None:
        """Begin a stage whose state `update` shows."""
        self.end()
        self._stage, self._last_line = stage, time.monotonic()
        if self.console.is_terminal:
            self._live = Live(Text(stage), console=self.console, refresh_per_second=4, transient=True)
            self._live.start()

    def update(self, fields: Mapping[str, object]) -> None:
        """Show the state of the stage: name -> what is shown as text."""
        now = time.monotonic()
        if self._live:
            grid = Table.grid(padding=(0, 2))
            grid.add_row(
                Text(self._stage, style="bold"),
                *(Text.assemble((f"{name} ", "dim"), str(text)) for name, text in fields.items()),
            )
            self._live.update(grid)
        elif now - self._last_line < LINE_EVERY_S:
            return
        if now - self._last_line >= LINE_EVERY_S:
            self._last_line = now
            line = f"{self._stage}: " + ", ".join(f"{name} {text}" for name, text in fields.items())
            self.note(line) if self._live else self.say(line)

    def counting(self, what: str) -> Callable[[int, int], None]:
        """A callback (done, total) that shows how far a stage is and, by the pace since its first call, how long it
        will still take: what came before that, such as the start of processes, is not repeated.
        """
        since = latest = (0, 0.0)

        def progress(done: int, total: int) -> None:
            nonlocal since, latest
            before, latest = latest, (done, time.monotonic())
            if not since[1] or done < before[0]:  # it begins, or begins another count
                since = latest
            fields: dict[str, object] = {what: f"{done}/{total}"}
            if done > since[0]:
                fields["left"] = duration((latest[1] - since[1]) / (done - since[0]) * (total - done))
            self.update(fields)

        return progress

    def end(self) -> None:
        """End the stage, if there is one."""
        if self._live:
            self._live.stop()
            self._live = None

    def close(self) -> None:
        """End the stage and close the log."""
        self.end()
        if self._log:
            with contextlib.suppress(OSError):
                self._log.close()
            self._log = None


def duration(seconds: float) -> str:
    """Minutes and seconds, in words as short as they go.

    >>> duration(75), duration(4)
    ('1m15s', '4s')
    """
    seconds = max(0, round(seconds))
    return f"{seconds // 60}m{seconds % 60:02d}s" if seconds >= 60 else f"{seconds}s"


def silent() -> Progress:
    """A Progress that prints nothing, for scripts that ask for none."""
    return Progress(Console(quiet=True))


def progress_at(place: str) -> Progress:
    """A Progress that speaks where another one does.

    >>> progress_at(silent().place).place
    'nowhere'
    """
    return silent() if place == "nowhere" else Progress(console_for(json_output=place == "stderr"))


def console_for(*, json_output: bool) -> Console:
    """Standard output for people, or standard error where standard output is for a script."""
    print_any_name()
    console = _Console(stderr=json_output, highlight=False)
    return console if console.is_terminal else _Console(stderr=json_output, highlight=False, width=120)


class ReaderLeftError(KeyboardInterrupt):
    """Whoever read the output wants no more of it, as `head` does: what is under way stops as by Ctrl-C."""


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """rich itself would end the process with exit code 1, which has a meaning of its own here."""
        leave_output(self.file)
        raise ReaderLeftError


def leave_output(stream: IO[str]) -> None:
    """What is still written to standard output or error, by Python at its end too, goes nowhere."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
