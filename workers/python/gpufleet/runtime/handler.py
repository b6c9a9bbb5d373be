"""The life of a handler process: import, hello, set-up, tasks, tear-down.

Three threads are always there: the main thread, which imports, sets up and runs plain functions; one that reads the socket, and so hears cancels and pings while functions run; one that
writes it. Pools and the event loop come where tasks ask for them.
"""

from __future__ import annotations

import argparse
import asyncio
import faulthandler
import importlib
import importlib.util
import json
import os
import queue
import socket
import sys
import threading
import traceback
from pathlib import Path
from typing import Any, Optional

from ..context import Gpu
from ..frames import Ended, FrameError, Reader, inherited_socket
from ..tasks import Task, registered, set_up
from ..tensors import received
from . import interrupt, output
from .failures import cut, described, frames
from .lanes import LoopLane, MainLane, ThreadLane, finished
from .outbox import Outbox, message
from .runs import Run

VERSION = 1
#: Threads for tasks of kinds that do not say how many run at once, where the worker's configuration has more than one.
_OVERFLOW_THREADS_MAX = 1024


class SetUpFailed(Exception):
    """A class's ``setup``, or a warm-up, has failed."""


class Handler:
    """What a worker speaks with."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._reader = Reader(connection)
        self._outbox = Outbox(connection)
        self._gpu = Gpu()
        self._tasks: dict[str, Task[Any]] = {}
        self._instances: dict[str, Any] = {}
        self._runs: dict[int, Run] = {}
        self._settings: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self._draining = False
        self._done = False
        self._main = MainLane(self._over)
        self._pools: dict[str, ThreadLane] = {}
        self._loop: Optional[LoopLane] = None
        self._event_loop = asyncio.new_event_loop()
        if sys.version_info < (3, 10):
            # There, an asyncio.Event that the user's file makes belongs to the loop of the thread that imports it.
            asyncio.set_event_loop(self._event_loop)
        self._says_concurrency = False
        self._health = Health(self._instances)

    def listen(self) -> None:
        """Reads the socket from here on, in a thread of its own."""
        threading.Thread(target=self._read, name="gpufleet-reader", daemon=True).start()

    def tell(self, fields: dict[str, Any]) -> None:
        """Sends a message."""
        self._outbox.send(message(fields))

    # The main thread.

    def hello(self) -> None:
        """Says what kinds there are."""
        self._tasks = kinds()
        concurrencies = [task.concurrency for task in self._tasks.values() if task.concurrency is not None]
        self._says_concurrency = bool(concurrencies)
        fields: dict[str, Any] = {
            "type": "hello", "version": VERSION, "language": "python", "kinds": [task.hello() for task in self._tasks.values()],
        }  # fmt: skip
        if concurrencies:
            fields["concurrency"] = max(concurrencies)
        self.tell(fields)

    def set_up(self) -> None:
        """Waits for the worker's word, sets every class up, and says that tasks may come."""
        setup = self._settings.get()
        gpu = setup.get("gpu", {})
        known = {name: gpu[name] for name in ("id", "name", "memory_mb", "compute_capability", "simulated") if gpu.get(name) is not None}
        self._gpu = Gpu(**known, slots=int(setup.get("slots", 1)))
        if any(task.is_async for task in self._tasks.values()):
            self._loop = LoopLane(self._over, self._event_loop)
        for task in self._tasks.values():
            self._set_up(task)
        ready: dict[str, Any] = {"type": "ready"}
        memory_mb = _torch_memory_mb()
        if memory_mb is not None:
            ready["memory_mb"] = memory_mb
        models = [str(name) for instance in self._instances.values() for name in getattr(instance, "models", ())]
        if models:
            ready["models"] = models
        self.tell(ready)

    def _set_up(self, task: Task[Any]) -> None:
        doing = f"set up {task.kind}"
        try:
            if task.is_class:
                instance = task.target()
                self._instances[task.kind] = instance
                self._finished(set_up(instance, self._gpu))
            for payload in task.warm_up:
                doing = f"warm {task.kind} up"
                self._finished(task.warm(payload, self._instances.get(task.kind), self._gpu))
        except SystemExit as error:
            raise SetUpFailed(f"{doing}: it called sys.exit({error.code!r})\n{frames(error)}") from error
        except BaseException as error:
            raise SetUpFailed(f"{doing}: {described(error)}") from error

    def _finished(self, made: Any) -> Any:
        return finished(made, None if self._loop is None else self._loop.loop)

    def serve(self) -> None:
        """Runs tasks until the worker drains."""
        self._main.serve()

    def tear_down(self) -> None:
        """Ends what was set up; a failure is told, and holds up nothing."""
        for kind, instance in self._instances.items():
            if not hasattr(instance, "teardown"):
                continue
            try:
                self._finished(instance.teardown())
            except BaseException as error:
                self.tell({"type": "log", "level": "error", "message": cut(f"tear {kind} down: {described(error)}")})
        self.end()
        self._outbox.flush()

    def end(self) -> None:
        """From here on the process ends by itself: the socket's end changes nothing."""
        self._done = True

    # The thread that reads.

    def _read(self) -> None:
        try:
            while True:
                head, segments = self._reader.next()
                self._take(head, segments, self._reader.descriptors(head))
        except (Ended, OSError):
            # The worker is gone: nobody wants what still runs.
            if not self._done:
                os._exit(0)
        except BaseException as error:
            sys.__stderr__.write(f"gpufleet: the worker's message cannot be read: {error}\n")  # type: ignore[union-attr]
            if not isinstance(error, FrameError):
                traceback.print_exc(file=sys.__stderr__)
            sys.__stderr__.flush()  # type: ignore[union-attr]
            os._exit(1)

    def _take(self, head: dict[str, Any], segments: list[memoryview], descriptors: list[int]) -> None:
        kind = head.get("type")
        if kind in ("task", "batch"):
            self._begin(head, segments, descriptors)
            return
        for descriptor in descriptors:
            os.close(descriptor)
        if kind == "ping":
            self._outbox.put_now(message({"type": "pong", "n": head.get("n"), **self._health.last()}))
            self._health.ask()
        elif kind == "cancel":
            self._cancel(head)
        elif kind == "interrupt":
            self._interrupt(head)
        elif kind == "setup":
            self._settings.put(head)
        elif kind == "drain":
            self._draining = True
            if not self._runs:
                self._main.stop()
        else:
            self._outbox.put_now(message({"type": "log", "level": "warn", "message": f"the message {str(kind)[:80]!r} is unknown, and was passed over"}))

    def _begin(self, head: dict[str, Any], segments: list[memoryview], descriptors: list[int]) -> None:
        try:
            tensors = received(head.get("tensors", []), descriptors)
        except (KeyError, OSError, ValueError) as error:
            told: dict[str, Any] = {"message": cut(f"its tensors cannot be taken: {described(error)}"), "retry": True}
            self._outbox.put_now(message({"type": "error", "run": head["run"], **told}))
            return
        task = self._tasks.get(head["kind"])
        if task is None:
            for tensor in tensors:
                tensor.close()
            told = {"message": f"this handler has no kind {head['kind']}", "code": "unknown_kind", "retry": False}
            self._outbox.put_now(message({"type": "error", "run": head["run"], **told}))
            return
        run = Run(head, segments, task, task.bound(self._instances.get(task.kind)), self._gpu, self._outbox, tensors)
        self._runs[run.number] = run
        self._lane(task).submit(run)

    def _lane(self, task: Task[Any]) -> Any:
        if task.is_async:
            return self._loop
        if task.concurrency is None:
            # The worker is configured to run several at once, and the file does not mind.
            return self._pool("", _OVERFLOW_THREADS_MAX) if self._main.is_busy() and not self._says_concurrency else self._main
        return self._main if task.concurrency == 1 else self._pool(task.kind, task.concurrency)

    def _pool(self, name: str, threads_max: int) -> ThreadLane:
        if name not in self._pools:
            self._pools[name] = ThreadLane(threads_max, self._over)
        return self._pools[name]

    def _cancel(self, head: dict[str, Any]) -> None:
        run = self._runs.get(head["run"])
        if run is None:
            return
        run.cancel(head.get("member"))
        # A coroutine ends at its next await; a plain function is asked first.
        if run.task.is_async and run.is_cancelled() and self._loop is not None:
            self._loop.cancel(run)

    def _interrupt(self, head: dict[str, Any]) -> None:
        run = self._runs.get(head["run"])
        if run is None:
            return
        run.interrupted = True
        if run.task.is_async and self._loop is not None:
            self._loop.cancel(run)
            return
        guard = run.guard
        if guard is not None:
            guard.interrupt()

    # Any lane.

    def _over(self, run: Run) -> None:
        self._runs.pop(run.number, None)
        if self._draining and not self._runs:
            self._main.stop()


class Health:
    """What the ``health`` of classes says. It is asked in a thread of its own, one time at once, so that a slow one holds up no pong: a pong has the last answer."""

    def __init__(self, instances: dict[str, Any]) -> None:
        self._instances = instances
        self._last: dict[str, Any] = {}
        self._wanted: Optional[queue.SimpleQueue[None]] = None
        self._asking = False

    def last(self) -> dict[str, Any]:
        """What a pong says."""
        return self._last

    def ask(self) -> None:
        """Asks again, unless the last question has no answer yet."""
        if self._asking or not any(hasattr(instance, "health") for instance in self._instances.values()):
            return
        self._asking = True
        if self._wanted is None:
            self._wanted = queue.SimpleQueue()
            threading.Thread(target=self._serve, args=(self._wanted,), name="gpufleet-health", daemon=True).start()
        self._wanted.put(None)

    def _serve(self, wanted: queue.SimpleQueue[None]) -> None:
        while True:
            wanted.get()
            self._last = self._answer()
            self._asking = False

    def _answer(self) -> dict[str, Any]:
        for kind, instance in list(self._instances.items()):
            if not hasattr(instance, "health"):
                continue
            try:
                if finished(instance.health(), None) is False:
                    return {"healthy": False, "reason": f"health of {kind} said False"}
            except BaseException as error:
                return {"healthy": False, "reason": cut(f"health of {kind}: {described(error)}")}
        return {"healthy": True}


def kinds() -> dict[str, Task[Any]]:
    """The tasks that were decorated, by kind. ``ValueError``: there are none, or two of one name."""
    found: dict[str, Task[Any]] = {}
    for task in registered:
        if task.kind in found:
            raise ValueError(f"two tasks have the kind {task.kind}: {found[task.kind].where()} and {task.where()}")
        found[task.kind] = task
    if not found:
        raise ValueError("the file has no task: put @task above a function")
    return found


def load(name: str) -> None:
    """Imports the user's file, or module."""
    path = Path(name)
    if not (path.suffix == ".py" or path.is_file()):
        if os.getcwd() not in sys.path:
            sys.path.insert(0, os.getcwd())
        importlib.import_module(name)
        return
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path.absolute()}")
    sys.path.insert(0, str(path.absolute().parent))
    module_name = path.stem if path.stem not in sys.modules else f"gpufleet_handler_{path.stem}"
    spec = importlib.util.spec_from_file_location(module_name, path.absolute())
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is no Python file: its name must end in .py")
    module = importlib.util.module_from_spec(spec)
    # Dataclasses and pickles look their module up by its name.
    sys.modules[module_name] = module
    spec.loader.exec_module(module)


def _torch_memory_mb() -> Optional[int]:
    """What PyTorch keeps on the GPU, in MB, where it is loaded and has touched it."""
    torch = sys.modules.get("torch")
    if torch is None or not hasattr(torch, "cuda") or not torch.cuda.is_initialized():
        return None
    return int(torch.cuda.memory_reserved() // 1_000_000)


def main(arguments: list[str]) -> int:
    """Runs the program; its exit code: 0 after a drain, 1 where the file cannot be imported or set up."""
    parser = argparse.ArgumentParser(prog="python -m gpufleet", description="Serves the tasks of Python files to a gpufleet worker, which starts it; without one, prints their kinds and schemas.")
    parser.add_argument("file", nargs="+", help="a Python file, or the name of a module")
    files = parser.parse_args(arguments).file
    connection = inherited_socket()
    if connection is None:
        return _describe(files)
    # Nothing here forks. Where the user's code does, the child must not hold the socket: the worker could not see that this process has ended.
    os.register_at_fork(after_in_child=lambda: os.close(connection.detach()))
    # The thread of the fault alone: the worker shows the last lines, and they should be the user's.
    faulthandler.enable(file=2, all_threads=False)
    interrupt.install()
    handler = Handler(connection)
    output.install()
    handler.listen()
    try:
        for name in files:
            load(name)
        handler.hello()
    except BaseException as error:
        handler.end()
        _say_import_failed(files, error)
        return 1
    try:
        handler.set_up()
    except SetUpFailed as error:
        handler.end()
        handler.tell({"type": "setup_failed", "message": cut(str(error))})
        return 1
    handler.serve()
    handler.tear_down()
    return 0


def _say_import_failed(files: list[str], error: BaseException) -> None:
    told = f"it called sys.exit({error.code!r})" if isinstance(error, SystemExit) else described(error)
    # Real standard error: the worker puts its last lines into what it tells of the crash.
    print(f"gpufleet: {', '.join(files)} cannot be served: {told}", file=sys.__stderr__, flush=True)


def _describe(files: list[str]) -> int:
    try:
        for name in files:
            load(name)
        shown = json.dumps([task.hello() for task in kinds().values()], indent=2)
    except BaseException as error:
        _say_import_failed(files, error)
        return 1
    print(shown)
    print("No worker started this process: `gpufleet up --handler FILE` serves these kinds.", file=sys.stderr)
    return 0
