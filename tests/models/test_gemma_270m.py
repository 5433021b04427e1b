"""The real model: known perplexities, with and without the token that it was trained to begin with."""

from types import SimpleNamespace
from typing import Any

import pytest

from gemma_bench.core.errors import DamagedFileError
from gemma_bench.measure.known_text import known_tokens
from gemma_bench.measure.likelihood import perplexity
from gemma_bench.models.catalog import find
from gemma_bench.models.folder import ModelFolder
from gemma_bench.models.generation import generate, stream_text
from gemma_bench.models.packaged import ORIGIN, check_tokenizer
from gemma_bench.models.torch_backend import TorchBackend

TOKENS = 1024
PERPLEXITY = 14.40


@pytest.fixture(scope="module")
def model(gemma_270m: ModelFolder) -> TorchBackend:
    return TorchBackend(gemma_270m, "cpu", "float32")


@pytest.fixture(scope="module")
def tokens(model: TorchBackend) -> list[int]:
    ids: list[int] = known_tokens(model.tokenizer, TOKENS)
    assert ids[0] == 2
    return ids


def test_folder_is_the_packaged_model(gemma_270m: ModelFolder, model: TorchBackend) -> None:
    assert (gemma_270m.size, gemma_270m.dtype, gemma_270m.origin) == (find("270m"), "bfloat16", ORIGIN)
    assert model.weight_bytes() == 4 * 268_098_176


def test_perplexity_in_float32(model: TorchBackend, tokens: list[int]) -> None:
    assert perplexity(model, tokens) == pytest.approx(PERPLEXITY, rel=0.005)


def test_perplexity_without_the_first_token_is_twice_as_high(model: TorchBackend, tokens: list[int]) -> None:
    """Control: the check sees what it should, for Gemma without <bos> is lost."""
    assert perplexity(model, tokens[1:]) == pytest.approx(27.7, rel=0.01)


def test_perplexity_in_bfloat16(gemma_270m: ModelFolder, tokens: list[int]) -> None:
    assert perplexity(TorchBackend(gemma_270m, "cpu", "bfloat16"), tokens) == pytest.approx(PERPLEXITY, rel=0.005)


def test_it_knows_the_days_of_the_week(model: TorchBackend) -> None:
    prompt = model.tokenizer("Monday, Tuesday, Wednesday,").input_ids
    text = "".join(stream_text(model.tokenizer, generate(model, prompt, 6)))
    assert text == " Thursday, Friday, Saturday,"


def test_its_tokenizer_has_our_chat_format(model: TorchBackend) -> None:
    turns = [{"role": "user", "content": "Hi"}]
    ids = model.tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_dict=False)
    assert ids == model.tokenizer("<start_of_turn>user\nHi<end_of_turn>\n<start_of_turn>model\n").input_ids


def test_a_tokenizer_that_cuts_text_otherwise_is_refused(model: TorchBackend) -> None:
    check_tokenizer(model.tokenizer)

    def without_bos(text: str) -> Any:
        return SimpleNamespace(input_ids=model.tokenizer(text).input_ids[1:])

    with pytest.raises(DamagedFileError, match="reads another tokenizer out of"):
        check_tokenizer(without_bos)
