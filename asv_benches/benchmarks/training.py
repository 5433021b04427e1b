"""Training: what a merge costs, and what a step of each method costs over one of LoRA; one micro model."""

import time
from statistics import median


class Merge:
    """Merging and restarting all adapters of the micro model."""

    version = "1"
    params = (["float32", "bfloat16"],)
    param_names = ("dtype",)

    def setup(self, dtype):
        import torch

        from gemma_bench.training.adapters import attach, layers
        from gemma_bench.training.micro import micro_model

        self.layers = layers(attach(micro_model(dtype=getattr(torch, dtype)), 4))
        self.generator = torch.Generator()

    def time_merge_and_restart(self, dtype):  # noqa: ARG002
        from gemma_bench.training.adapters import merge_and_restart

        merge_and_restart(self.layers, self.generator)


class Steps:
    """CPU time of a step over that of a LoRA step of the same rank, in turn."""

    version = "1"
    timeout = 300

    def track_relora_over_lora(self):
        from gemma_bench.methods.relora import ReLoRA
        from gemma_bench.training.method import Lora

        return self._ratio(ReLoRA(rank=4, reset_interval=5, rewarm_steps=1), Lora(rank=4))

    def track_rank_one_over_lora(self):
        from gemma_bench.methods.rank_one import RankOne
        from gemma_bench.training.method import Lora

        return self._ratio(RankOne(rule="random_a"), Lora(rank=1))

    def _ratio(self, method, plain):
        return median(self._cost(method) / self._cost(plain) for _ in range(5))

    def _cost(self, method):
        from gemma_bench.training.corpus import Windows, python_sources
        from gemma_bench.training.micro import micro_model
        from gemma_bench.training.settings import Settings
        from gemma_bench.training.trainer import Trainer

        settings = Settings(iters=15, batch_size=8)
        trainer = Trainer(method.prepare(micro_model(), settings), Windows(python_sources().train, 64), settings)
        start = time.process_time()
        trainer.train()
        return time.process_time() - start

    track_relora_over_lora.unit = track_rank_one_over_lora.unit = "ratio"
