"""Ranks read while a run goes on: as from a copy of the start, taken up after a stop, at most a few layers."""

import pytest
import torch

from gemma_bench.core.errors import DamagedFileError, InvalidRunError
from gemma_bench.measure.rank_evolution import Evolution, effective_weights, read_change
from gemma_bench.measure.rank_watch import RankOptions, RankWatch, kept_bytes
from gemma_bench.measure.spectrum import Factors
from gemma_bench.methods.rank_one import RankOne
from gemma_bench.methods.relora import ReLoRA
from gemma_bench.models.catalog import TINY
from gemma_bench.models.loading import load
from gemma_bench.models.tiny import random_folder
from gemma_bench.training.adapters import PROJECTIONS
from gemma_bench.training.corpus import Windows, python_sources
from gemma_bench.training.method import Full, Lora
from gemma_bench.training.plan import Plan
from gemma_bench.training.settings import Settings
from gemma_bench.training.trainer import Trainer
from gemma_bench.training.watching import Watcher

METHODS = {
    "full": (Full(), "float32"),
    "lora": (Lora(rank=2), "float32"),
    "relora": (ReLoRA(rank=2, reset_interval=3, rewarm_steps=1), "float32"),
    "relora in bfloat16": (ReLoRA(rank=2, reset_interval=3, rewarm_steps=1), "bfloat16"),
    "rank1": (RankOne(), "float32"),
    "rank1 in bfloat16": (RankOne(), "bfloat16"),
    "rank1, kept": (RankOne(keep_change=True), "float32"),
}
STEPS = Settings(iters=7, learning_rate=1e-2, batch_size=2)


@pytest.fixture(scope="module")
def rows():
    return Windows(python_sources().train[:3_000], 24)


def watched(tiny, rows, folder, method, dtype="float32", settings=STEPS, resume=None):
    """Train under watch; return the watch, what it told, and what a copy of the start in memory says."""
    prepared = method.prepare(load(tiny, "torch", "cpu", dtype).model, settings)
    told, watch = [], RankWatch(folder, 3)
    evolution = Evolution(effective_weights(prepared.model))
    callbacks = [
        watch.begin(prepared, tiny, lambda step, values: told.append((step, dict(values)))),
        Watcher(3, evolution.read, looks_at_the_end=True),
    ]
    Trainer(prepared, rows, settings, callbacks=callbacks, folder=folder).train(resume)
    return watch, told, evolution


@pytest.mark.parametrize("name", METHODS)
def test_a_run_s_ranks_are_those_read_from_a_copy_of_its_start(tiny, rows, tmp_path, name):
    """Factors are exact; what is read from weights has their rounding in it, of full rank though small."""
    watch, told, evolution = watched(tiny, rows, tmp_path, *METHODS[name])
    assert watch.readings.steps == evolution.steps == [3, 6, 7]
    assert watch.readings.of_matrices("rank") == evolution.of_matrices("rank")
    for kind in ("effective_rank", "stable_rank"):
        assert watch.readings.means(kind) == pytest.approx(evolution.means(kind), rel=0.03)
        assert tuple(values[kind] for _, values in told) == watch.readings.means(kind)
    for ours, theirs in zip(watch.readings.trajectory(), evolution.trajectory(), strict=True):
        assert ours == pytest.approx(theirs, abs=0.03)
    assert [step for step, _ in told] == [3, 6, 7]
    by_type = [value for name, value in told[-1][1].items() if name.startswith("rank/")]
    assert len(by_type) == 7
    assert sum(by_type) / 7 == pytest.approx(told[-1][1]["rank"])


def test_ranks_grow_by_cycle_with_relora_by_step_with_rank_one_and_never_with_lora(tiny, rows, tmp_path):
    ranks = {
        name: watched(tiny, rows, tmp_path / name, *METHODS[name])[0].figures()["rank"]
        for name in ("lora", "relora", "rank1, kept")
    }
    assert ranks == {"lora": (2, 2, 2), "relora": (2, 4, 4), "rank1, kept": (3, 6, 7)}  # the rate after a merge is 0


@pytest.mark.parametrize("name", ["lora", "relora in bfloat16", "rank1", "rank1, kept"])
def test_a_resumed_run_has_the_whole_run_s_ranks(tiny, rows, tmp_path, name):
    """It goes on from a checkpoint older than the last reading, which is made again."""
    method, dtype = METHODS[name]
    settings = STEPS.model_copy(update={"save_every": 4})
    whole, _, _ = watched(tiny, rows, tmp_path, method, dtype, settings)
    files = {path.name: path.read_bytes() for path in (tmp_path / "rank").iterdir()}
    again, told, _ = watched(tiny, rows, tmp_path, method, dtype, settings, tmp_path / "checkpoint-4")
    assert [step for step, _ in told] == [6, 7]
    assert {path.name: path.read_bytes() for path in (tmp_path / "rank").iterdir()} == files
    assert again.readings.readings == whole.readings.readings
    assert again.readings.trajectory() == whole.readings.trajectory()


def test_of_many_layers_first_middle_and_last_are_read(tmp_path, rows):
    folder = random_folder(tmp_path / "deep", TINY.model_copy(update={"num_hidden_layers": 9}))
    watch, _, _ = watched(folder, rows, tmp_path, Lora(rank=1), settings=STEPS.model_copy(update={"iters": 1}))
    layers = {name.split(".")[2] for name in watch.readings.readings}
    assert layers == {"0", "4", "8"}
    assert watch.figures()["ranked_matrices_count"] == 21


def test_a_damaged_reading_is_named(tiny, rows, tmp_path):
    settings = STEPS.model_copy(update={"save_every": 4})
    watched(tiny, rows, tmp_path, Lora(rank=1), settings=settings)
    (tmp_path / "rank" / "000003.safetensors").write_bytes(b"half")
    with pytest.raises(DamagedFileError, match=r"000003\.safetensors cannot be read"):
        watched(tiny, rows, tmp_path, Lora(rank=1), settings=settings, resume=tmp_path / "checkpoint-4")


@pytest.mark.parametrize(
    ("asked", "iters", "method", "interval"),
    [
        (None, 1000, Lora(), 50),
        (None, 60, Lora(), 25),
        (None, 1000, ReLoRA(warm_start_steps=100), 50),
        (None, 1000, Full(), 0),
        (0, 1000, Lora(), 0),
        (7, 9, Full(), 7),
    ],
)
def test_adapters_are_read_twenty_times_unless_asked_otherwise(asked, iters, method, interval):
    assert RankOptions(rank_every=asked).interval(iters, has_adapters=method.has_adapters) == interval


def test_a_warm_start_is_not_read_and_the_reading_says_since_when(tiny, rows, tmp_path):
    method = ReLoRA(rank=2, reset_interval=2, rewarm_steps=0, warm_start_steps=3)
    watch, told, _ = watched(tiny, rows, tmp_path, method, settings=STEPS.model_copy(update={"iters": 9}))
    figures = watch.figures()
    assert (figures["rank_steps"], figures["rank"], figures["rank_since_step"]) == ((6, 9), (4, 6), 3)
    assert [step for step, _ in told] == [6, 9]


def test_only_the_merges_that_are_read_are_kept(tmp_path, rows):
    folder = random_folder(tmp_path / "deep", TINY.model_copy(update={"num_hidden_layers": 9}))
    prepared = ReLoRA(rank=1, reset_interval=2, rewarm_steps=0).prepare(load(folder, "torch", "cpu").model, STEPS)
    watch = RankWatch(tmp_path, 3).begin(prepared, folder, lambda *_: None)
    Trainer(prepared, rows, STEPS, callbacks=[watch]).train()
    assert list(prepared.change.matrices) == list(watch.readings.readings)
    assert len(prepared.change.matrices) == 21
    assert set(watch.figures()["rank"]) == {2, 3, 4}


def test_a_change_that_is_no_number_is_a_run_that_diverged():
    for change in (Factors(torch.full((3, 1), torch.inf), torch.ones(1, 3)), (torch.full((3, 3), torch.nan), None)):
        with pytest.raises(InvalidRunError, match="no number"):
            read_change(change)


def test_reading_leaves_the_run_as_it_is(tiny, rows, tmp_path):
    ends = []
    for callbacks in (False, True):
        prepared = ReLoRA(rank=2, reset_interval=3, rewarm_steps=1).prepare(load(tiny, "torch", "cpu").model, STEPS)
        watch = [RankWatch(tmp_path, 2).begin(prepared, tiny, lambda *_: None)] if callbacks else []
        Trainer(prepared, rows, STEPS, callbacks=watch).train()
        ends.append(prepared.model.state_dict())
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


def held_bytes(change):
    """Count what a run really kept of its merges."""
    parts = [part for one in change.matrices.values() for pair in one.pieces for part in pair]
    parts += [one.whole for one in change.matrices.values() if one.whole is not None]
    return sum(part.nbytes for part in parts)


@pytest.mark.parametrize("interval", [2, 3])
@pytest.mark.parametrize("rank", [2, 32])
def test_what_merges_keep_is_foreseen(tiny, rows, tmp_path, interval, rank):
    targets = PROJECTIONS if rank == 2 else ("q_proj", "down_proj")
    method = ReLoRA(rank=rank, reset_interval=interval, rewarm_steps=0, warm_start_steps=1, targets=targets)
    prepared = method.prepare(load(tiny, "torch", "cpu", "float32").model, STEPS)
    watch = RankWatch(tmp_path, 3).begin(prepared, tiny, lambda *_: None)
    Trainer(prepared, rows, STEPS, callbacks=[watch], folder=tmp_path).train()
    assert held_bytes(prepared.change) == kept_bytes(Plan(TINY, method, read_steps=STEPS.iters, length=24)) > 0
    assert method.model_copy(update={"keep_change": False}).kept_rank(STEPS.iters) == 0
    assert RankOne(keep_change=True, merge_freq=2).kept_rank(7) == 3
    assert Lora(rank=8).kept_rank(STEPS.iters) == 0
