"""Python values as JSON and raw bytes, and back. Arrays and bytes become segments of a frame; nothing is written as base64."""

from __future__ import annotations

import abc
import array
import dataclasses
import datetime
import enum
import json
import os
import sys
import uuid
from typing import Any, Callable, Optional

if sys.byteorder != "little":
    raise ImportError("gpufleet: arrays travel little-endian, and this machine is not")

#: How numbers of a segment are called, with their size in bytes.
SIZES = {
    "bool": 1, "i8": 1, "i16": 2, "i32": 4, "i64": 8, "u8": 1, "u16": 2, "u32": 4, "u64": 8, "f16": 2, "bf16": 2, "f32": 4, "f64": 8,
}  # fmt: skip
_FROM_NUMPY = {
    "bool": "bool", "int8": "i8", "int16": "i16", "int32": "i32", "int64": "i64", "uint8": "u8", "uint16": "u16", "uint32": "u32", "uint64": "u64",
    "float16": "f16", "bfloat16": "bf16", "float32": "f32", "float64": "f64",
}  # fmt: skip
#: How numpy and PyTorch call them.
TO_NUMPY = {ours: theirs for theirs, ours in _FROM_NUMPY.items()}
#: How the standard library calls them, where it does.
FORMATS = {
    "bool": "?", "i8": "b", "i16": "h", "i32": "i", "i64": "q", "u8": "B", "u16": "H", "u32": "I", "u64": "Q", "f16": "e", "f32": "f", "f64": "d",
}  # fmt: skip
_REFERENCE_KEYS = {"$segment", "dtype", "shape"}


@dataclasses.dataclass(frozen=True)
class Segment:
    """Raw bytes of a message: what a ``{"$segment": 0, …}`` in its JSON refers to."""

    data: memoryview
    dtype: Optional[str] = None
    shape: Optional[tuple[int, ...]] = None

    def natural(self) -> Any:
        """Bytes as a ``memoryview``; numbers as a numpy array where numpy is installed, otherwise as a ``memoryview`` of them. Nothing is copied."""
        if self.dtype is None:
            return self.data
        numpy = _numpy()
        if numpy is not None:
            return self.array()
        code = FORMATS.get(self.dtype)
        if code is None or code == "e":
            # No view of the standard library reads these.
            return self.data
        shape = self.shape if self.shape is not None else (self.data.nbytes // SIZES[self.dtype],)
        return self.data.cast(code, shape) if shape and 0 not in shape else self.data.cast(code)  # type: ignore[call-overload]

    def array(self) -> Any:
        """A numpy array on the same memory."""
        numpy = _numpy()
        if numpy is None:
            raise ImportError("numpy is not installed in the handler's Python")
        dtype = "uint8" if self.dtype is None else TO_NUMPY[self.dtype]
        if dtype == "bfloat16":
            flat = numpy.frombuffer(self.data, dtype="uint16")
            bfloat16 = _bfloat16()
            flat = flat if bfloat16 is None else flat.view(bfloat16)
        else:
            flat = numpy.frombuffer(self.data, dtype=dtype)
        return flat if self.shape is None else flat.reshape(self.shape)


def _numpy() -> Any:
    """numpy, where it is installed. It is loaded with the first array, never before."""
    found = sys.modules.get("numpy")
    if found is not None:
        return found
    try:
        import numpy  # type: ignore[import-not-found,unused-ignore]
    except ImportError:
        return None
    return numpy


def _bfloat16() -> Any:
    module = sys.modules.get("ml_dtypes")
    return None if module is None else module.bfloat16


class Segmented(abc.ABC):
    """A value that goes into a message as raw bytes."""

    @abc.abstractmethod
    def segment(self) -> Segment:
        """Its bytes."""


class Encoder:
    """Writes values as JSON text. ``segments`` are the raw bytes that the text refers to; they share the memory of the values.

    Without ``raw`` there are none: numbers are written as lists, and bytes are refused.
    """

    def __init__(self, *, raw: bool = True) -> None:
        self.segments: list[memoryview] = []
        self._raw = raw

    def text(self, value: Any) -> str:
        """The JSON text of a value. ``TypeError`` and ``ValueError`` say what cannot be written."""
        try:
            return json.dumps(value, default=self._other, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
        except ValueError as error:
            if "Out of range float" in str(error):
                raise ValueError("a number is NaN or infinite, which JSON cannot say: give it in an array, or as null") from None
            raise

    def lengths(self) -> list[int]:
        """The lengths of the segments, as a frame lists them."""
        return [segment.nbytes for segment in self.segments]

    def _other(self, value: Any) -> Any:
        """What stands in the JSON for a value that JSON does not have."""
        if not self._raw:
            return _listed(value)
        if isinstance(value, Segment):
            return self._reference(value.data, value.dtype, value.shape)
        if isinstance(value, Segmented):
            return self._other(value.segment())
        if isinstance(value, (bytes, bytearray)):
            return self._reference(memoryview(value), None, None)
        if isinstance(value, memoryview):
            return self._view(value)
        if isinstance(value, array.array):
            return self._view(memoryview(value))
        written = self._of_library(value)
        if written is not None:
            return written
        return _plain(value)

    def _view(self, view: memoryview) -> Any:
        names = {"l": f"i{8 * view.itemsize}", "L": f"u{8 * view.itemsize}", **{code: name for name, code in FORMATS.items()}}
        name = names.get(view.format.lstrip("@=<"))
        if view.format == "c" or name is None:
            name = None
        if not view.contiguous:
            view = memoryview(view.tobytes()).cast(view.format, view.shape)  # type: ignore[call-overload]
        if name in (None, "u8") and view.ndim == 1:
            return self._reference(view, None, None)
        return self._reference(view, name, tuple(view.shape or ()))

    def _of_library(self, value: Any) -> Any:
        """Arrays and scalars of numpy, tensors of PyTorch, pydantic's models. ``None``: it is none of these. A library that is not loaded has made no value."""
        numpy, torch, pydantic = (sys.modules.get(name) for name in ("numpy", "torch", "pydantic"))
        if numpy is not None and isinstance(value, numpy.ndarray):
            return self._array(numpy, value)
        if numpy is not None and isinstance(value, numpy.generic):
            return value.item()
        if torch is not None and hasattr(torch, "Tensor") and isinstance(value, torch.Tensor):
            return self._tensor(torch, value)
        if pydantic is not None and hasattr(pydantic, "BaseModel") and isinstance(value, pydantic.BaseModel):
            return value.model_dump()
        return None

    def _array(self, numpy: Any, value: Any) -> Any:
        name = _FROM_NUMPY.get(value.dtype.name)
        if name is None:
            raise TypeError(f"an array of {value.dtype} cannot be written: give numbers ({', '.join(SIZES)})")
        shape = tuple(int(side) for side in value.shape)
        if value.dtype.byteorder == ">":
            value = value.astype(value.dtype.newbyteorder("<"))
        flat = numpy.ascontiguousarray(value).reshape(-1)
        return self._reference(memoryview(flat.view("uint8")), name, shape)

    def _tensor(self, torch: Any, value: Any) -> Any:
        value = value.detach().cpu().contiguous()
        if value.dtype == torch.bfloat16:
            flat = value.view(torch.int16).numpy().reshape(-1)
            return self._reference(memoryview(flat.view("uint8")), "bf16", tuple(value.shape))
        return value.numpy()

    def _reference(self, data: memoryview, dtype: Optional[str], shape: Optional[tuple[int, ...]]) -> dict[str, Any]:
        # A view without elements cannot be cast.
        self.segments.append(data.cast("B") if data.nbytes else memoryview(b""))
        reference: dict[str, Any] = {"$segment": len(self.segments) - 1}
        if dtype is not None:
            reference["dtype"] = dtype
        if shape is not None:
            reference["shape"] = list(shape)
        return reference


def _listed(value: Any) -> Any:
    """A value where no raw bytes can travel."""
    if isinstance(value, (Segment, Segmented, bytes, bytearray)):
        raise TypeError("raw bytes cannot be written here: parts of an output, and items of a batch, are JSON alone")
    return value.tolist() if hasattr(value, "tolist") else _plain(value)


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, (set, frozenset)):
        return list(value)
    if isinstance(value, (datetime.datetime, datetime.date)):
        return value.isoformat()
    if isinstance(value, (uuid.UUID, os.PathLike)):
        return str(value)
    raise TypeError(f"{type(value).__module__}.{type(value).__qualname__} cannot be written as JSON: give str, numbers, lists, dicts, dataclasses, bytes or arrays")


def resolve(value: Any, segments: list[memoryview], named: Optional[Callable[[dict[str, Any]], Any]] = None) -> Any:
    """The value with a ``Segment`` in the place of each reference, and in the place of an object what ``named`` has for it. ``ValueError`` says which reference does not fit."""
    if not segments and named is None:
        return value
    if isinstance(value, list):
        return [resolve(each, segments, named) for each in value]
    if not isinstance(value, dict):
        return value
    if "$segment" in value and value.keys() <= _REFERENCE_KEYS:
        return _segment(value, segments)
    found = None if named is None else named(value)
    return found if found is not None else {key: resolve(each, segments, named) for key, each in value.items()}


def _segment(reference: dict[str, Any], segments: list[memoryview]) -> Segment:
    number, dtype, shape = reference["$segment"], reference.get("dtype"), reference.get("shape")
    if type(number) is not int or not 0 <= number < len(segments):
        raise ValueError(f"a reference to segment {number!r}, and there are {len(segments)}")
    data = segments[number]
    if dtype is None:
        if shape is not None:
            raise ValueError(f"the reference to segment {number} has a shape and no dtype")
        return Segment(data)
    if dtype not in SIZES:
        raise ValueError(f"the dtype {dtype!r} of segment {number} is unknown; known are {', '.join(SIZES)}")
    if shape is None:
        if data.nbytes % SIZES[dtype]:
            raise ValueError(f"segment {number} has {data.nbytes} bytes, which is no whole number of {dtype}")
        return Segment(data, dtype)
    if not isinstance(shape, list) or not all(type(side) is int and side >= 0 for side in shape):
        raise ValueError(f"the shape of segment {number} must be a list of sizes")
    wanted = SIZES[dtype]
    for side in shape:
        wanted *= side
    if wanted != data.nbytes:
        raise ValueError(f"segment {number} has {data.nbytes} bytes, and the shape {shape} of {dtype} takes {wanted}")
    return Segment(data, dtype, tuple(shape))


def natural(value: Any) -> Any:
    """The value with bytes and arrays in the place of each ``Segment``."""
    if isinstance(value, Segment):
        return value.natural()
    if isinstance(value, list):
        return [natural(each) for each in value]
    if isinstance(value, dict):
        return {key: natural(each) for key, each in value.items()}
    return value
