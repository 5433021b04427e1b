"""What reading a memory costs, and what rounding leaves of one: a figure of the method, not of the clock."""

import tempfile
from pathlib import Path


class Meter:
    """Reading 64 random sequences of 16 tokens with the tiny Gemma 3."""

    version = "1"

    def setup(self):
        import numpy as np

        from gemma_bench.models.loading import load
        from gemma_bench.models.tiny import random_folder

        self.where = tempfile.TemporaryDirectory()
        self.backend = load(random_folder(Path(self.where.name) / "tiny"), "torch", "cpu")
        self.data = np.random.default_rng(0).integers(6, 262, (64, 16))

    def teardown(self):
        self.where.cleanup()

    def time_memory(self):
        from gemma_bench.measure.capacity import memory, uniform
        from gemma_bench.measure.likelihood import of_backend

        memory(of_backend(self.backend), uniform(256), [self.data])


def track_percent_lost_to_4_bits():
    """Track the share of memorised bits that 4 bits in groups of 64 lose, on a small and quick model."""
    from gemma_bench.experiments.quantized_memory import FIXTURE, run

    (record,) = run(FIXTURE.model_copy(update={"visits": 100, "seeds": (0,)}))
    return 100 * (1 - record.kept(4, "fitted", FIXTURE.fill_ratios[0])[0])


track_percent_lost_to_4_bits.unit = "percent"
track_percent_lost_to_4_bits.version = "1"


class Stack:
    """Training a stack of tiny models, six at a time, against transformers' model in a loop, in turn."""

    version = "1"

    def setup_cache(self):
        from gemma_bench.experiments.engine_speed import FIXTURE, run

        (record,) = run(FIXTURE)
        return record.model_dump()

    def track_ms_per_model_step(self, record):
        return record["stack_ms_per_step"]

    def track_ms_per_step_of_the_loop(self, record):
        return record["loop_ms_per_step"]

    def track_stack_over_loop(self, record):
        return 1 / record["speedup_ratio"]

    def track_bytes(self, record):
        return record["stack_bytes"]

    track_ms_per_model_step.unit = track_ms_per_step_of_the_loop.unit = "ms"
    track_stack_over_loop.unit = "ratio"
    track_bytes.unit = "bytes"
