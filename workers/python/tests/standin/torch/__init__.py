"""Stands in for PyTorch in tests: the calls that the ready handlers make, over numpy. Numbers are right; there is no GPU, whatever a test says of one."""

from __future__ import annotations

import contextlib
import json
import os
from types import SimpleNamespace

import numpy

__version__ = "0.standin"
version = SimpleNamespace(cuda=None)
long, float32, float64, bfloat16, int16 = numpy.dtype("int64"), numpy.dtype("float32"), numpy.dtype("float64"), "bfloat16", numpy.dtype("int16")


class Tensor:
    """An array that says which device it is on. Two of different devices do not mix."""

    def __init__(self, array, device="cpu"):
        self.array, self.device = numpy.asarray(array), device

    @property
    def shape(self):
        return self.array.shape

    @property
    def dtype(self):
        return self.array.dtype

    def to(self, wanted):
        return Tensor(self.array, wanted) if isinstance(wanted, str) else Tensor(self.array.astype(wanted), self.device)

    def __getitem__(self, place):
        return Tensor(self.array[place], self.device)

    def __len__(self):
        return len(self.array)

    def __iter__(self):
        return (Tensor(row, self.device) for row in self.array)

    def _with(self, other, work):
        if isinstance(other, Tensor):
            assert other.device == self.device, f"{self.device} and {other.device}"
            other = other.array
        return Tensor(work(self.array, other), self.device)

    def __add__(self, other):
        return self._with(other, numpy.add)

    def __mul__(self, other):
        return self._with(other, numpy.multiply)

    def __truediv__(self, other):
        return self._with(other, numpy.divide)

    def __lt__(self, other):
        return self._with(other, numpy.less)

    def sum(self, dim):
        return Tensor(self.array.sum(axis=dim), self.device)

    def unsqueeze(self, dim):
        return Tensor(numpy.expand_dims(self.array, dim), self.device)

    def index_select(self, dim, index):
        assert dim == 0 and index.device == self.device
        return Tensor(self.array[index.array], self.device)

    def tolist(self):
        return self.array.tolist()

    def detach(self):
        return self

    def contiguous(self):
        return self

    def cpu(self):
        return Tensor(self.array)

    def numpy(self):
        assert self.device == "cpu", "a tensor on a GPU has no numpy array"
        return self.array


def tensor(values, dtype, device="cpu"):
    return Tensor(numpy.array(values, dtype=dtype), device)


def from_numpy(array):
    return Tensor(array)


def ones(shape, dtype, device="cpu"):
    return Tensor(numpy.ones(shape, dtype), device)


def zeros(shape, dtype, device="cpu"):
    return Tensor(numpy.zeros(shape, dtype), device)


def cat(tensors, dim):
    (device,) = {each.device for each in tensors}
    return Tensor(numpy.concatenate([each.array for each in tensors], axis=dim), device)


def stack(tensors, dim):
    (device,) = {each.device for each in tensors}
    return Tensor(numpy.stack([each.array for each in tensors], axis=dim), device)


def argmax(values, dim):
    return Tensor(values.array.argmax(axis=dim), values.device)


def cumsum(values, dim):
    return Tensor(values.array.cumsum(axis=dim), values.device)


def softmax(values, dim):
    raised = numpy.exp(values.array - values.array.max(axis=dim, keepdims=True))
    return Tensor(raised / raised.sum(axis=dim, keepdims=True), values.device)


def _normalize(values, dim):
    return Tensor(values.array / numpy.linalg.norm(values.array, axis=dim, keepdims=True), values.device)


nn = SimpleNamespace(functional=SimpleNamespace(normalize=_normalize))


def inference_mode():
    return contextlib.nullcontext()


class OutOfMemoryError(RuntimeError):
    pass


cuda = SimpleNamespace(
    is_available=lambda: os.environ.get("STANDIN_CUDA") == "1", is_initialized=lambda: False, empty_cache=lambda: None, OutOfMemoryError=OutOfMemoryError,
)  # fmt: skip


class _Saved:
    """What a test has saved as model.pt: twice x and y. It takes at most 8 rows, and refuses negative numbers."""

    def __init__(self, file, device):
        self.names = json.load(open(file))
        self.device = device
        self.forward = SimpleNamespace(schema=SimpleNamespace(arguments=[SimpleNamespace(name=name) for name in ("self", *self.names)]))

    def eval(self):
        return self

    def named_parameters(self):
        return [("weight", Tensor([1.0], self.device))]

    def __call__(self, x, y):
        with open(os.environ["STANDIN_LOG"], "a") as log:
            log.write(f"{len(x)}\n")
        if len(x) > 8:
            raise OutOfMemoryError("CUDA out of memory")
        if x.array.min() < 0:
            raise RuntimeError("a negative number")
        return x * 2.0 + y


jit = SimpleNamespace(load=lambda file, map_location: _Saved(file, map_location))
