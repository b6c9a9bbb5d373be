"""Tensors that a payload names, where they lie: on the worker's GPU, or in memory that it shares. They are read there, and not copied."""

from __future__ import annotations

import mmap
import os
import sys
from typing import Any, Optional, Union

from . import cuda
from .values import FORMATS, SIZES, TO_NUMPY, Segment, Segmented

#: How CUDA's array interface calls numbers; what it cannot say goes as whole numbers of the same size.
_TYPES = {
    "bool": "|b1", "i8": "|i1", "i16": "<i2", "i32": "<i4", "i64": "<i8", "u8": "|u1", "u16": "<u2", "u32": "<u4", "u64": "<u8", "f16": "<f2", "bf16": "<i2", "f32": "<f4", "f64": "<f8",
}  # fmt: skip
#: What DLPack calls the host's memory and CUDA's.
_DLPACK_CPU, _DLPACK_CUDA = 1, 2


class _Host:
    """Bytes in this process's memory: its own, or shared with the worker."""

    def __init__(self, data: memoryview, mapping: Optional[mmap.mmap] = None) -> None:
        self.data = data
        self._mapping = mapping

    def close(self) -> None:
        # What is made of arrays on it, a result that is being sent, keeps the memory as long as it is used; the last one lets go of it.
        self.data = memoryview(b"")
        mapping, self._mapping = self._mapping, None
        if mapping is not None:
            try:
                mapping.close()
            except BufferError:
                pass


class _OnGpu:
    """Memory of the worker's, on the GPU. Opened at its first use."""

    def __init__(self, handle: bytes) -> None:
        self._handle = handle
        self._address: Optional[int] = None

    def address(self) -> int:
        if self._address is None:
            self._address = cuda.driver().open(self._handle)
        return self._address

    def close(self) -> None:
        address, self._address = self._address, None
        if address is not None:
            cuda.driver().close(address)


class Tensor(Segmented):
    """A tensor that a task was given: the hint of a parameter, and its value.

    It is there until the task is answered, or until ``close``: what is to stay longer is copied. Its numbers are never written: the fleet's tensors do not change. ``dtype`` is the
    name that the fleet has for its numbers (``"f32"``), ``shape`` the sizes of its dimensions, ``nbytes`` its length.
    """

    def __init__(self, dtype: str, shape: tuple[int, ...], source: Union[_Host, _OnGpu], *, name: Optional[str] = None, version: Optional[int] = None) -> None:
        if dtype not in SIZES:
            raise ValueError(f"the dtype {dtype!r} is unknown; known are {', '.join(SIZES)}")
        self.dtype = dtype
        self.shape = shape
        self.nbytes = SIZES[dtype]
        for side in shape:
            self.nbytes *= side
        #: The name and version in the fleet; ``None``: it came with the payload.
        self.name = name
        self.version = version
        self._source: Optional[Union[_Host, _OnGpu]] = source

    @classmethod
    def of_segment(cls, segment: Segment) -> Tensor:
        """Numbers that came with the payload."""
        dtype = segment.dtype if segment.dtype is not None else "u8"
        shape = segment.shape if segment.shape is not None else (segment.data.nbytes // SIZES[dtype],)
        return cls(dtype, shape, _Host(segment.data))

    @property
    def on_gpu(self) -> bool:
        """Whether it lies on the GPU, and not in the host's memory, as with simulated GPUs."""
        return isinstance(self._opened(), _OnGpu)

    @property
    def device(self) -> str:
        """Where it lies, as PyTorch says it: ``cuda:0`` or ``cpu``."""
        return "cuda:0" if self.on_gpu else "cpu"

    def flat(self) -> memoryview:
        """The numbers one after the other, without numpy. From a GPU they are copied."""
        code = FORMATS.get(self.dtype)
        if code is None or code == "e":
            raise TypeError(f"Python has no view of {self.dtype}: use numpy() or torch()")
        return self._bytes().cast(code)  # type: ignore[call-overload,no-any-return]

    def numpy(self) -> Any:
        """A numpy array that cannot be written, on the same memory. From a GPU it is copied."""
        return Segment(self._bytes(), self.dtype, self.shape).array()

    def torch(self) -> Any:
        """A tensor of PyTorch on the same memory, on the GPU or the CPU. Not to be written: on a GPU that would change the tensor of the fleet."""
        import torch  # type: ignore[import-not-found,unused-ignore]

        dtype = getattr(torch, TO_NUMPY[self.dtype])
        if not self.nbytes:
            return torch.empty(self.shape, dtype=dtype, device=self.device)
        source = self._opened()
        if isinstance(source, _OnGpu):
            made = torch.as_tensor(self, device=self.device)
            return made.view(dtype) if self.dtype == "bf16" else made
        # PyTorch has no tensors that cannot be written; what is written here goes to copies of the pages that nobody else sees.
        return torch.frombuffer(source.data, dtype=dtype).reshape(self.shape)

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        source = self._opened()
        if not isinstance(source, _OnGpu):
            raise AttributeError("the tensor lies in the host's memory: it has no __cuda_array_interface__")
        # That it is not to be written cannot be said: PyTorch refuses arrays that say so.
        place = (source.address() if self.nbytes else 0, False)
        return {"shape": self.shape, "typestr": _TYPES[self.dtype], "data": place, "strides": None, "version": 3}

    def __array__(self, dtype: Any = None, copy: Optional[bool] = None) -> Any:
        made = self.numpy()
        made = made if dtype is None else made.astype(dtype, copy=False)
        return made.copy() if copy else made

    def __dlpack__(self, **options: Any) -> Any:
        if self.on_gpu:
            return self.torch().__dlpack__(**options)
        source = self._opened()
        assert isinstance(source, _Host)
        # numpy gives away no array that cannot be written; see `torch`.
        return Segment(source.data, self.dtype, self.shape).array().__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        return (_DLPACK_CUDA, 0) if self.on_gpu else (_DLPACK_CPU, 0)

    def segment(self) -> Segment:
        """Its bytes, as they go into a message."""
        return Segment(self._bytes(), self.dtype, self.shape)

    def close(self) -> None:
        """Lets go of it. Done at the task's end in any case."""
        source, self._source = self._source, None
        if source is not None:
            source.close()

    def __enter__(self) -> Tensor:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def __repr__(self) -> str:
        where = "closed" if self._source is None else self.device
        return f"<Tensor {self.name or 'of the payload'}: {self.dtype}{list(self.shape)} {where}>"

    def _opened(self) -> Union[_Host, _OnGpu]:
        if self._source is None:
            raise ValueError(f"the tensor {self.name or 'of the payload'} is closed: it is there until its task is answered; copy what is to stay")
        return self._source

    def _bytes(self) -> memoryview:
        source = self._opened()
        if isinstance(source, _Host):
            return source.data.toreadonly()
        copied = bytearray(self.nbytes)
        if copied:
            cuda.driver().read(source.address(), copied)
        return memoryview(copied).toreadonly()


def received(entries: list[dict[str, Any]], descriptors: list[int]) -> list[Tensor]:
    """The tensors of a message. The descriptors are closed: what they stand for is mapped. ``ValueError``: they cannot be."""
    tensors: list[Tensor] = []
    try:
        for entry in entries:
            source = _source(entry, descriptors)
            tensors.append(Tensor(entry["dtype"], tuple(entry["shape"]), source, name=entry["tensor"], version=entry["version"]))
    except BaseException:
        for tensor in tensors:
            tensor.close()
        raise
    finally:
        for descriptor in descriptors:
            os.close(descriptor)
    return tensors


def _source(entry: dict[str, Any], descriptors: list[int]) -> Union[_Host, _OnGpu]:
    if "cuda_ipc" in entry:
        handle = bytes.fromhex(entry["cuda_ipc"])
        if len(handle) != cuda.HANDLE_BYTES:
            raise ValueError(f"the tensor {entry['tensor']} has a handle of {len(handle)} bytes, and CUDA's have {cuda.HANDLE_BYTES}")
        return _OnGpu(handle)
    if "shared" not in entry:
        # One without bytes.
        return _Host(memoryview(bytearray(entry["bytes"])))
    number, length = entry["shared"], entry["bytes"]
    if not 0 <= number < len(descriptors):
        raise ValueError(f"the tensor {entry['tensor']} is in memory number {number}, and {len(descriptors)} came")
    # From 3.13 on a mapping need not keep a descriptor of its own.
    untracked: dict[str, Any] = {"trackfd": False} if sys.version_info >= (3, 13) else {}
    mapping = mmap.mmap(descriptors[number], length, access=mmap.ACCESS_COPY, **untracked)
    return _Host(memoryview(mapping), mapping)


def find(reference: dict[str, Any], tensors: list[Tensor]) -> Optional[Tensor]:
    """The tensor that an object of a payload names: of a name without a version the latest that came. ``None``: it names none of them."""
    name, version = reference.get("tensor"), reference.get("version")
    if not isinstance(name, str):
        return None
    found = [each for each in tensors if each.name == name and version in (None, each.version)]
    return max(found, key=lambda each: each.version or 0, default=None)
