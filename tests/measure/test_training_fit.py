"""The knobs that are named make it fit, and a run that does not fit is refused in one sentence."""

import json
from dataclasses import replace

import pytest

from gemma_bench.core.errors import UnavailableError
from gemma_bench.measure import training_fit
from gemma_bench.measure.training_closed_form import closed_form
from gemma_bench.measure.training_fit import fitting_knobs, require_memory
from gemma_bench.measure.training_memory import forecast
from gemma_bench.methods.choice import method_named
from gemma_bench.methods.rank_one import RankOne
from gemma_bench.training.plan import Plan, trainable_size


def plan(**knobs):
    return Plan(trainable_size("tiny"), method_named("lora", 8), **{"batch_size": 4, "length": 256, **knobs})


def test_the_first_knob_is_checkpointing_and_it_is_enough():
    limit = forecast(plan(checkpointing=True)).peak_bytes * 1.2
    assert forecast(plan()).peak_bytes > limit
    assert fitting_knobs(plan(), limit) == "--checkpointing"


def test_what_does_not_fit_is_refused_with_a_remedy():
    needed = forecast(plan()).peak_bytes
    require_memory(plan(), needed)
    with pytest.raises(UnavailableError, match=r"needs .* GiB, .* GiB available; fits with --checkpointing"):
        require_memory(plan(), needed * 0.9)
    with pytest.raises(UnavailableError, match="is enough"):
        require_memory(plan(), 1000)


def test_knobs_have_the_names_that_the_command_line_has():
    wanted = plan(batch_size=1, checkpointing=True, dtype="float32")
    for length, knobs in ((256, "--dtype bfloat16"), (128, "--max-seq-length 128 --dtype bfloat16")):
        limit = forecast(replace(wanted, dtype="bfloat16", length=length)).peak_bytes
        assert fitting_knobs(wanted, limit, "--max-seq-length") == knobs


def test_an_embedding_that_is_not_trained_is_the_last_knob():
    wanted = Plan(trainable_size("tiny"), method_named("relora", 1), 1, 128, "float32", checkpointing=True)
    frozen = replace(wanted, method=wanted.method.model_copy(update={"embeddings": False}))
    least = forecast(frozen).peak_bytes
    assert least < 0.9 * forecast(wanted).peak_bytes
    assert fitting_knobs(wanted, least * 1.02) == "--no-embeddings"
    assert fitting_knobs(frozen, 1000) is None


def test_an_embedding_that_is_not_trained_leaves_the_weights_16_bit():
    relora = method_named("relora", 8)
    assert relora.trains_weights
    trained, frozen = (
        Plan.as_trained(
            trainable_size("tiny"),
            relora.model_copy(update={"embeddings": embeddings}),
            dtype="bfloat16",
            checkpointing=True,
            length=128,
        )
        for embeddings in (True, False)
    )
    (knob, made), *_ = training_fit._frozen(trained)
    assert (knob, made) == ("--no-embeddings", frozen)


def test_weights_that_nobody_trains_any_more_may_be_16_bit():
    wanted = Plan(trainable_size("tiny"), method_named("relora", 1), 1, 128, "float32", checkpointing=True)
    knobs = [knob for knob, _ in training_fit._cheaper(wanted, "--length")]
    assert "--no-embeddings --dtype bfloat16" in knobs
    assert "--dtype bfloat16" not in knobs, "weights that are trained are float32"


def test_what_surely_fits_is_not_traced(monkeypatch):
    monkeypatch.setattr(training_fit, "forecast", lambda _: pytest.fail("traced"))
    require_memory(plan(), 100 * closed_form(plan()).peak_bytes)


def test_checkpointing_gives_back_nothing_that_hooks_keep():
    wanted = Plan.as_trained(
        trainable_size("tiny"), RankOne(), dtype="float32", batch_size=64, length=512, checkpointing=True
    )
    needed = forecast(wanted).peak_bytes
    assert needed > closed_form(wanted).peak_bytes
    assert needed < training_fit._SURELY * closed_form(replace(wanted, checkpointing=False)).peak_bytes
    with pytest.raises(UnavailableError, match="needs"):
        require_memory(wanted, needed * 0.9)


def test_what_rules_keep_of_every_pass_is_not_admitted_unseen(monkeypatch):
    wanted = Plan.as_trained(
        trainable_size("tiny"), RankOne(), dtype="bfloat16", batch_size=1, length=128, gradient_accumulation=64
    )
    monkeypatch.setattr(training_fit, "fitting_knobs", lambda *_: None)
    with pytest.raises(UnavailableError, match="needs"):
        require_memory(wanted, training_fit._SURELY * closed_form(wanted).peak_bytes)
    assert [knob for knob, _ in training_fit._passes(replace(wanted, gradient_accumulation=5))] == [
        "--gradient-accumulation 2",
        "--gradient-accumulation 1",
    ]


def test_the_command_line_answers_for_a_training():
    from typer.testing import CliRunner

    from gemma_bench.cli.analyze import app

    asked = ["memory", "tiny", "--method", "lora", "--rank", "4", "--length", "64", "--ram", "1", "--json"]
    said = json.loads(CliRunner().invoke(app, asked).stdout)
    assert said["it_fits"]
    assert (
        sum(said[f"{kind}_bytes"] for kind in ("weights", "gradients", "optimizer", "activations", "temporaries"))
        == said["peak_bytes"]
    )
