"""``python -m gpufleet FILE_OR_MODULE …``: what a worker starts. Without a worker it prints the kinds and their schemas."""

from __future__ import annotations

import sys

from gpufleet.runtime.handler import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
