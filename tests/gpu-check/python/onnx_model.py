"""Writes a small model into the folder that it is given, and says what ONNX Runtime there is, and whether it runs the model on CUDA. Ends with 3 without one."""

import json
import pathlib
import struct
import sys

try:
    import onnxruntime
except Exception:
    sys.exit(3)


def whole(field, value):
    return bytes(varint(field << 3)) + bytes(varint(value))


def varint(value):
    while value > 127:
        yield value & 127 | 128
        value >>= 7
    yield value


def sized(field, content):
    content = content.encode() if isinstance(content, str) else content
    return bytes(varint(field << 3 | 2)) + bytes(varint(len(content))) + content


def port(name, *sides):
    shape = b"".join(sized(1, whole(1, side) if isinstance(side, int) else sized(2, side)) for side in sides)
    return sized(1, name) + sized(2, sized(1, whole(1, 1) + sized(2, shape)))


# y = x times a matrix of 3 rows and 2 columns.
matrix = whole(1, 3) + whole(1, 2) + whole(2, 1) + sized(8, "matrix") + sized(9, struct.pack("<6f", 1, 2, 3, 4, 5, 6))
step = sized(1, "x") + sized(1, "matrix") + sized(2, "y") + sized(3, "product") + sized(4, "MatMul")
graph = sized(1, step) + sized(2, "graph") + sized(5, matrix) + sized(11, port("x", "rows", 3)) + sized(12, port("y", "rows", 2))
path = pathlib.Path(sys.argv[1]) / "linear.onnx"
path.write_bytes(whole(1, 8) + sized(7, graph) + sized(8, sized(1, "") + whole(2, 13)))

if hasattr(onnxruntime, "preload_dlls"):
    onnxruntime.preload_dlls()
used = []
if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
    used = onnxruntime.InferenceSession(str(path), providers=["CUDAExecutionProvider", "CPUExecutionProvider"]).get_providers()
print(json.dumps({"folder": str(pathlib.Path(onnxruntime.__file__).parent / "capi"), "version": onnxruntime.__version__, "cuda": "CUDAExecutionProvider" in used}))
