"""A handler that keeps memory on the GPU."""

import os
import time

from gpufleet import task


@task("holds")
class Holds:
    def setup(self, gpu):
        import torch

        # Longer than between two samples: that the process before gave its memory back must show.
        time.sleep(1.2)
        self.held = torch.zeros(int(os.environ["HELD"]), dtype=torch.uint8, device=gpu.device)
        torch.cuda.synchronize()

    def run(self):
        return {"pid": os.getpid(), "held": self.held.numel()}
