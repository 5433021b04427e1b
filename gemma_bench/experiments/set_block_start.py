"""Where a tuning starts: released weights, or a model of Gemma 3's shape that is initialised and trained here."""

import tempfile
from pathlib import Path
from typing import Any

from gemma_bench.core.files import Progress
from gemma_bench.experiments.set_block_tuning import NEXT_TOKEN, Tuning, evaluation_copy, tune
from gemma_bench.models.catalog import Size, find
from gemma_bench.models.loading import load
from gemma_bench.models.tiny import random_folder
from gemma_bench.models.tokenizer import byte_tokenizer
from gemma_bench.training.corpus import Corpus
from gemma_bench.training.short_run import ShortRun

START = "start"


class Start(Tuning):
    """A model and, where it is to be initialised here, how long it is trained on next tokens before it is tuned.

    With `start_steps` the model is a size of the catalogue with a vocabulary of bytes; nothing is fetched.
    """

    model: str = "270m"
    dtype: str | None = None
    start_steps: int | None = None
    start_budget_s: float = 0.0
    start_learning_rate: float = 1e-3


START_FIELDS = {name for name in Start.model_fields if name.startswith("start_")}
"""What says nothing about a run that begins with released weights."""


def first_model(config: Start, device: str, progress: Progress) -> Any:
    """Load the model's weights, or draw them from the seed."""
    if config.start_steps is None:
        return load(config.model, "torch", device, config.dtype, progress=progress)
    with tempfile.TemporaryDirectory() as folder:
        dtype = config.dtype or "bfloat16"
        made = random_folder(Path(folder) / START, size_of_bytes(config.model), seed=config.seed, dtype=dtype)
        return load(made, "torch", device, progress=progress)


def size_of_bytes(name: str) -> Size:
    """Return a size of the catalogue with the byte-level vocabulary in place of its own."""
    return find(name).model_copy(
        update={"name": f"{name}-bytes", "vocab_size": len(byte_tokenizer()), "hub_id": None, "multimodal": False}
    )


def start(backend: Any, text: Corpus, config: Start, progress: Progress, state: Path | None) -> dict[str, ShortRun]:
    """Train a model that was initialised here on next tokens, in its place; returns what was done, if anything."""
    if config.start_steps is None:
        return {}
    whole = {"lora_rank": None, "budget_s": config.start_budget_s, "learning_rate": config.start_learning_rate}
    folder = None if state is None else state / START
    if folder is not None:
        folder.mkdir(exist_ok=True)
    tuning = config.model_copy(update=whole)
    trained, done = tune(backend, text, tuning, NEXT_TOKEN, config.start_steps, progress, folder)
    backend.model = evaluation_copy(trained, backend)
    return {START: done}
