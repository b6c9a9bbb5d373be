"""What a worker is told of an exception."""

from __future__ import annotations

import asyncio
import gc
import os
import sys
import traceback
from typing import Any, Optional

from ..errors import Cancelled, Fail, InvalidPayload, OutOfMemory, Retry

#: Most of a message, in bytes: what was raised, and the last lines of where.
MESSAGE_BYTES = 4096
#: With these faults CUDA answers every later call of the process the same: whatever runs next fails too, until the process is another one.
_GPU_LOST = (
    "device-side assert", "illegal memory access", "illegal instruction", "misaligned address", "invalid program counter", "unspecified launch failure",
    "launch timed out", "hardware stack error", "uncorrectable ECC", "operation not supported on global/shared address space",
)  # fmt: skip
#: The exit code of a process that has lost its GPU.
GPU_LOST_CODE = 86
_OWN = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep


def failure(error: BaseException, *, cancelled: bool) -> dict[str, Any]:
    """The fields of an ``error`` message. ``cancelled``: nobody waits for the task any more. Whatever the user's exception is made of, it can be written."""
    try:
        fields = _failure(error, cancelled)
    except Exception as unreadable:
        return {"message": f"{type(error).__qualname__}, which cannot be shown: {type(unreadable).__name__}", "retry": True}
    return {name: cut(value) if isinstance(value, str) else value for name, value in fields.items()}


def _failure(error: BaseException, cancelled: bool) -> dict[str, Any]:
    if isinstance(error, InvalidPayload):
        return {"message": cut(error.problem), "code": "invalid_payload", "retry": False, "field": error.field}
    if isinstance(error, Retry):
        fields: dict[str, Any] = {"message": cut(str(error)), "retry": True}
        if error.after_s is not None:
            fields["retry_after_ms"] = int(error.after_s * 1000)
        if error.code is not None:
            fields["code"] = str(error.code)
        return fields
    if isinstance(error, Fail):
        return _failed(error)
    if is_out_of_memory(error):
        return _out_of_memory(error)
    if isinstance(error, (Cancelled, asyncio.CancelledError)):
        if cancelled:
            return {"message": "the task was cancelled", "code": "cancelled", "retry": False}
        return {"message": "the run was interrupted, though this task was not cancelled", "retry": True}
    if isinstance(error, SystemExit):
        return {"message": cut(f"the function called sys.exit({error.code!r}); raise Fail or Retry to end a task\n{frames(error)}"), "retry": True}
    return {"message": described(error), "retry": True}


def _failed(error: Fail) -> dict[str, Any]:
    fields = {"message": cut(str(error)), "code": str(error.code), "retry": False}
    if error.field is not None:
        field = str(error.field)
        is_path = field == "payload" or field.startswith(("payload.", "payload["))
        fields["field"] = field if is_path else f"payload.{field}"
    return fields


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory was too small: our own exception, Python's, or that of PyTorch, CuPy or JAX."""
    if isinstance(error, (OutOfMemory, MemoryError)) or any(each.__name__ == "OutOfMemoryError" for each in type(error).__mro__):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in ("CUDA out of memory", "CUDA error: out of memory", "RESOURCE_EXHAUSTED"))


def is_gpu_lost(error: BaseException) -> bool:
    """Whether a fault on the GPU has cost this process its CUDA context. PyTorch and CuPy say it in a ``RuntimeError``, with CUDA's own words."""
    if not isinstance(error, RuntimeError):
        return False
    try:
        told = str(error)
    except Exception:
        return False
    return "cuda" in told.lower() and any(words in told for words in _GPU_LOST)


def leave(error: BaseException) -> None:
    """Ends the process, which has lost its GPU. Its worker starts another, and what ran here runs alone from then on, so that only the one that did it is convicted."""
    stderr = sys.__stderr__
    if stderr is not None:
        stderr.write(f"gpufleet: a fault on the GPU, after which CUDA answers nothing in this process; it ends. {described(error)}\n")
        stderr.flush()
    os._exit(GPU_LOST_CODE)


def _out_of_memory(error: BaseException) -> dict[str, Any]:
    fields: dict[str, Any] = {"message": cut(str(error) or type(error).__name__), "out_of_memory": True}
    memory_mb: Optional[int] = getattr(error, "memory_mb", None)
    if memory_mb is not None:
        fields["memory_mb"] = max(int(memory_mb), 0)
    return fields


def described(error: BaseException) -> str:
    """What was raised and where, in the user's own code."""
    told = "".join(traceback.format_exception_only(type(error), error)).strip()
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if cause is not None:
        told += f"\ncaused by {''.join(traceback.format_exception_only(type(cause), cause)).strip()}"
    # The first words say what is wrong, the last lines where: what lies between is cut.
    told = cut(told, MESSAGE_BYTES // 2)
    where = frames(error).encode()
    room = MESSAGE_BYTES - len(told.encode()) - 8
    return told + "\n" + (where if len(where) <= room else b"  \xe2\x80\xa6\n" + where[-room:]).decode(errors="ignore") if where else told


def frames(error: BaseException) -> str:
    """The lines of the traceback that are not this package's own."""
    summary = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in summary if not (frame.filename.startswith("<frozen ") or os.path.abspath(frame.filename).startswith(_OWN))]
    return "".join(traceback.format_list(own)).rstrip()


def cut(text: str, bytes_max: int = MESSAGE_BYTES) -> str:
    """The beginning of a text."""
    encoded = text.encode(errors="replace")
    return encoded.decode() if len(encoded) <= bytes_max else encoded[: bytes_max - 3].decode(errors="ignore") + "…"


def forget(error: BaseException) -> None:
    """Lets go of what the frames of a failed run hold: a model's tensors must not outlive it."""
    traceback.clear_frames(error.__traceback__)
    for name in ("__traceback__", "__context__", "__cause__"):
        # Not by the user's own `__setattr__`, which may refuse: that of a frozen dataclass does.
        BaseException.__setattr__(error, name, None)
    torch = sys.modules.get("torch")
    if is_out_of_memory(error) and torch is not None and hasattr(torch, "cuda") and torch.cuda.is_initialized():
        gc.collect()
        torch.cuda.empty_cache()
