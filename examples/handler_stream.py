from collections.abc import Iterator

from gpufleet import context, task


@task("spell")
def spell(text: str) -> Iterator[str]:
    for number, letter in enumerate(text, 1):
        context.raise_if_cancelled()
        context.progress(number / len(text))
        yield letter  # A part of the output; all of them together are the result.
