"""A handler that does nothing wrong."""

import os

from gpufleet import task


@task("steady")
class Steady:
    def setup(self, gpu):
        import torch

        self.torch, self.device = torch, gpu.device
        torch.zeros(1, device=self.device)

    def run(self, number: int):
        return {"pid": os.getpid(), "sum": int(self.torch.arange(number, device=self.device).sum())}
