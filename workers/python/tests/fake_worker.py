"""A worker's side of the socket, for tests: it starts a handler process and says what the test says."""

from __future__ import annotations

import array
import os
import queue
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import threading
from pathlib import Path
from typing import Any, Optional

from gpufleet.frames import Ended, Reader, pack, send
from gpufleet.values import Encoder, natural, resolve

#: Bounds a hang; nothing is measured by it.
LONGEST_S = 60
PACKAGE = Path(__file__).resolve().parent.parent


class Worker:
    """A handler process with this code, and its worker's side."""

    def __init__(self, code: str, *, arguments: Optional[list[str]] = None, environment: Optional[dict[str, str]] = None) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="gpufleet-handler-")
        file = Path(self._folder.name) / "handler.py"
        file.write_text("from __future__ import annotations\nfrom gpufleet import Batch, Context, Fail, OutOfMemory, Range, Retry, Tensor, context, task\n" + textwrap.dedent(code))
        ours, theirs = socket.socketpair()
        variables = {**os.environ, "PYTHONPATH": str(PACKAGE), "GPUFLEET_HANDLER_FD": str(theirs.fileno()), "PYTHONUNBUFFERED": "1", **(environment or {})}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "gpufleet", *(arguments or [str(file)])], env=variables, cwd=self._folder.name, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
        )  # fmt: skip
        theirs.close()
        self.socket = ours
        self._came: queue.SimpleQueue[Optional[dict[str, Any]]] = queue.SimpleQueue()
        self._output: dict[str, list[bytes]] = {"stdout": [], "stderr": []}
        self._readers = [threading.Thread(target=self._drain, args=(name,), daemon=True) for name in self._output]
        for reader in (*self._readers, threading.Thread(target=self._read, daemon=True)):
            reader.start()

    def _read(self) -> None:
        reader = Reader(self.socket)
        try:
            while True:
                head, segments = reader.next()
                self._came.put(resolve(head, segments))
        except (Ended, OSError):
            self._came.put(None)

    def _drain(self, name: str) -> None:
        stream = getattr(self.process, name)
        for line in iter(stream.readline, b""):
            self._output[name].append(line)

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: Any) -> None:
        try:
            # With those that it left behind.
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.wait(LONGEST_S)
        for reader in self._readers:
            reader.join(LONGEST_S)
        self.process.stdout.close()
        self.process.stderr.close()
        self.socket.close()
        self._folder.cleanup()

    def say(self, type: str, value: Optional[dict[str, Any]] = None, **fields: Any) -> None:
        """Sends a message; ``value`` holds fields with arrays and bytes."""
        encoder = Encoder()
        text = encoder.text({"type": type, **fields, **(value or {})})
        if encoder.segments:
            text = f'{text[:-1]},"segments":{encoder.lengths()}}}'
        send(self.socket, pack(text, encoder.segments))

    def next(self, *types: str) -> dict[str, Any]:
        """The next message of one of these types, or of any; others are passed over."""
        while True:
            came = self._came.get(timeout=LONGEST_S)
            if came is None:
                raise AssertionError(f"the handler has closed its socket; standard error:\n{self.errors()}")
            if not types or came["type"] in types:
                return natural(came)

    def hello(self, *, simulated: bool = True) -> dict[str, Any]:
        """Waits for ``hello``, sends ``setup``, and waits for ``ready``."""
        hello = self.next()
        assert hello["type"] == "hello", hello
        gpu = {"id": "sim-3", "name": "Simulated", "memory_mb": 80_000, "compute_capability": "9.0", "simulated": simulated}
        self.say("setup", version=1, gpu=gpu, slots=2, handler="test")
        self.ready = self.next("ready", "setup_failed")
        return hello

    def task(self, run: int, kind: str, payload: Any, **fields: Any) -> None:
        """Sends a task."""
        fields = {"task_id": f"t{run}", "attempt": 1, "wants_parts": True, **fields}
        self.say("task", {"payload": payload}, run=run, kind=kind, **fields)

    def task_on(self, run: int, kind: str, payload: Any, tensors: list[tuple[dict[str, Any], bytes]], **fields: Any) -> None:
        """Sends a task with tensors in shared memory: what is said of each, and its bytes."""
        files, entries = [], []
        for about, content in tensors:
            shared = {}
            if content:
                shared = {"shared": len(files)}
                files.append(os.memfd_create("gpufleet"))
                os.write(files[-1], content)
            entries.append({"version": 1, "bytes": len(content), **about, **shared})
        encoder = Encoder()
        more = {"task_id": f"t{run}", "attempt": 1, "wants_parts": True, "descriptors": len(files), **fields}
        text = encoder.text({"type": "task", "run": run, "kind": kind, "payload": payload, "tensors": entries, **more})
        if encoder.segments:
            text = f'{text[:-1]},"segments":{encoder.lengths()}}}'
        (head, *rest) = pack(text, encoder.segments)
        # With its first byte, and with no other.
        beside = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", files))] if files else []
        assert self.socket.sendmsg([head[:1]], beside) == 1
        send(self.socket, [head[1:], *rest])
        for file in files:
            os.close(file)

    def batch(self, run: int, kind: str, payloads: list[Any], **fields: Any) -> None:
        """Sends a batch, whose payloads have no segments."""
        members = [{"task_id": f"t{run}.{place}", "attempt": 1, "wants_parts": True, "segments_from": 0, "payload": each} for place, each in enumerate(payloads)]
        self.say("batch", run=run, kind=kind, members=members, **fields)

    def answer(self, run: int) -> dict[str, Any]:
        """The answer to a task."""
        came = self.next("result", "error")
        assert came["run"] == run, came
        return came

    def answers(self, run: int, count: int) -> list[dict[str, Any]]:
        """The answers to the members of a batch, in their order."""
        came = [self.answer(run) for _ in range(count)]
        return sorted(came, key=lambda each: each["member"])

    def drained(self) -> int:
        """Drains; the exit code."""
        self.say("drain")
        return self.ended()

    def ended(self) -> int:
        """Waits for the end; the exit code."""
        code = self.process.wait(LONGEST_S)
        for reader in self._readers:
            reader.join(LONGEST_S)
        return code

    def output(self) -> str:
        """Standard output so far."""
        return b"".join(self._output["stdout"]).decode()

    def errors(self) -> str:
        """Standard error so far."""
        return b"".join(self._output["stderr"]).decode()
