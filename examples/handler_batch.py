from __future__ import annotations

from typing import Union

from gpufleet import Batch, Fail, task


@task("lengths", batch=Batch(largest=16, wait_ms=5, size_max=10_000, size_of=len))
def lengths(text: list[str]) -> list[Union[int, Exception]]:
    return [len(each) if each else Fail("is empty", field="text") for each in text]
