"""Memory of the GPU that belongs to the worker's process, by CUDA's driver alone: no package is needed for it."""

from __future__ import annotations

import ctypes
import threading
from typing import Any, Optional

#: Bytes of the handle by which one process opens memory of another.
HANDLE_BYTES = 64
#: CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS, the only flag there is.
_LAZILY = 1


class _Handle(ctypes.Structure):
    _fields_ = [("reserved", ctypes.c_char * HANDLE_BYTES)]


class Driver:
    """The few functions of ``libcuda`` that are needed. Each thread that calls them has a context: its own, or that which PyTorch and CuPy use too."""

    def __init__(self, library: Any) -> None:
        self._library = library
        self._lock = threading.Lock()
        self._primary: Optional[ctypes.c_void_p] = None
        address, size = ctypes.c_uint64, ctypes.c_size_t
        for name, arguments in {
            "cuIpcOpenMemHandle_v2": [ctypes.POINTER(address), _Handle, ctypes.c_uint],
            "cuIpcCloseMemHandle": [address],
            "cuMemcpyDtoH_v2": [ctypes.c_void_p, address, size],
        }.items():
            getattr(library, name).argtypes = arguments

    def open(self, handle: bytes) -> int:
        """Where the memory behind a handle is in this process."""
        self._enter()
        address = ctypes.c_uint64()
        self._call("cuIpcOpenMemHandle_v2", ctypes.byref(address), _Handle.from_buffer_copy(handle), _LAZILY, doing="open a tensor of the worker's")
        return address.value

    def close(self, address: int) -> None:
        """Lets go of memory that was opened, once nothing on the GPU reads it any more."""
        self._enter()
        self._call("cuCtxSynchronize", doing="wait for what reads a tensor")
        self._call("cuIpcCloseMemHandle", address, doing="let go of a tensor of the worker's")

    def read(self, address: int, into: bytearray) -> None:
        """Copies from the GPU."""
        self._enter()
        place = (ctypes.c_char * len(into)).from_buffer(into)
        self._call("cuMemcpyDtoH_v2", place, address, len(into), doing="read a tensor")

    def _enter(self) -> None:
        current = ctypes.c_void_p()
        self._call("cuInit", 0, doing="begin")
        self._call("cuCtxGetCurrent", ctypes.byref(current), doing="ask for the context")
        if current.value:
            return
        with self._lock:
            if self._primary is None:
                device, primary = ctypes.c_int(), ctypes.c_void_p()
                self._call("cuDeviceGet", ctypes.byref(device), 0, doing="find the GPU")
                self._call("cuDevicePrimaryCtxRetain", ctypes.byref(primary), device, doing="begin on the GPU")
                self._primary = primary
        self._call("cuCtxSetCurrent", self._primary, doing="begin on the GPU")

    def _call(self, name: str, *arguments: Any, doing: str) -> None:
        code = getattr(self._library, name)(*arguments)
        if code:
            text = ctypes.c_char_p()
            self._library.cuGetErrorString(code, ctypes.byref(text))
            # As PyTorch says it: what the runtime knows a lack of memory and a lost GPU by.
            raise RuntimeError(f"CUDA error: {(text.value or b'unknown').decode(errors='replace')} ({doing}: {name}, {code})")


_driver: Optional[Driver] = None


def driver() -> Driver:
    """The driver of this process. ``RuntimeError``: there is none."""
    global _driver
    if _driver is None:
        try:
            _driver = Driver(ctypes.CDLL("libcuda.so.1"))
        except (OSError, AttributeError) as error:
            raise RuntimeError(f"CUDA error: no driver can be used: {error}") from None
    return _driver
