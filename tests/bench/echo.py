"""The handler of part o."""

from typing import Any

from gpufleet import task


@task("echo.python", concurrency=8)
def echo(payload: Any) -> Any:
    return payload
