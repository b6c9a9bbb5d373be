"""What goes to the worker, in order, from any thread.

A thread that runs a task may be interrupted at any instruction. So ``put`` touches nothing but queues that are written in C, which an interrupt cannot leave half-changed, and holds
no lock: a thread of the outbox's own writes. ``send`` writes at once, without the change of threads, where no interrupt can come.
"""

from __future__ import annotations

import os
import queue
import socket
import threading
import time
from typing import Any, Optional

from ..frames import MESSAGE_BYTES_MAX, Buffer, pack, send, size
from ..values import Encoder

#: Messages that may wait; a task that says more waits until the worker reads.
MESSAGES_MAX = 512
#: A message of more than this, in bytes, waits until few others do.
_LARGE = 1 << 20
_LARGE_WAITING_MAX = 4
#: How often a full outbox is looked at, in seconds.
_LOOK_S = 0.002
#: How long a line may wait until it is written, and how often that is looked at, in seconds.
_WRITTEN_S = 0.05
_WRITTEN_LOOK_S = 0.0001


class TooLarge(ValueError):
    """A message is longer than the worker takes."""


def message(fields: dict[str, Any], value: Optional[tuple[str, Any]] = None, *, raw: bool = True) -> list[Buffer]:
    """The buffers of a message: ``fields``, and a value whose arrays and bytes become segments, if ``raw``. ``TypeError``, ``ValueError``: it cannot be written."""
    encoder = Encoder(raw=raw)
    text = encoder.text(fields)
    if value is not None:
        name, content = value
        text = f'{text[:-1]},"{name}":{encoder.text(content)}}}'
        if encoder.segments:
            text = f'{text[:-1]},"segments":{encoder.lengths()}}}'
    buffers = pack(text, encoder.segments)
    length = size(buffers)
    if length > MESSAGE_BYTES_MAX:
        raise TooLarge(f"it has {length} bytes, and a message has at most {MESSAGE_BYTES_MAX}")
    return buffers


class Outbox:
    """The writing side of the socket."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._waiting: queue.SimpleQueue[list[Buffer]] = queue.SimpleQueue()
        self._wake: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._writing = threading.Lock()
        threading.Thread(target=self._write, name="gpufleet-writer", daemon=True).start()

    def put(self, buffers: list[Buffer]) -> None:
        """Leaves a message to the writer. Waits while the outbox is full."""
        bound = MESSAGES_MAX if size(buffers) <= _LARGE else _LARGE_WAITING_MAX
        while self._waiting.qsize() >= bound:
            time.sleep(_LOOK_S)
        self.put_now(buffers)

    def put_through(self, buffers: list[Buffer]) -> None:
        """Leaves a message to the writer, and waits a moment until it is written: what is said just before a crash should be known."""
        self.put(buffers)
        until = time.monotonic() + _WRITTEN_S
        time.sleep(0)
        # The writer empties what it has written.
        while buffers and time.monotonic() < until:
            time.sleep(_WRITTEN_LOOK_S)

    def put_now(self, buffers: list[Buffer]) -> None:
        """Leaves a message to the writer, however many wait: for what the worker itself bounds (results, pongs)."""
        self._waiting.put(buffers)
        self._wake.put(None)

    def send(self, buffers: list[Buffer]) -> None:
        """Writes a message, after all that wait."""
        with self._writing:
            self._write_waiting()
            self._out(buffers)

    def flush(self) -> None:
        """Writes all that wait."""
        with self._writing:
            self._write_waiting()

    def _write(self) -> None:
        while True:
            self._wake.get()
            with self._writing:
                self._write_waiting()

    def _write_waiting(self) -> None:
        while True:
            try:
                buffers = self._waiting.get_nowait()
            except queue.Empty:
                return
            self._out(buffers)

    def _out(self, buffers: list[Buffer]) -> None:
        try:
            send(self._connection, buffers)
        except OSError:
            # The worker is gone, and nobody is there to be told.
            os._exit(0)
        buffers.clear()
