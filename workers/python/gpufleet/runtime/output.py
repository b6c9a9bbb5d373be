"""``print`` and logging inside tasks.

Standard output and error are pipes that the worker reads, and it notes with each line what runs at the time. It cannot tell whose a line is where several tasks run at once, nor where the
task has been answered by the time the line is read. So what a task writes goes as a ``log`` message with its number.
"""

from __future__ import annotations

import io
import logging
import sys
from typing import Any, TextIO

from ..context import Context, current

#: The longest line, in characters; what is longer is cut.
LINE_MAX = 8192


class TaskStream(io.TextIOBase):
    """Stands in for ``sys.stdout`` or ``sys.stderr``."""

    def __init__(self, real: TextIO) -> None:
        self._real = real

    def write(self, text: str) -> int:
        context = current()
        if isinstance(context, Speaking):
            context.say(text)
            return len(text)
        return self._real.write(text)

    def flush(self) -> None:
        self._real.flush()

    def writable(self) -> bool:
        return True

    def isatty(self) -> bool:
        return False

    def fileno(self) -> int:
        return self._real.fileno()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


class Speaking(Context):
    """A context whose task can write lines."""

    unsaid = ""

    def say(self, text: str) -> None:
        """Text that the task has written. Whole lines are told at once."""
        *lines, rest = (self.unsaid + text).split("\n")
        self.unsaid = "" if len(rest) >= LINE_MAX else rest
        if len(rest) >= LINE_MAX:
            lines.append(rest)
        for line in lines:
            self._say_line(line)

    def say_rest(self) -> None:
        """A last line that was not ended."""
        rest, self.unsaid = self.unsaid, ""
        if rest:
            self._say_line(rest)

    def _say_line(self, line: str) -> None:
        cut = line if len(line) <= LINE_MAX else line[: LINE_MAX - 1] + "…"
        # Half a character, which Python can print and JSON cannot say, must not make a `print` fail.
        self._tell({"type": "log", "message": cut.encode(errors="replace").decode()}, None)


def install() -> None:
    """Puts itself in the place of both streams, and lets what is logged at INFO be seen. Before the user's file is imported: loggers keep the stream that they find."""
    sys.stdout = TaskStream(sys.stdout)
    sys.stderr = TaskStream(sys.stderr)
    # What speaks where nobody has configured logging. It is no handler of the root logger, so that the file's own ``basicConfig`` still counts, and then speaks alone.
    last = logging.StreamHandler(sys.stderr)
    last.setLevel(logging.INFO)
    last.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
    logging.lastResort = last
    logging.getLogger().setLevel(logging.INFO)
