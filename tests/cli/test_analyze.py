"""`analyze memory`: sums that add up, and knobs that do what they say."""

import json

import pytest
import typer
from typer.testing import CliRunner

from gemma_bench.cli import analyze
from gemma_bench.cli.limits import verdict
from gemma_bench.core.errors import BadInputError
from gemma_bench.measure.training_memory import forecast
from gemma_bench.methods.choice import METHODS, method_named
from gemma_bench.methods.rank_one import RankOne
from gemma_bench.methods.relora import ReLoRA
from gemma_bench.training.method import Full, Lora
from gemma_bench.training.plan import Plan, trainable_size

PUBLISHED = ["llama-1.3b", "--method", "relora", "--recipe", "published"]


@pytest.fixture
def run():
    """Run the sub-command as the command line mounts it."""
    app = typer.Typer()
    app.add_typer(analyze.app, name="analyze")

    def call(*arguments):
        done = CliRunner().invoke(app, ["analyze", "memory", *map(str, arguments)])
        if done.exception and not isinstance(done.exception, SystemExit):
            raise done.exception
        return " ".join(done.stdout.split())

    return call


def test_parts_add_up_and_a_small_model_fits(run):
    found = json.loads(run("12b", "--context", 32_768, "--bits", 4, "--ram", 256, "--json"))
    parts = [found[f"{name}_bytes"] for name in ("weights", "kv_cache", "activations")]
    assert sum(parts) == found["total_bytes"]
    assert found["weights_bytes"] == pytest.approx(6.62e9, rel=0.01)
    assert found["it_fits"]
    assert found["limit_low_bytes"] == pytest.approx(239 * 2**30, rel=1e-3)


def test_the_knobs_that_are_named_make_it_fit(run):
    arguments = ["27b", "--context", 131_072, "--ram", 64]
    found = json.loads(run(*arguments, "--json"))
    assert not found["it_fits"]
    said = run(*arguments)
    assert f"does not fit: it fits with --bits {found['most_bits']}" in said
    assert json.loads(run(*arguments, "--bits", found["most_bits"], "--json"))["it_fits"]
    tight = ["12b", "--context", 131_072, "--bits", 4, "--ram", 18]
    found = json.loads(run(*tight, "--json"))
    assert f"--context {found['longest_context_tokens']}" in run(*tight)
    tight[2] = found["longest_context_tokens"]
    assert json.loads(run(*tight, "--json"))["it_fits"]


def test_what_nothing_makes_fit_is_said(run):
    assert "neither fewer bits nor a shorter context is enough" in run("27b", "--ram", 8)


def test_between_reports_both_ends_are_given(run):
    found = json.loads(run("270m", "--ram", 48, "--json"))
    assert found["limit_low_bytes"] < found["limit_high_bytes"]


def test_without_ram_it_is_this_machine(run):
    assert "fits." in run("270m", "--context", 512)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["12b", "--context", 0], "context must be between 1 and 131072 tokens for 12b, got 0"),
        (["270m", "--context", 40_000], "between 1 and 32768 tokens for 270m, got 40000"),
        (["12b", "--bits", 7], "bits must be one of 2, 3, 4, 5, 6, 8, 16, got 7"),
        (["12b", "--ram", 0], "--ram must be more than 0 GiB, got 0"),
        (["12b", "--ram", "nan"], "--ram must be more than 0 GiB, got nan"),
        (["12b", "--method", "lora", "--ram", -1], "--ram must be more than 0 GiB, got -1"),
        (["12b", "--method", "qlora"], "unknown method 'qlora', expected one of full"),
        (["13b", "--method", "lora"], "unknown model '13b', expected one of tiny"),
        (["tiny", "--method", "lora", "--batch-size", 0], "batch size must be at least 1, got 0"),
        (["13b"], "unknown model '13b', expected one of tiny, 270m"),
        (
            ["llama-1.3b"],
            "unknown model 'llama-1.3b', expected one of tiny.*; llama-60m.*llama-1.3b are known with --meth",
        ),
        (["12b", "--method", "lora", "--context", 8192], "--context is not for a training: leave out --context or"),
        (["12b", "--method", "lora", "--bits", 4], "--bits is not for a training"),
        (["12b", "--rank", 16], "--rank is only for a training: leave out --rank or give --method"),
        (["12b", "--method", "lora", "--no-embeddings"], "lora has no embeddings: leave out --embeddings"),
        (["12b", "--method", "full", "--rank", 8], "full has no rank: leave out --rank"),
        (["12b", "--method", "rank1", "--rule", "first"], "unknown rule 'first', expected one of random_a"),
        (["12b", "--method", "relora", "--recipe", "mine"], "unknown recipe 'mine', expected one of train, published"),
        (["12b", "--method", "relora", "--no-exact-merges"], "--exact-merges is only for --recipe published"),
        (["12b", "--no-exact-merges"], "--exact-merges is only for a training"),
        ([*PUBLISHED, "--adapter-dtype", "int4"], "unknown training precision 'int4'"),
    ],
)
def test_what_is_wrong_is_one_sentence(run, arguments, message):
    with pytest.raises(BadInputError, match=message):
        run(*arguments)


def test_the_published_recipe_of_relora_is_what_its_claim_forecasts(run):
    knobs = ["--rank", 128, "--batch-size", 8, "--length", 512, "--checkpointing"]
    asked = [*PUBLISHED, *knobs, "--json"]
    ours = json.loads(run(*asked))
    plan = Plan(
        trainable_size("llama-1.3b"),
        method_named("relora", 128),
        *(8, 512),
        checkpointing=True,
        adapter_dtype="bfloat16",
        exact_merges=False,
    )
    theirs = json.loads(run(*asked, "--adapter-dtype", "bfloat16", "--no-exact-merges"))
    assert theirs["peak_bytes"] == forecast(plan).peak_bytes
    assert ours["peak_bytes"] > 1.4 * theirs["peak_bytes"]


@pytest.mark.parametrize("method", METHODS)
def test_what_train_would_take_is_forecast(run, method):
    """`train` shows its plan before it loads weights: `analyze` forecasts that one."""
    own = {"full": Full(), "lora": Lora(rank=16), "relora": ReLoRA(rank=16), "rank1": RankOne()}[method]
    size, knobs = trainable_size("tiny"), {"batch_size": 2, "length": 64}
    found = json.loads(run("tiny", "--method", method, "--batch-size", 2, "--length", 64, "--json"))
    assert found["peak_bytes"] == forecast(Plan.as_trained(size, own, dtype="bfloat16", **knobs)).peak_bytes
    assert found["weights"] == ("float32" if method == "full" else "bfloat16")


def test_rows_are_as_long_as_a_small_model_reads_and_a_rule_counts(run):
    asked = ["tiny", "--method", "rank1", "--json", "--rule"]
    pairs, feedback = (json.loads(run(*asked, rule)) for rule in ("top_pair", "error_feedback"))
    assert pairs["length"] == trainable_size("tiny").max_position_embeddings
    assert pairs["peak_bytes"] != feedback["peak_bytes"]


def test_what_some_reports_allow_may_fit():
    assert verdict(5, (4, 6), 48, "it fits with less").startswith("does not fit: it fits with less. It may: reports di")
    assert verdict(7, (4, 6), None, "nothing is enough") == "does not fit: nothing is enough."
