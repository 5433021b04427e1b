"""Loading, reading, writing and weighing Gemma 3; the real 270M where it is downloaded, else the series is skipped."""

import tempfile
from pathlib import Path
from statistics import median

MIXED = "mixed"
"""Our rounding that keeps the perplexity: embedding in 4 bits, layers in 8."""


def _folder(name, where, precision):
    """Return a model's folder; asv skips the series of a model that is not on this machine."""
    from gemma_bench.core.errors import UnavailableError
    from gemma_bench.models.weights import locate

    if name == "tiny":
        return _tiny(Path(where), precision)
    try:
        return locate(f"{name}-{precision}" if precision == MIXED else name)
    except UnavailableError as error:
        raise NotImplementedError(str(error)) from error


def _tiny(where, precision):
    from gemma_bench.models.quantising import SCHEMES, quantise
    from gemma_bench.models.tiny import random_folder

    plain = random_folder(where / "tiny")
    return quantise(plain, SCHEMES[MIXED], where / "mixed") if precision == MIXED else plain


class Model:
    """One model in one library and precision."""

    version = "1"
    params = (["tiny", "270m"], ["torch float32", "torch bfloat16", "torch mixed", "mlx float32"])
    param_names = ("model", "backend")

    def setup(self, model, backend):
        from gemma_bench.models.loading import load

        if model == "270m" and backend.startswith("mlx"):
            raise NotImplementedError("MLX's CPU build writes 3 tokens a second: too slow for a series")
        self.where = tempfile.TemporaryDirectory()
        self.library, precision = backend.split()
        self.folder = _folder(model, self.where.name, precision)
        self.precision = None if precision == MIXED else precision
        self.backend = load(self.folder, self.library, "cpu", self.precision)

    def teardown(self, model, backend):  # noqa: ARG002
        if hasattr(self, "where"):
            self.where.cleanup()


class Speed(Model):
    """Seconds: shown, never gated on a shared machine."""

    def time_load(self, model, backend):  # noqa: ARG002
        from gemma_bench.models.loading import load

        load(self.folder, self.library, "cpu", self.precision)

    def track_prefill_ms_per_token(self, model, backend):  # noqa: ARG002
        trial = self._trial()
        return 1e3 * trial.first_token_s / trial.workload.prompt_tokens

    def track_decode_ms_per_token(self, model, backend):  # noqa: ARG002
        return 1e3 * median(self._trial().token_s)

    def _trial(self):
        from gemma_bench.measure.throughput import Workload, run_trial

        run_trial(self.backend, Workload(8, 4))
        return run_trial(self.backend, Workload(64, 16))

    track_prefill_ms_per_token.unit = track_decode_ms_per_token.unit = "ms"


class Bytes(Model):
    """Counts: exact, so any change is a change."""

    def track_weight_bytes(self, model, backend):  # noqa: ARG002
        return self.backend.weight_bytes()

    def track_cache_bytes_after_20_tokens(self, model, backend):  # noqa: ARG002
        cache = self.backend.new_cache()
        for token in range(20):
            self.backend.logits([[token + 6]], cache=cache, last_only=True)
        return self.backend.cache_bytes(cache)

    track_weight_bytes.unit = track_cache_bytes_after_20_tokens.unit = "bytes"
