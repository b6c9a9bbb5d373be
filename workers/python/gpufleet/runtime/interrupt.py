"""Ending a function that still runs a while after its task was cancelled: ``Cancelled`` is raised inside it, wherever it is.

A guard stands for one call. Whoever takes its only token decides: the interrupter, which then raises exactly once, or the thread that ran the call, after which nothing is raised
any more. So an exception for one run never comes up in the next.
"""

from __future__ import annotations

import ctypes
import signal
import threading
import time
from typing import Any, Optional

from ..errors import Cancelled

#: What the main thread is interrupted by.
SIGNAL = signal.SIGUSR1
#: How often the signal is sent, in seconds.
_AGAIN_S = 0.05


class Guard:
    """One call, in a thread of a pool."""

    def __init__(self) -> None:
        self._token = [None]
        self._raised = False
        self._thread = threading.get_ident()

    def _take(self) -> bool:
        try:
            self._token.pop()
        except IndexError:
            return False
        return True

    def interrupt(self) -> None:
        """Raises ``Cancelled`` in the call, if it still runs. Called by another thread."""
        if self._take():
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(self._thread), ctypes.py_object(Cancelled))
            self._raised = True

    def close(self) -> None:
        """The call is over. An exception that is on its way comes up in here."""
        if self._take():
            return
        while not self._raised:
            time.sleep(0.0005)
        for _ in range(100):
            pass


class MainGuard(Guard):
    """One call, in the main thread: a signal wakes it also where it sleeps."""

    current: Optional[MainGuard] = None

    def __init__(self) -> None:
        super().__init__()
        self._wanted = False
        MainGuard.current = self

    def interrupt(self) -> None:
        if not self._wanted:
            self._wanted = True
            threading.Thread(target=self._signal, name="gpufleet-interrupter", daemon=True).start()

    def _signal(self) -> None:
        # A signal that comes just before the thread goes to sleep does not wake it, so it is sent until the call ends or hears it.
        while self._token:
            signal.pthread_kill(self._thread, SIGNAL)
            time.sleep(_AGAIN_S)

    def close(self) -> None:
        # The signal is handled in this very thread: after this nothing comes.
        self._take()

    @staticmethod
    def on_signal(_number: int, _frame: Any) -> None:
        """The signal's handler."""
        guard = MainGuard.current
        if guard is not None and guard._wanted and guard._take():
            raise Cancelled


def install() -> None:
    """From here on the main thread can be interrupted."""
    signal.signal(SIGNAL, MainGuard.on_signal)
