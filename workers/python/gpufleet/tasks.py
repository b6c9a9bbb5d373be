"""``@task``: a function, or a class with state, becomes a kind of a fleet."""

from __future__ import annotations

import asyncio
import dataclasses
import inspect
import sys
import threading
import typing
from typing import TYPE_CHECKING, Any, Callable, Generic, Optional, TypeVar, Union

from .calls import Chunk, Sink, run_async, run_sync
from .context import Context, Gpu
from .errors import InvalidPayload
from .hints import Definitions, Member, Schema, Shape, compile_hint, hints_of, object_schema, read_object
from .values import Encoder, natural, resolve

F = TypeVar("F", bound=Callable[..., Any])

#: What a name of a kind may have.
_KIND_LETTERS = frozenset("abcdefghijklmnopqrstuvwxyz0123456789._-")


@dataclasses.dataclass(frozen=True)
class Batch:
    """A function that is given several payloads at once: each of its parameters is a list, and it returns a list of as many results.

    ``largest``: the most payloads. ``wait_ms``: how long the first one waits for others. ``size_of`` says how large a payload is, from the values of its parameters, and
    ``size_max`` bounds their sum in one call; a payload that is larger alone is run alone.
    """

    largest: int = 32
    wait_ms: int = 5
    size_max: Optional[float] = None
    size_of: Optional[Callable[..., float]] = None

    def __post_init__(self) -> None:
        if not 1 <= self.largest <= 1024:
            raise ValueError(f"Batch: largest must be 1 to 1024, not {self.largest}")
        if not 0 <= self.wait_ms <= 60_000:
            raise ValueError(f"Batch: wait_ms must be 0 to 60000, not {self.wait_ms}")
        if (self.size_max is None) != (self.size_of is None):
            raise ValueError("Batch: size_max and size_of belong together")


class Plan:
    """What the parameters of a task's function say: its schema, and how payloads become arguments."""

    def __init__(self, task: Task[Any], function: Any, names: dict[str, Any]) -> None:
        self._definitions = Definitions(names)
        self._members: dict[str, Member] = {}
        self._raw: Optional[tuple[str, Shape]] = None
        self._context: Optional[str] = None
        self.batch = task.batch
        self.kind = task.kind
        hints = hints_of(function, names)
        parameters = list(inspect.signature(function).parameters.values())
        self._take(function, parameters[1:] if task.is_class else parameters, hints)
        shape = {} if self._raw is None else self._raw[1].schema
        schema = dict(shape) if self._raw is not None else object_schema(self._members)
        if self._raw is None and self._takes_null():
            # Who has nothing to say may say nothing.
            schema["type"] = ["object", "null"]
        if self._definitions.schemas:
            schema["$defs"] = self._definitions.schemas
        #: Whether tensors that a payload names are given where they lie, and not as raw bytes.
        self.takes_tensors = self._definitions.takes_tensors
        self.schema: Schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}

    def _take(self, function: Any, parameters: list[inspect.Parameter], hints: dict[str, Any]) -> None:
        context = [each.name for each in parameters if hints.get(each.name) is Context or hints.get(each.name) == Optional[Context]]
        self._context = context[0] if context else None
        rest = [each for each in parameters if each.name not in context]
        for each in rest:
            where = f"{function.__qualname__}, parameter {each.name}"
            if each.kind in (each.POSITIONAL_ONLY, each.VAR_POSITIONAL, each.VAR_KEYWORD):
                raise TypeError(f"{where}: a payload is an object, whose names are those of the parameters: no *args, **kwargs or positional-only ones")
            try:
                hint = self._element(hints.get(each.name, Any))
                if len(rest) == 1 and each.name in ("payload", "payloads"):
                    self._raw = (each.name, compile_hint(hint, self._definitions))
                    return
                self._members[each.name] = self._member(each, compile_hint(hint, self._definitions))
            except TypeError as error:
                raise TypeError(f"{where}: {error}") from None

    def _element(self, hint: Any) -> Any:
        """In a batch, what the hint says of one payload."""
        if self.batch is None or hint is Any:
            return hint
        arguments = typing.get_args(hint)
        if hint is list or (typing.get_origin(hint) is list and arguments):
            return arguments[0] if arguments else Any
        raise TypeError(f"with batch= every parameter is a list of values, one for each payload: list[…], not {hint!r}")

    def _member(self, parameter: inspect.Parameter, shape: Shape) -> Member:
        if parameter.default is parameter.empty:
            return Member(shape, required=True)
        if self.batch is not None:
            raise TypeError("with batch= a parameter has no default: give one parameter `payloads: list[…]` of a dataclass whose fields have defaults")
        return Member(shape, required=False, default=parameter.default, has_default=True)

    def read(self, payload: Any) -> dict[str, Any]:
        """The arguments that a payload gives. ``InvalidPayload``: it does not fit."""
        if self._raw is not None:
            name, shape = self._raw
            return {name: shape.read(payload, "payload")}
        if payload is None and self._takes_null():
            payload = {}
        return read_object(self._members, payload, "payload")

    def _takes_null(self) -> bool:
        """Whether the payload may be null: no parameter has to be given."""
        return not any(member.required for member in self._members.values())

    def arguments(self, rows: list[dict[str, Any]], context: Context) -> dict[str, Any]:
        """What the function is called with: of a batch a list for each parameter."""
        if self.batch is None:
            arguments = dict(rows[0])
        else:
            names = [self._raw[0]] if self._raw is not None else list(self._members)
            arguments = {name: [row[name] for row in rows] for name in names}
        if self._context is not None:
            arguments[self._context] = context
        return arguments

    def payload_of(self, values: tuple[Any, ...], named: dict[str, Any]) -> Any:
        """The payload that stands for a call with these values."""
        if self._raw is not None:
            if len(values) + len(named) != 1:
                raise TypeError(f"{self.kind} takes one payload, and was given {len(values) + len(named)} values")
            return values[0] if values else next(iter(named.values()))
        names = list(self._members)
        if len(values) > len(names):
            raise TypeError(f"{self.kind} takes {len(names)} values ({', '.join(names)}), and was given {len(values)}")
        return {**dict(zip(names, values)), **named}

    def single_name(self) -> Optional[str]:
        """The one parameter, where there is one alone and the payload is an object with it."""
        return next(iter(self._members)) if self._raw is None and len(self._members) == 1 else None

    def names(self) -> set[str]:
        """The parameters that an object as payload has."""
        return set(self._members)


class Task(Generic[F]):
    """A kind and what runs it. Called, it is what was decorated."""

    def __init__(
        self, target: F, kind: str, *, batch: Optional[Batch], concurrency: Optional[int], about: Optional[str], warm_up: tuple[Any, ...], names: dict[str, Any]
    ) -> None:
        self.kind = kind
        self.target: Any = target
        self.batch = batch
        self.concurrency = concurrency
        self.is_class = inspect.isclass(target)
        self.warm_up = warm_up
        documentation = inspect.getdoc(target) or ""
        self.about = about if about is not None else documentation.split("\n\n")[0].replace("\n", " ").strip()
        function = self._function()
        self.is_async = inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function)
        self.is_generator = inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function)
        self._names = names
        self._plan: Optional[Plan] = None
        self._local: Any = None
        self.__doc__ = target.__doc__
        self.__name__ = getattr(target, "__name__", kind)
        self.__qualname__ = getattr(target, "__qualname__", kind)
        self.__module__ = target.__module__
        self.__wrapped__ = target

    if TYPE_CHECKING:
        __call__: F
    else:

        def __call__(self, *values, **named):
            return self.target(*values, **named)

    def __repr__(self) -> str:
        return f"<task {self.kind} {self.where()}>"

    def where(self) -> str:
        """File and line."""
        code = getattr(self._function(), "__code__", None)
        return f"({code.co_filename}:{code.co_firstlineno})" if code else f"({self.__module__}.{self.__qualname__})"

    def _function(self) -> Any:
        return self.target.run if self.is_class else self.target

    @property
    def plan(self) -> Plan:
        """What its hints say; read at the first use, when all that they name is there."""
        if self._plan is None:
            self._plan = Plan(self, self._function(), self._names)
        return self._plan

    def hello(self) -> dict[str, Any]:
        """How it is announced to a worker."""
        kind: dict[str, Any] = {"kind": self.kind, "schema": self.plan.schema}
        if self.about:
            kind["about"] = self.about
        if self.batch is not None:
            kind["batch"] = {"largest": self.batch.largest, "wait_ms": self.batch.wait_ms}
        if self.plan.takes_tensors:
            kind["tensors"] = True
        return kind

    def local(self, *values: Any, **named: Any) -> Any:
        """Runs one payload here, with no fleet: it is checked, converted and run as in a handler, and the result is what a client would get.

        Of a batch it is a batch of one. What the function raises comes through. A class is set up at the first call (``local_close`` tears it down).
        """
        result = self._run_local([self.plan.payload_of(values, named)])[0]
        if isinstance(result, BaseException):
            raise result
        return result

    def local_batch(self, payloads: list[Any]) -> list[Any]:
        """Runs payloads together, as a batch; a failure stands as an exception in its place. Where there is one parameter, its values may be given in place of payloads."""
        single, names = self.plan.single_name(), self.plan.names()
        whole = [each if single is None or (isinstance(each, dict) and each.keys() == names) else {single: each} for each in payloads]
        if self.batch is None:
            return [result for each in whole for result in self._run_local([each])]
        return self._run_local(whole)

    def local_close(self) -> None:
        """Ends what ``local`` has set up."""
        instance, self._local = self._local, None
        if instance is not None and hasattr(instance, "teardown"):
            _finished(instance.teardown())

    def _run_local(self, payloads: list[Any]) -> list[Any]:
        contexts = [Context(f"local-{number}", kind=self.kind, wants_parts=True) for number in range(len(payloads))]
        sink = _Kept(len(payloads))
        rows = []
        for number, (context, payload) in enumerate(zip(contexts, payloads)):
            try:
                rows.append((number, context, self.plan.read(_travelled(payload, resolved=True))))
            except InvalidPayload as error:
                sink.error(number, error)
        for chunk in chunks_of(self, self.bound(self._local_instance()), rows, sink):
            try:
                chunk.done(_finished(run_async(chunk)) if self.is_async else run_sync(chunk))
            except BaseException as error:
                if self.batch is None or not isinstance(error, Exception):
                    raise
                chunk.failed(error)
        return [result if isinstance(result, BaseException) else _travelled(result) for result in sink.results]

    def _local_instance(self) -> Any:
        if self.is_class and self._local is None:
            self._local = self.new(Gpu())
        return self._local

    def new(self, gpu: Gpu) -> Any:
        """A class's object, set up; ``None`` for a function."""
        if not self.is_class:
            return None
        instance = self.target()
        _finished(set_up(instance, gpu))
        return instance

    def warm(self, payload: Any, instance: Any, gpu: Gpu) -> Any:
        """Runs a payload whose result nobody wants. Of an async function it is to be awaited."""
        context = Context("warm-up", kind=self.kind, gpu=gpu)
        sink = _Kept(1)
        rows = [(0, context, self.plan.read(_travelled(payload, resolved=True)))]
        chunks = chunks_of(self, self.bound(instance), rows, sink)
        if not chunks:
            raise RuntimeError(str(sink.results[0]))
        (chunk,) = chunks
        return run_async(chunk) if self.is_async else run_sync(chunk)

    def bound(self, instance: Any) -> Any:
        """What is called."""
        return self.target if instance is None else instance.run


def set_up(instance: Any, gpu: Gpu) -> Any:
    """Calls ``setup``, with the GPU if it takes one. Of an async one it is to be awaited."""
    if not hasattr(instance, "setup"):
        return None
    return instance.setup(gpu) if inspect.signature(instance.setup).parameters else instance.setup()


class _Kept(Sink):
    """Results of a test with no fleet."""

    def __init__(self, count: int) -> None:
        self.results: list[Any] = [RuntimeError("the payload was not run")] * count

    def result(self, member: int, value: Any) -> None:
        self.results[member] = value

    def error(self, member: int, error: BaseException) -> None:
        self.results[member] = error


def _travelled(value: Any, *, resolved: bool = False) -> Any:
    """The value as it is once it went over the wire."""
    import json

    encoder = Encoder()
    value = resolve(json.loads(encoder.text(value)), [memoryview(bytearray(segment)) for segment in encoder.segments])
    return value if resolved else natural(value)


def _finished(made: Any) -> Any:
    """The outcome of a call that may have been one of an async function."""
    if not inspect.isawaitable(made):
        return made
    outcome: list[Any] = []

    def run() -> None:
        try:
            outcome.extend((True, asyncio.run(_awaited(made))))
        except BaseException as error:
            outcome.extend((False, error))

    # A thread of its own: the caller may be in a loop already.
    thread = threading.Thread(target=run, name="gpufleet-local")
    thread.start()
    thread.join()
    if outcome[0]:
        return outcome[1]
    raise outcome[1]


async def _awaited(made: Any) -> Any:
    return await made


def chunks_of(task: Task[Any], function: Any, rows: list[tuple[int, Context, dict[str, Any]]], sink: Sink) -> list[Chunk]:
    """The calls that payloads make: one for each, or, of a batch, as few as their sizes allow. Whose size cannot be told fails alone."""
    if task.batch is None:
        return [Chunk(task, function, [row], sink) for row in rows]
    chunks: list[list[tuple[int, Context, dict[str, Any]]]] = []
    filled = 0.0
    for row in rows:
        size = 0.0
        if task.batch.size_of is not None:
            try:
                size = float(task.batch.size_of(*row[2].values()))
            except Exception as error:
                sink.error(row[0], error)
                continue
        fits = chunks and len(chunks[-1]) < task.batch.largest and (task.batch.size_max is None or filled + size <= task.batch.size_max)
        if fits:
            chunks[-1].append(row)
            filled += size
        else:
            chunks.append([row])
            filled = size
    return [Chunk(task, function, chunk, sink) for chunk in chunks]


#: Every task that was decorated in this process, in order.
registered: list[Task[Any]] = []


@typing.overload
def task(kind: F) -> Task[F]: ...


@typing.overload
def task(
    kind: Optional[str] = None,
    *,
    batch: Optional[Batch] = None,
    concurrency: Optional[int] = None,
    about: Optional[str] = None,
    warm_up: Union[list[Any], tuple[Any, ...]] = (),
) -> Callable[[F], Task[F]]: ...


def task(
    kind: Any = None,
    *,
    batch: Optional[Batch] = None,
    concurrency: Optional[int] = None,
    about: Optional[str] = None,
    warm_up: Union[list[Any], tuple[Any, ...]] = (),
) -> Any:
    """Makes a function, or a class with ``run``, a kind of the fleet.

    ``kind``: its name; default: that of the function or class, in small letters. ``batch``: it takes several payloads at once. ``concurrency``: how many of its tasks, or run
    batches, this process runs at once; default: as the worker is configured. ``about``: a sentence for people; default: the first of the docstring. ``warm_up``: payloads that
    are run before the kind is offered.
    """
    if concurrency is not None and not 1 <= concurrency <= 1024:
        raise ValueError(f"@task: concurrency must be 1 to 1024, not {concurrency}")
    names = dict(sys._getframe(1).f_locals)

    def decorate(target: Any) -> Any:
        name = kind if isinstance(kind, str) else target.__name__.lower()
        if not 1 <= len(name) <= 64 or not set(name) <= _KIND_LETTERS:
            raise ValueError(f"@task: the name {name!r} must be 1 to 64 of a-z, 0-9, '.', '_' and '-'")
        if inspect.isclass(target) and not callable(getattr(target, "run", None)):
            raise TypeError(f"@task: the class {target.__qualname__} has no method run")
        made = Task(target, name, batch=batch, concurrency=concurrency, about=about, warm_up=tuple(warm_up), names=names)
        registered.append(made)
        return made

    return decorate(kind) if callable(kind) else decorate
