"""A handler whose kernel reads out of bounds when it is asked to, beside right work."""

import os

from gpufleet import task


@task("picks")
class Picks:
    def setup(self, gpu):
        import torch

        self.torch, self.device = torch, gpu.device
        self.numbers = torch.arange(16, device=self.device)

    def run(self, place: int):
        index = self.torch.tensor([place], device=self.device)
        return {"pid": os.getpid(), "picked": self.numbers[index].tolist()[0]}
