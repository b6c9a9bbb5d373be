"""Python functions as kinds of a gpufleet (``task``), and a client for its tasks (``Client``, ``AsyncClient``)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .context import Context, Gpu, context
from .errors import Cancelled, ClientError, Fail, InvalidPayload, OutOfMemory, Retry, TaskCancelled, TaskError, TaskExpired, TaskFailed
from .hints import Range
from .tasks import Batch, Task, task
from .tensors import Tensor

if TYPE_CHECKING:
    from .client import AsyncClient, Client, Result

__version__ = "0.1.0"
__all__ = [
    "AsyncClient", "Batch", "Cancelled", "Client", "ClientError", "Context", "Fail", "Gpu", "InvalidPayload", "OutOfMemory", "Range", "Result", "Retry", "Task", "TaskCancelled",
    "TaskError", "TaskExpired", "TaskFailed", "Tensor", "context", "task",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    # A handler needs no client: it is loaded where it is used.
    if name in ("AsyncClient", "Client", "Result"):
        from . import client

        return getattr(client, name)
    raise AttributeError(f"module 'gpufleet' has no attribute {name!r}")
