"""Decoding in blocks: passes per token of a model trained in seconds, and milliseconds per token of both decoders."""

import tempfile
from pathlib import Path


class Passes:
    """Three digits written out, by a micro model with the block objective: counted, so any change is a change."""

    version = "1"

    def setup_cache(self):
        from gemma_bench.experiments.set_block_speedup import FIXTURE, run

        smaller = {"mixtures": (("digits",),), "start_steps": 100, "tuning_steps": 300, "prompts": 200, "pool": 1000}
        (record,) = run(FIXTURE.model_copy(update=smaller))
        row = record.row_decoder.index("entropy", record.row_decoder.index("entropy") + 1)
        return {"passes_per_token": 1 / record.row_tokens_per_pass[row], "wrong": 1 - record.row_right_ratio[row]}

    def track_passes_per_token(self, found):
        return found["passes_per_token"]

    def track_wrong_percent(self, found):
        return 100 * found["wrong"]

    track_passes_per_token.unit = "passes"
    track_wrong_percent.unit = "percent"


class Time:
    """Four tokens a pass in blocks of 16, any weights: a pass costs what it costs. Shown, never gated."""

    version = "1"
    params = (["torch", "mlx"],)
    param_names = ("backend",)

    def setup(self, backend):
        from gemma_bench.experiments.set_block_time import FIXTURE, measure
        from gemma_bench.models.tiny import random_folder

        with tempfile.TemporaryDirectory() as where:
            folder = random_folder(Path(where) / "tiny")
            self.record = measure(FIXTURE.model_copy(update={"rounds": 4}), folder, backend)

    def track_block_ms_per_token(self, backend):  # noqa: ARG002
        return self.record.block_ms_per_token

    def track_one_by_one_ms_per_token(self, backend):  # noqa: ARG002
        return self.record.one_by_one_ms_per_token

    def track_time_over_one_by_one(self, backend):  # noqa: ARG002
        return 1 / self.record.speedup_ratio

    track_block_ms_per_token.unit = track_one_by_one_ms_per_token.unit = "ms"
    track_time_over_one_by_one.unit = "ratio"
