"""Serves `invert`, and, run with the URL of a fleet, sends it a picture: no base64 on the way."""

import sys

from gpufleet import Client, task


@task
def invert(picture: bytearray) -> bytes:
    return bytes(255 - each for each in picture)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python raw_bytes.py http://HOST:PORT")
    with Client(sys.argv[1]) as client:
        result = client.submit("invert", {"picture": bytes(range(256)) * 64}).result(timeout=60)
        print(len(result.value), bytes(result.value[:3]).hex())
