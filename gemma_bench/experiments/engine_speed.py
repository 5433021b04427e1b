"""The question: how many more steps of tiny models does a stack do per CPU-second than transformers' model in a loop.

Both train the same shape on the same batches from the same weights, in one thread and by turns. The stack's time holds
all that it does before its first step; the loop's model and optimiser are built beforehand.
"""

import time
from collections.abc import Callable

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from gemma_bench.core.errors import BadInputError
from gemma_bench.core.files import Progress, silent
from gemma_bench.core.records import Record, Subject
from gemma_bench.experiments.tiny_strings import TinyShape
from gemma_bench.measure.comparison import Comparison, compare
from gemma_bench.training.stack.arms import Arm, Training, Visits, scales
from gemma_bench.training.stack.exchange import to_transformers
from gemma_bench.training.stack.kernels import compiled
from gemma_bench.training.stack.room import model_bytes
from gemma_bench.training.stack.shape import random_weights
from gemma_bench.training.stack.stepper import one_thread
from gemma_bench.training.stack.train import train

VERSION = 1
MINUTES = {"fixture": 0.2, "study": 1}

_CHECKED_STEPS = 10


class Config(TinyShape):
    """One shape, how many models make a stack, and how many steps are timed at once on either side."""

    sequences: int = 160
    models: int = 6
    batch_size: int = 32
    rate: float = 0.01
    stack_steps: int = 60
    loop_steps: int = 60
    rounds: int = 5

    def check(self) -> None:
        """Refuse what cannot be timed."""
        for name in ("sequences", "models", "stack_steps", "loop_steps"):
            if getattr(self, name) < 1:
                raise BadInputError(f"{name} must be at least 1, got {getattr(self, name)}")


FIXTURE = Config()
"""The shape and the stack of the capacity curve at fixture scale."""

STUDY = Config(rounds=30)


class EngineRecord(Record):
    """`samples` are the stack's steps of single models per CPU-second; milliseconds are medians of CPU time per step.

    `largest_difference_nats` is how far any token's cost is from the loop's after the same few steps.
    """

    parameters_count: int
    models_count: int
    batch_size: int
    length_tokens: int
    is_compiled: bool
    stack_ms_per_step: float
    loop_ms_per_step: float
    speedup_ratio: float
    speedup_low_ratio: float
    speedup_high_ratio: float
    smallest_effect_percent: float
    stack_bytes: int
    largest_difference_nats: float


def run(config: Config, *, scale: str = "fixture", progress: Progress = silent) -> tuple[EngineRecord, ...]:
    """Time both in turn, see that they compute the same, and return one record."""
    config.check()
    data = np.random.default_rng(0).integers(config.symbols, size=(config.sequences, config.length_tokens + 1))
    with one_thread():
        found = compare(
            lambda: _stack_rate(config, data), _loop_rate(Loop(config, data), config), config.rounds, progress
        )
        difference = _difference(config, data)
    return (_record(config, found, difference, scale),)


def _stack_rate(config: Config, data: np.ndarray) -> float:
    """Return the steps of single models per second of CPU time that a whole stack does."""
    arms = [Arm(seed, config.rate, config.stack_steps) for seed in range(config.models)]
    began = time.process_time()
    train(config.shape, arms, [data] * config.models, Training(batch=config.batch_size))
    return config.models * config.stack_steps / (time.process_time() - began)


def _loop_rate(loop: "Loop", config: Config) -> Callable[[], float]:
    def rate() -> float:
        began = time.process_time()
        for _ in range(config.loop_steps):
            loop.step()
        return config.loop_steps / (time.process_time() - began)

    return rate


class Loop:
    """The plain way: `Gemma3ForCausalLM`, torch's own fused AdamW and one batch after another."""

    def __init__(self, config: Config, data: np.ndarray, seed: int = 0, steps: int = 1_000_000) -> None:
        """Build the model that an arm of the same seed starts from."""
        self.arm, self.training = Arm(seed, config.rate, steps), Training(batch=config.batch_size)
        self.model = to_transformers(random_weights(config.shape, seed), config.shape).train()
        betas = self.training.beta1, self.training.beta2
        self._optimizer = torch.optim.AdamW(
            self.model.parameters(), betas=betas, eps=self.training.epsilon, weight_decay=0, fused=True
        )
        self._data, self._visits, self._done = torch.from_numpy(data), Visits(len(data), seed), 0

    def step(self) -> None:
        """Take one step on the next batch."""
        batch, first = self.training.batch, self._done * self.training.batch
        tokens = self._data[torch.from_numpy(self._visits.take(first, batch))]
        corrected = float(scales([self.arm], self.training, self._done, 1)[0, 0, 0])
        self._optimizer.param_groups[0]["lr"] = corrected * (1 - self.training.beta1 ** (self._done + 1))
        logits = self.model(input_ids=tokens[:, :-1], use_cache=False).logits
        self._optimizer.zero_grad()
        cross_entropy(logits.transpose(1, 2), tokens[:, 1:]).backward()
        self._optimizer.step()
        self._done += 1

    @torch.inference_mode()
    def nats(self, tokens: np.ndarray) -> np.ndarray:
        """Return what every token but the first costs."""
        read = torch.from_numpy(tokens)
        costs = cross_entropy(self.model(input_ids=read[:, :-1]).logits.transpose(1, 2), read[:, 1:], reduction="none")
        return costs.numpy()


def _difference(config: Config, data: np.ndarray) -> float:
    """Train both for a few steps from the same weights on the same batches and compare what every token costs."""
    loop = Loop(config, data, steps=_CHECKED_STEPS)
    for _ in range(_CHECKED_STEPS):
        loop.step()
    (one,) = train(config.shape, [loop.arm], [data], loop.training)
    return float(np.abs(one.scorer(config.shape)(data) - loop.nats(data)).max())


def _record(config: Config, found: Comparison, difference: float, scale: str) -> EngineRecord:
    training = Training(batch=config.batch_size)
    return EngineRecord.measured(
        Subject(model_id=config.model_id, dtype="float32", seed=0),
        experiment="engine_speed",
        experiment_version=VERSION,
        config_json=config.model_dump_json(),
        scale=scale,
        samples=found.a,
        parameters_count=config.shape.parameter_count,
        models_count=config.models,
        batch_size=config.batch_size,
        length_tokens=config.length_tokens,
        is_compiled=compiled() is not None,
        stack_ms_per_step=1000 / float(np.median(found.a)),
        loop_ms_per_step=1000 / float(np.median(found.b)),
        **found.ratio.named("speedup", "ratio"),
        smallest_effect_percent=found.smallest_effect_percent,
        stack_bytes=config.models * model_bytes(config.shape, training),
        largest_difference_nats=difference,
    )
