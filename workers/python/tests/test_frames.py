"""Frames and the values in them."""

from __future__ import annotations

import array
import dataclasses
import enum
import json
import socket
import threading
import unittest

from gpufleet.frames import Ended, FrameError, Reader, pack, send, unpack
from gpufleet.values import Encoder, natural, resolve

try:
    import numpy
except ImportError:
    numpy = None


def written(value, **options):
    """A value, as it goes out: its JSON and segments."""
    encoder = Encoder(**options)
    return json.loads(encoder.text(value)), [bytes(segment) for segment in encoder.segments]


class Frames(unittest.TestCase):
    def test_what_is_packed_is_unpacked_to_the_last_byte(self):
        for segments in ([], [b""], [b"abc", b"", bytes(range(256))]):
            text = json.dumps({"a": 1, "segments": [len(each) for each in segments]})
            head, came = unpack(b"".join(pack(text, [memoryview(each) for each in segments])))
            self.assertEqual((head["a"], [bytes(each) for each in came]), (1, segments))
        self.assertEqual(unpack(b'{"a": 1}'), ({"a": 1}, []))

    def test_a_frame_that_does_not_fit_is_refused(self):
        good = b"".join(pack('{"segments": [3]}', [memoryview(b"abc")]))
        for body in (b"\0\0", good[:-1], good + b"d", good[:8], b"\0\0\0\2[]", b"".join(pack('{"segments": [-1]}', [])), b"".join(pack('{"segments": "no"}', []))):
            with self.assertRaises(ValueError):
                unpack(body)
        with self.assertRaisesRegex(FrameError, "at most 1024"):
            pack("{}", [memoryview(b"a")] * 1025)
        with self.assertRaisesRegex(FrameError, "at most 16777215"):
            pack("a" * (1 << 24), [])

    def test_a_socket_that_takes_little_at_once_gets_all_of_it_in_order(self):
        ours, theirs = socket.socketpair()
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        segments = [memoryview(bytes([n % 251]) * (n * 97)) for n in range(1024)]
        text = json.dumps({"segments": [len(each) for each in segments]})
        sender = threading.Thread(target=lambda: (send(ours, pack(text, segments)), ours.close()))
        sender.start()
        reader = Reader(theirs)
        _head, came = reader.next()
        self.assertEqual([bytes(each) for each in came], [bytes(each) for each in segments])
        with self.assertRaises(Ended):
            reader.next()
        sender.join()
        theirs.close()


class Color(enum.Enum):
    RED = "red"


@dataclasses.dataclass
class Point:
    x: int
    data: bytes


class Values(unittest.TestCase):
    def test_bytes_are_segments_wherever_they_stand(self):
        value, segments = written({"a": [Point(1, b"xy")], "c": Color.RED, "s": {3}, "v": memoryview(b"")})
        self.assertEqual(value, {"a": [{"x": 1, "data": {"$segment": 0}}], "c": "red", "s": [3], "v": {"$segment": 1}})
        self.assertEqual(segments, [b"xy", b""])
        self.assertEqual(written(array.array("h", [1, -1])), ({"$segment": 0, "dtype": "i16", "shape": [2]}, [b"\1\0\xff\xff"]))
        self.assertEqual(written(memoryview(b"abcdef")[::2]), ({"$segment": 0}, [b"ace"]))

    def test_what_cannot_be_written_is_named(self):
        for value, says in ((object(), "builtins.object"), (float("inf"), "NaN or infinite"), ({"a": complex(1)}, "complex")):
            with self.assertRaisesRegex((TypeError, ValueError), says):
                written(value)
        with self.assertRaisesRegex(TypeError, "are JSON alone"):
            written([b"a"], raw=False)

    def test_references_are_checked_against_their_segments(self):
        segments = [memoryview(bytearray(24))]
        for reference in (
            {"$segment": 1}, {"$segment": -1}, {"$segment": "0"}, {"$segment": 0, "dtype": "f33"}, {"$segment": 0, "shape": [24]}, {"$segment": 0, "dtype": "f64", "shape": [4]},
            {"$segment": 0, "dtype": "f64", "shape": [-3, -1]},
        ):  # fmt: skip
            with self.subTest(reference), self.assertRaises(ValueError):
                resolve({"deep": [reference]}, segments)
        more = {"$segment": 0, "more": 1}
        self.assertEqual(resolve(more, segments), more)

    @unittest.skipIf(numpy is None, "numpy is not installed")
    def test_arrays_are_the_same_on_the_other_side_and_share_memory_with_it(self):
        for kind in ("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float16", "float32", "float64"):
            for shape in ((2, 3), (), (0, 4), (6,)):
                sent = (numpy.arange(numpy.prod(shape, dtype=int)) % 2).astype(kind).reshape(shape)
                value, segments = written({"a": sent})
                came = natural(resolve(value, [memoryview(bytearray(each)) for each in segments]))["a"]
                self.assertEqual((came.dtype, came.shape, came.tolist()), (sent.dtype, sent.shape, sent.tolist()))
        sent = numpy.arange(6, dtype=">i4").reshape(2, 3).T
        value, segments = written(sent)
        self.assertEqual((value["dtype"], value["shape"]), ("i32", [3, 2]))
        memory = bytearray(segments[0])
        came = natural(resolve(value, [memoryview(memory)]))
        self.assertEqual(came.tolist(), sent.tolist())
        came[0, 0] = 77
        self.assertEqual(memory[0], 77)
        self.assertEqual(written(numpy.float32(0.5)), (0.5, []))
        self.assertEqual(written([numpy.ones(2)], raw=False), ([[1.0, 1.0]], []))
        with self.assertRaisesRegex(TypeError, "an array of complex128"):
            written(numpy.ones(1, dtype=complex))
