"""Looking at a model while it trains, at an interval, and knowing what the looking cost."""

import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from torch import nn
from transformers import TrainerCallback

from gemma_bench.core.errors import BadInputError
from gemma_bench.models.folder import ModelFolder
from gemma_bench.training.method import Prepared

Look = Callable[[int, nn.Module], None]
"""Called with the number of steps done and the model."""

Tell = Callable[[int, Mapping[str, float]], None]
"""Called with a step and what was seen there, by name."""


class Watch(Protocol):
    """An instrument that follows a run from above: it is given to the run, which knows nothing else of it."""

    def begin(self, prepared: Prepared, source: ModelFolder, tell: Tell) -> TrainerCallback:
        """Return what looks at the model that was loaded from `source`, and tells what it sees."""
        ...

    def figures(self) -> dict[str, Any]:
        """Return fields of the run's record."""
        ...


class Watcher(TrainerCallback):
    """Looks at the model after every `interval` steps; `share` is what that took of the run's time."""

    def __init__(self, interval: int, look: Look, *, looks_at_the_end: bool = False) -> None:
        """Take how often to look, in steps, and what to do then."""
        if interval < 1:
            raise BadInputError(f"the interval of looking must be at least 1 step, got {interval}")
        self.interval, self.look, self.looks_at_the_end = interval, look, looks_at_the_end
        self.looking_s, self._began_s = 0.0, 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        """Start the clock."""
        self._began_s = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:  # noqa: ARG002
        """Look, if it is time to."""
        is_last = self.looks_at_the_end and state.global_step == state.max_steps
        if state.global_step % self.interval == 0 or is_last:
            began_s = time.perf_counter()
            self.look(state.global_step, given["model"])
            self.looking_s += time.perf_counter() - began_s

    @property
    def share(self) -> float:
        """Return the seconds spent looking over all seconds since training began."""
        return self.looking_s / max(time.perf_counter() - self._began_s, 1e-9)
