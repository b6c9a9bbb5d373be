"""Serves `total`, and, run with the URL of a fleet, puts a tensor on a GPU and has it added up there: its numbers are sent once."""

import sys

from gpufleet import Client, Tensor, task


@task
def total(numbers: Tensor) -> float:
    return float(sum(numbers.flat()))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python handler_tensor.py http://HOST:PORT")
    with Client(sys.argv[1]) as client:
        client.submit("tensor.put", {"name": "example-numbers", "value": [1.5, 2, 3], "dtype": "f32"}).result(timeout=60)
        for payload in ({"numbers": {"tensor": "example-numbers"}},) * 2:
            print(client.submit("total", payload).result(timeout=60).value)
        client.submit("tensor.free", {"tensor": "example-numbers"}).result(timeout=60)
