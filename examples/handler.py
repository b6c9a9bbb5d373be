from gpufleet import task


@task
def shout(text: str) -> str:
    return text.upper() + "!"
