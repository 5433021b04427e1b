"""The question: how much of the forward passes that set block decoding saves is saved in time.

How many tokens a pass fixes is given, so that any weights do: a pass costs what it costs, whatever it predicts.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from statistics import median

import numpy as np
from pydantic import BaseModel, ConfigDict

from gemma_bench.core.files import Progress, silent
from gemma_bench.core.intervals import Interval
from gemma_bench.core.records import Record
from gemma_bench.measure.comparison import Comparison, compare
from gemma_bench.measure.roofline import block_speedup
from gemma_bench.methods.block_samplers import FixedCount
from gemma_bench.methods.set_block_decoding import SetBlock, decode
from gemma_bench.methods.set_block_passes import Passes, passes_of
from gemma_bench.models.backend import Backend, subject
from gemma_bench.models.folder import ModelFolder
from gemma_bench.models.generation import generate
from gemma_bench.models.loading import load
from gemma_bench.models.weights import locate

VERSION = 1

_UNUSED_TOKEN = 3
"""Stands for hidden tokens where a model was not trained with one."""


class Config(BaseModel):
    """A model in some libraries, the width of a block, how many tokens each pass fixes, the work.

    `also` are further widths and precisions, one after the other; what a record keeps is the configuration of its own.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str = "tiny"
    backends: tuple[str, ...] = ("torch", "mlx")
    dtype: str = "float32"
    block_tokens: int = 16
    fixed_tokens: int = 4
    prompt_tokens: int = 8
    new_tokens: int = 48
    rounds: int = 6
    also: tuple[tuple[int, str], ...] = ()


FIXTURE = Config()
STUDY = Config(
    model="270m",
    backends=("torch",),
    block_tokens=8,
    rounds=4,
    also=((16, "float32"), (8, "bfloat16"), (16, "bfloat16")),
)
FULL = Config(model="270m", backends=("torch",), dtype="bfloat16", new_tokens=256, rounds=10)
MINUTES = {"fixture": 0.3, "study": 8, "full": 2}


class TimeRecord(Record):
    """One library; `samples` are the milliseconds per token in blocks.

    `turned_percent` is the speed-up in time over the saving in passes; `predicted_speedup_ratio` is eq. 16 of arXiv
    2509.04185 with the times of single passes measured here.
    """

    backend: str
    device: str
    passes_count: int
    passes_saving_ratio: float
    one_by_one_ms_per_token: float
    block_ms_per_token: float
    speedup_ratio: float
    speedup_low_ratio: float
    speedup_high_ratio: float
    predicted_speedup_ratio: float
    turned_percent: float
    turned_low_percent: float
    turned_high_percent: float

    @property
    def block_tokens(self) -> int:
        """The width of a block."""
        return Config.model_validate_json(self.config_json).block_tokens


def run(
    config: Config, *, scale: str = "fixture", device: str = "cpu", progress: Progress = silent
) -> Iterator[TimeRecord]:
    """Measure each width and precision in each library; yields a record for each."""
    folder = locate(config.model, progress)
    for block_tokens, dtype in ((config.block_tokens, config.dtype), *config.also):
        one = config.model_copy(update={"block_tokens": block_tokens, "dtype": dtype})
        for library in config.backends:
            yield measure(one, folder, library, device, scale, progress)


def measure(
    config: Config,
    folder: ModelFolder,
    library: str,
    device: str = "cpu",
    scale: str = "fixture",
    progress: Progress = silent,
) -> TimeRecord:
    """Time both ways to write in turn, at batch size 1, prompt included."""
    mask_token = _UNUSED_TOKEN if folder.mask_token is None else folder.mask_token
    backend = load(replace(folder, mask_token=mask_token), library, device, config.dtype)
    passes, prompt = passes_of(backend), list(range(10, 10 + config.prompt_tokens))
    method, count = SetBlock(config.block_tokens, FixedCount(config.fixed_tokens)), config.new_tokens

    def one_by_one() -> float:
        return _ms_per_token(backend, count, lambda: list(generate(backend, prompt, count)))

    def in_blocks() -> float:
        return _ms_per_token(backend, count, lambda: list(decode(passes, [prompt], count, method)))

    found = compare(one_by_one, in_blocks, config.rounds, progress)
    needed, per_block = len(list(decode(passes, [prompt], count, method))), config.block_tokens / config.fixed_tokens
    return _record(config, backend, found, needed, _predicted(backend, passes, method.block_size, per_block), scale)


def _predicted(backend: Backend, passes: Passes, width: int, per_block: float) -> float:
    one, block, double = (_pass_s(backend, passes, *widths) for widths in ((0, 1), (0, width), (width, width)))
    return block_speedup(width, per_block, one, block, double)


def _record(
    config: Config, backend: Backend, found: Comparison, needed: int, predicted: float, scale: str
) -> TimeRecord:
    saving = config.new_tokens / needed
    return TimeRecord.measured(
        subject(backend),
        experiment="set_block_time",
        experiment_version=VERSION,
        config_json=config.model_dump_json(exclude={"also"}),
        scale=scale,
        samples=found.b,
        backend=backend.name,
        device=backend.device,
        passes_count=needed,
        passes_saving_ratio=saving,
        one_by_one_ms_per_token=median(found.a),
        block_ms_per_token=median(found.b),
        **found.ratio.named("speedup", "ratio"),
        predicted_speedup_ratio=predicted,
        **Interval(*(100 * ratio / saving for ratio in found.ratio)).named("turned", "percent"),
    )


def _ms_per_token(backend: Backend, count: int, write: Callable[[], object]) -> float:
    backend.synchronize()
    start = time.perf_counter()
    write()
    backend.synchronize()
    return 1e3 * (time.perf_counter() - start) / count


def _pass_s(backend: Backend, passes: Passes, finished: int, block: int, repeats: int = 5) -> float:
    """Return the median seconds of a pass over so many finished tokens and a block behind them."""
    times = []
    for _ in range(repeats + 1):
        cache = passes.new_cache(np.zeros(1, dtype=int), 8 + finished + block)
        passes.read(cache, np.full((1, 8), 10), np.zeros((1, 0), dtype=int), np.zeros((1, 0), dtype=bool))
        start = time.perf_counter()
        is_masked = np.ones((1, block), dtype=bool)
        passes.read(cache, np.full((1, finished), 10), np.full((1, block), passes.mask_token), is_masked)
        backend.synchronize()
        times.append(time.perf_counter() - start)
    return median(times[1:])
