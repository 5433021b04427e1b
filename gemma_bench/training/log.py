"""What a run tells while it goes on: a line of JSON per report, TensorBoard, progress; and how it is asked to stop."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from transformers import TrainerCallback

from gemma_bench.core.errors import DamagedFileError
from gemma_bench.core.files import Progress, explained, read_text, write_text

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

LOG = "log.jsonl"
_SUMMARY = "train_runtime"


class Log(TrainerCallback):
    """Writes every report to log.jsonl and to TensorBoard; a resumed run first drops what it will tell again."""

    def __init__(self, folder: Path) -> None:
        """Take the run's folder."""
        self.folder = folder
        self.writer: SummaryWriter | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **more: Any) -> None:  # noqa: ARG002
        """Cut the log to the step that the run stands at."""
        from torch.utils.tensorboard import SummaryWriter

        path = self.folder / LOG
        lines = read_text(path, "log").splitlines(keepends=True) if path.exists() else []
        write_text(path, "".join(line for line in lines if _step(line) <= state.global_step))
        self.writer = SummaryWriter(str(self.folder / "tensorboard"), purge_step=state.global_step + 1)

    def on_log(self, args: Any, state: Any, control: Any, **more: Any) -> None:  # noqa: ARG002
        """Append one report."""
        if _SUMMARY not in more["logs"]:
            self.tell(state.global_step, more["logs"])

    def tell(self, step: int, values: Mapping[str, float]) -> None:
        """Append what was seen at a step."""
        if self.writer is None:
            return
        with explained(self.folder / LOG), (self.folder / LOG).open("a", encoding="utf-8") as stream:
            stream.write(json.dumps({"step": step, **values}) + "\n")
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)

    def on_train_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:  # noqa: ARG002
        """Close TensorBoard's file."""
        if self.writer is not None:
            self.writer.close()


def _step(line: str) -> float:
    """Return a line's step; what a kill left half-written comes after everything."""
    try:
        found = json.loads(line)
    except ValueError:
        return float("inf")
    step = found.get("step") if isinstance(found, dict) else None
    if not isinstance(step, int):
        raise DamagedFileError(f"log {LOG}: every line must have names and a step, got {line.strip()[:80]}")
    return step


class Bar(TrainerCallback):
    """Reports progress after every step, with the newest of the figures that are shown: loss, ranks."""

    SHOWN: ClassVar = {"loss": "loss", "rank": "rank", "effective_rank": "effective", "stable_rank": "stable"}

    def __init__(self, progress: Progress) -> None:
        """Take whom to tell."""
        self.progress = progress
        self.seen: dict[str, float] = {}

    def tell(self, step: int, values: Mapping[str, float]) -> None:  # noqa: ARG002
        """Take figures, of which some are shown."""
        self.seen |= {name: values[name] for name in self.SHOWN if name in values}

    def on_log(self, args: Any, state: Any, control: Any, **more: Any) -> None:  # noqa: ARG002
        """Take a report."""
        self.tell(state.global_step, more["logs"])

    def on_step_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:  # noqa: ARG002
        """Tell how many steps are done."""
        seen = ", ".join(f"{self.SHOWN[name]} {value:.3g}" for name, value in self.seen.items())
        self.progress(f"training: {seen}" if seen else "training", state.global_step, state.max_steps)


def to_both(log: Log, bar: Bar) -> Callable[[int, Mapping[str, float]], None]:
    """Return what tells the log and the progress of figures at a step."""

    def tell(step: int, values: Mapping[str, float]) -> None:
        log.tell(step, values)
        bar.tell(step, values)

    return tell


class Stop(TrainerCallback):
    """Ends a run after the step in hand, with a checkpoint, once `ask` was called: from a signal handler, say."""

    def __init__(self) -> None:
        """Start unasked."""
        self.is_asked = self.has_begun = False

    def ask(self, *_: Any) -> None:
        """Ask the run to stop; what has not begun to train is interrupted on the spot."""
        if not self.has_begun:
            raise KeyboardInterrupt
        self.is_asked = True

    def on_train_begin(self, args: Any, state: Any, control: Any, **more: Any) -> None:  # noqa: ARG002
        """From now on there is a step to finish and something to save."""
        self.has_begun = True

    def on_step_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:  # noqa: ARG002
        """Save and stop, if asked."""
        if self.is_asked:
            control.should_save = control.should_training_stop = True
