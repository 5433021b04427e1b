"""transformers' own `Trainer`, lean enough for models of a few milliseconds per step.

Loss, batches and order come from outside; no step is logged, saved or evaluated unless the settings say so. A minimal
run:

    corpus = python_sources()
    settings = Settings(iters=240, learning_rate=2.5e-3, batch_size=8, warmup_steps=20)
    model = fit(micro_model(seed=0), Lora(rank=4), Windows(corpus.train, 64), settings).model
    print(mean_nats(model, Windows(corpus.held_out, 64), rows=64))
"""

import itertools
import math
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence, Sized
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
import transformers
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from transformers import PrinterCallback, TrainerCallback, TrainingArguments

from gemma_bench.core.errors import BadInputError, InvalidRunError
from gemma_bench.models.torch_backend import quiet_transformers
from gemma_bench.training import checkpoint
from gemma_bench.training.method import Method, Prepared
from gemma_bench.training.objective import Batch, NextToken, Objective
from gemma_bench.training.order import Order
from gemma_bench.training.settings import Settings

Rows = Dataset[Any]

_NAMES = ("activation_checkpointing", "gradient_checkpointing")
_CHECKPOINTING = next(name for name in _NAMES if name in TrainingArguments.__dataclass_fields__)
"""Earlier releases of transformers 5 know the second name only, later ones warn of it."""

if TYPE_CHECKING:
    Base = Any  # transformers' own types allow a model to be missing, everywhere
else:
    Base = transformers.Trainer


class Trainer(Base):  # type: ignore[misc]
    """One training run of a prepared model in one process."""

    def __init__(
        self,
        prepared: Prepared,
        rows: Rows,
        settings: Settings,
        *,
        objective: Objective | None = None,
        held_out: Rows | None = None,
        callbacks: Sequence[TrainerCallback] = (),
        folder: Path | None = None,
        identity: Mapping[str, Any] | None = None,
        device: str = "cpu",
        autocast: bool = False,
    ) -> None:
        """Take everything; nothing is written unless there is a `folder`, whose checkpoints carry the `identity`."""
        self.prepared, self.settings, self.objective = (
            prepared,
            settings,
            objective or prepared.objective or NextToken(),
        )
        self.folder, self.identity, self.waiting = folder, dict(identity or {}), dict[str, Any]()
        optimizer = prepared.optimizer([{"params": group.parameters} for group in prepared.groups], settings)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, [group.schedule for group in prepared.groups])
        with quiet_transformers():
            super().__init__(
                prepared.model,
                _arguments(settings, folder, device, autocast=autocast, evaluates=held_out is not None),
                train_dataset=rows,
                eval_dataset=held_out,
                callbacks=[*prepared.callbacks, *callbacks],
                optimizers=(optimizer, schedule),
            )
        self.remove_callback(PrinterCallback)
        if self.accelerator.num_processes > 1:
            raise BadInputError(f"training runs in one process, got {self.accelerator.num_processes}")

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Return all batches of the run as one epoch, in an order that follows from the seed."""
        count = self.settings.iters * self.settings.gradient_accumulation
        order = Order(len(self.train_dataset), self.settings.batch_size, count, self.settings.seed)
        return DataLoader(self.train_dataset, batch_sampler=order, collate_fn=self.objective.collate)

    def train(self, resume_from_checkpoint: Path | None = None) -> Any:
        """Train to the end, from the start or from a checkpoint."""
        self.model.train()
        with quiet_transformers(), self._naming_good_checkpoint():
            return super().train(resume_from_checkpoint=resume_from_checkpoint and str(resume_from_checkpoint))

    def get_batch_samples(self, epoch_iterator: Iterator[Batch], num_batches: int, device: Any) -> Any:  # noqa: ARG002
        """Return the batches of one step and how many targets they have together."""
        batches = list(itertools.islice(epoch_iterator, num_batches))
        return batches, sum(map(self.objective.target_count, batches))

    def training_step(self, model: nn.Module, inputs: Batch, num_items_in_batch: int) -> Tensor:
        """Add one batch's gradients; the loss is its share of the step's mean over targets."""
        with self.accelerator.autocast():
            loss: Tensor = self.objective(model, self._prepare_inputs(inputs)) / max(num_items_in_batch, 1)
        if not math.isfinite(value := loss.item()):
            raise self._diverged(f"loss became {value}")
        loss.backward()
        return loss.detach()

    def _clip_grad_norm(self, model: nn.Module) -> Tensor:  # noqa: ARG002
        norm = nn.utils.clip_grad_norm_(list(self._owned_gradients()), self.args.max_grad_norm)
        if not math.isfinite(float(norm)):
            raise self._diverged(f"gradient's norm became {float(norm)}")
        return norm

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        """Leave the norm out of the log where a method looks at gradients that no parameter has."""
        return super()._get_grad_norm(model, grad_norm) if any(True for _ in self._owned_gradients()) else None

    def _owned_gradients(self) -> Iterator[nn.Parameter]:
        owned = (parameter for group in self.optimizer.param_groups for parameter in group["params"])
        return (parameter for parameter in owned if parameter.grad is not None)

    def _diverged(self, what: str) -> InvalidRunError:
        return InvalidRunError("diverged", f"the {what} in step {self.state.global_step + 1}")

    @contextmanager
    def _naming_good_checkpoint(self) -> Iterator[None]:
        """Add to the sentence on a run that diverged from where one can go on."""
        try:
            yield
        except InvalidRunError as error:
            left = checkpoint.what_is_good(self.folder, self.state.global_step)
            raise InvalidRunError(error.rule, f"{error}; {left}") from error

    def held_out_nats(self, rows: Rows, limit: int | None = None) -> float:
        """Return the mean loss over the targets of rows that are not trained on, in the precision of the steps."""
        with self._naming_good_checkpoint():
            return self._held_out_nats(rows, limit)

    def _held_out_nats(self, rows: Rows, limit: int | None = None) -> float:
        with self.accelerator.autocast():
            nats = mean_nats(self.model, rows, self.objective, batch_size=self.settings.batch_size, limit=limit)
        if not math.isfinite(nats):
            raise InvalidRunError("diverged", f"the loss became {nats} after step {self.state.global_step}")
        return nats

    def floating_point_ops(self, inputs: Batch) -> int:  # noqa: ARG002
        """Count nothing: counting would walk the whole model at every step."""
        return 0

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """Return the mean loss over the held-out targets and its perplexity."""
        nats = self._held_out_nats(self.eval_dataset)
        metrics = {"eval_loss": nats, "eval_perplexity": math.exp(min(nats, 700.0))}
        self.log(dict(metrics))
        self.control: Any = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:  # noqa: ARG002
        checkpoint.save(self)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:  # noqa: ARG002
        checkpoint.restore_model(self, Path(resume_from_checkpoint))

    def _load_optimizer_and_scheduler(self, checkpoint_folder: str | None) -> None:
        if checkpoint_folder is not None:
            checkpoint.restore_optimizer(self)

    def _load_rng_state(self, checkpoint_folder: str | None) -> None:
        if checkpoint_folder is not None:
            checkpoint.restore_counters(self)


def fit(model: nn.Module, method: Method, rows: Rows, settings: Settings, **more: Any) -> Trainer:
    """Train a model with a method and return the trainer, whose `model` is the trained one."""
    trainer = Trainer(method.prepare(model, settings), rows, settings, **more)
    trainer.train()
    return trainer


@torch.no_grad()
def mean_nats(
    model: nn.Module, rows: Rows, objective: Objective | None = None, *, batch_size: int = 8, limit: int | None = None
) -> float:
    """Return the mean loss over the targets of all rows, or of the first `limit`; the model's mode stays as it was."""
    objective, device = objective or NextToken(), next(model.parameters()).device
    count = min(limit or sys.maxsize, len(cast(Sized, rows)))
    batches = [list(range(start, min(start + batch_size, count))) for start in range(0, count, batch_size)]
    was_training = model.training
    model.eval()
    nats, targets = 0.0, 0
    for batch in DataLoader(rows, batch_sampler=batches, collate_fn=objective.collate):
        moved = {name: tensor.to(device) for name, tensor in batch.items()}
        nats += float(objective(model, moved))
        targets += objective.target_count(batch)
    model.train(was_training)
    if targets == 0:
        raise BadInputError("there is no token to predict in the evaluation's rows")
    return nats / targets


def _arguments(
    settings: Settings, folder: Path | None, device: str, *, autocast: bool, evaluates: bool
) -> TrainingArguments:
    def when(steps: int) -> str:
        return "steps" if steps else "no"

    checkpointing: Any = {_CHECKPOINTING: settings.checkpointing, f"{_CHECKPOINTING}_kwargs": {"use_reentrant": False}}
    arguments = TrainingArguments(
        output_dir=str(folder or tempfile.gettempdir()),
        max_steps=settings.iters,
        per_device_train_batch_size=settings.batch_size,
        gradient_accumulation_steps=settings.gradient_accumulation,
        max_grad_norm=settings.clip_norm or math.inf,  # at 0 transformers would not look at the norm either
        learning_rate=settings.learning_rate,
        **checkpointing,
        seed=settings.seed,
        use_cpu=device == "cpu",
        bf16=autocast,
        logging_strategy=when(settings.steps_per_report),
        logging_steps=settings.steps_per_report or 1,
        logging_nan_inf_filter=False,
        eval_strategy=when(settings.steps_per_eval if evaluates else 0),
        eval_steps=settings.steps_per_eval or None,
        save_strategy=when(settings.save_every if folder else 0),
        save_steps=settings.save_every or 1,
        report_to=[],
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=False,
    )
    arguments._n_gpu = min(arguments.n_gpu, 1)
    return arguments
