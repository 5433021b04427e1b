"""`generate --decoder sbd`: what streams, what is counted, how the pattern is drawn, what is refused."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from gemma_bench.cli.app import app
from gemma_bench.cli.set_block import pattern_lines
from gemma_bench.core.errors import BadInputError
from gemma_bench.models.tiny import random_folder

runner = CliRunner()


@pytest.fixture(scope="module")
def masked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_folder(tmp_path_factory.mktemp("models") / "masked", mask_token=3).path


def generated(model: Path, *options: str) -> str:
    result = runner.invoke(app, ["generate", str(model), "-p", "hello", "--decoder", "sbd", *options])
    if result.exception:
        raise result.exception
    return result.stdout


def test_blocks_stream_and_are_counted(masked: Path) -> None:
    options = ("-m", "16", "--block-size", "8", "--sampler", "fixed", "--gamma", "4")
    found = json.loads(generated(masked, *options, "--json"))
    assert (found["tokens_count"], found["passes_count"], found["tokens_per_pass"]) == (16, 4, 4.0)
    assert sorted(found["fixed_in_pass"]) == [number for number in (1, 2, 3, 4) for _ in range(4)]
    assert found["text"] in generated(masked, *options)
    traced = runner.invoke(app, ["generate", str(masked), "-p", "hello", "--decoder", "sbd", *options, "--trace"])
    assert "16 tokens in" in traced.output
    assert "4 passes, 4.00 tokens per pass" in traced.output
    assert "░" in traced.output


def test_several_prompts_are_one_batch(masked: Path) -> None:
    options = ("-m", "12", "--block-size", "4", "--sampler", "fixed", "--gamma", "2", "--json")
    both = json.loads(generated(masked, *options, "-p", "a longer prompt"))
    alone = json.loads(generated(masked, *options))
    assert [both[0][name] for name in ("text", "fixed_in_pass")] == [alone[name] for name in ("text", "fixed_in_pass")]
    assert (len(both), both[1]["tokens_count"], both[1]["passes_count"]) == (2, 12, 6)
    assert both[0]["text"] != both[1]["text"]
    shown = runner.invoke(app, ["generate", str(masked), "-p", "a", "-p", "b", "-m", "12", "--decoder", "sbd"])
    assert "24 tokens in" in shown.output


def test_the_time_of_a_batch_is_that_of_each_of_its_rows(masked: Path) -> None:
    both = json.loads(generated(masked, "-m", "40", "--block-size", "4", "--json", "-p", "a longer prompt"))
    assert both[0]["duration_s"] == both[1]["duration_s"] > 1e-3


@pytest.mark.parametrize("sampler", ["entropy", "left", "factor", "fixed"])
def test_each_sampler_has_an_amount_of_its_own(masked: Path, sampler: str) -> None:
    found = json.loads(generated(masked, "-m", "6", "--block-size", "3", "--sampler", sampler, "--json"))
    assert found["tokens_count"] == 6
    if sampler == "fixed":
        assert found["passes_count"] == 6


def test_the_pattern_shows_each_word_from_its_pass_on() -> None:
    lines = [line.plain for line in pattern_lines(["a", "bc", "d"], [2, 1, 3])]
    assert lines == ["   1 ░bc░", "   2 abc░", "   3 abcd"]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--gamma", "-1"), "gamma must be at least 0 nats, got -1"),
        (("--block-size", "0"), "block size must be at least 1 token, got 0"),
        (("--sampler", "best"), "unknown sampler 'best', expected one of entropy, left, factor, fixed"),
        (("--decoder", "fast"), "unknown decoder 'fast', expected one of ar, sbd"),
        (("--sampler", "fixed", "--gamma", "inf"), "count must be a whole number of tokens, got inf"),
        (("--sampler", "fixed", "--gamma", "nan"), "count must be a whole number of tokens, got nan"),
        (
            ("--decoder", "ar", "--block-size", "0"),
            "--block-size is an option of set block decoding: add --decoder sbd",
        ),
        (("--decoder", "ar", "--sampler", "zzz"), "--sampler is an option of set block decoding: add --decoder sbd"),
        (("--decoder", "ar", "--gamma", "-1"), "--gamma is an option of set block decoding: add --decoder sbd"),
        (("--decoder", "ar", "--trace"), "--trace draws the passes of set block decoding: add --decoder sbd"),
    ],
)
def test_bad_options_are_refused(masked: Path, options: tuple[str, ...], told: str) -> None:
    with pytest.raises(BadInputError, match=told):
        generated(masked, *options)


def test_a_model_without_a_mask_token_is_told_how_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="tiny-float32 has no mask token"):
        generated(random_folder(tmp_path / "plain").path)
