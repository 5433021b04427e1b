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
    """CPU time of a ReLoRA step over that of a LoRA step of the same rank, in turn, merges included."""

    version = "2"

    def track_relora_over_lora(self):
        from gemma_bench.methods.relora import ReLoRA
        from gemma_bench.training.method import Lora

        return _ratio(ReLoRA(rank=4, reset_interval=5, rewarm_steps=1), Lora(rank=4))

    track_relora_over_lora.unit = "ratio"


class RankOneSteps:
    """The same of a rank-1 step, by the rule that aims it; every step merges."""

    version = "1"
    params = (["random_a", "random_b", "top_pair", "error_feedback", "sign"],)
    param_names = ("rule",)

    def track_rank_one_over_lora(self, rule):
        from gemma_bench.methods.rank_one import RankOne
        from gemma_bench.training.method import Lora

        return _ratio(RankOne(rule=rule), Lora(rank=1, alpha=1))

    track_rank_one_over_lora.unit = "ratio"


def _ratio(method, plain):
    return median(_cost(method) / _cost(plain) for _ in range(5))


def _cost(method):
    from gemma_bench.training.corpus import Windows, python_sources
    from gemma_bench.training.micro import micro_model
    from gemma_bench.training.settings import Settings
    from gemma_bench.training.trainer import Trainer

    settings = Settings(iters=15, batch_size=8)
    trainer = Trainer(method.prepare(micro_model(), settings), Windows(python_sources().train, 64), settings)
    start = time.process_time()
    trainer.train()
    return time.process_time() - start


class Reading:
    """Reading the ranks of all changes of the micro model, from factors and from weights."""

    version = "1"
    params = (["factors", "weights"],)
    param_names = ("source",)

    def setup(self, source):
        from gemma_bench.measure.rank_evolution import effective_weights
        from gemma_bench.measure.spectrum import Factors
        from gemma_bench.training.adapters import attach, factors, layers
        from gemma_bench.training.micro import micro_model

        model = attach(micro_model(), 4)
        for layer in layers(model).values():
            layer.lora_B["default"].weight.data.normal_()
        if source == "factors":
            self.changes = {name: Factors(*factors(layer)) for name, layer in layers(model).items()}
        else:
            self.changes = {name: (weight, None) for name, weight in effective_weights(model).items()}

    def time_reading(self, source):  # noqa: ARG002
        from gemma_bench.measure.rank_evolution import RankReadings

        RankReadings(self.changes).read_changes(1, self.changes)


class Peak:
    """Bytes at the peak of a training step of the tiny model, counted on tensors without contents, by method."""

    version = "1"
    params = (["full", "lora", "relora", "rank1"],)
    param_names = ("method",)

    def track_forecast_peak_bytes(self, method):
        from gemma_bench.measure.training_memory import forecast
        from gemma_bench.methods.choice import method_named
        from gemma_bench.training.plan import Plan, trainable_size

        return forecast(Plan(trainable_size("tiny"), method_named(method, 4), 4, 64, "float32")).peak_bytes

    track_forecast_peak_bytes.unit = "bytes"
