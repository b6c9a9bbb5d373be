from gpufleet import Gpu, task


@task("count_words", warm_up=[{"text": "a b"}])
class CountWords:
    def setup(self, gpu: Gpu) -> None:  # Once in each process: load the model here, onto gpu.device.
        self.separators = str.maketrans("-_", "  ")

    def run(self, text: str, shortest: int = 1) -> int:
        return sum(len(word) >= shortest for word in text.translate(self.separators).split())

    def health(self) -> bool:
        return self.separators is not None

    def teardown(self) -> None:
        del self.separators
