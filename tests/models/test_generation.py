"""Choosing tokens and making text of them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from gemma_bench.core.errors import BadInputError
from gemma_bench.models.backend import Backend
from gemma_bench.models.folder import ModelFolder
from gemma_bench.models.generation import generate, stream_text
from gemma_bench.models.loading import load
from gemma_bench.models.sampling import Greedy, Sampled
from gemma_bench.models.tokenizer import SPECIAL_TOKENS, byte_tokenizer, load_tokenizer, stop_tokens

PROMPT = [2, 80, 81, 82, 83]
TOKENIZER = byte_tokenizer()

logits_arrays = arrays.arrays(np.float32, st.integers(2, 40), elements=st.floats(-20, 20, width=32))


def test_greedy_is_what_transformers_generates(tiny: ModelFolder) -> None:
    import torch

    model = load(tiny, "torch", "cpu")
    ours = list(generate(model, PROMPT, 40))
    theirs = model.model.generate(  # type: ignore[attr-defined]
        torch.tensor([PROMPT]), max_new_tokens=40, do_sample=False, eos_token_id=None, pad_token_id=0
    )[0, len(PROMPT) :].tolist()
    assert ours == theirs
    assert len(ours) == 40
    assert len(set(ours)) > 3, "control: not one token over and over"


@pytest.mark.parametrize("sampler", [Greedy(), Sampled(0.7, 0.9, seed=5)])
def test_both_libraries_choose_the_same(tiny: ModelFolder, sampler: Greedy | Sampled) -> None:
    torch, mlx = (list(generate(load(tiny, name, "cpu"), PROMPT, 30, sampler)) for name in ("torch", "mlx"))
    assert torch == mlx


def test_a_seed_repeats_and_another_differs(backend: Backend) -> None:
    runs = [list(generate(backend, PROMPT, 20, Sampled(seed=seed))) for seed in (1, 1, 2)]
    assert runs[0] == runs[1] != runs[2]


def test_generation_ends_before_a_stop_token(backend: Backend) -> None:
    free = list(generate(backend, PROMPT, 30))
    stop = free[7]
    assert list(generate(backend, PROMPT, 30, stop_tokens={stop})) == free[: free.index(stop)]


def test_generation_ends_where_the_context_is_full(backend: Backend) -> None:
    """512 tokens fit; the last of them still predicts one more, which nothing can be read after."""
    prompt = [7] * 509
    assert len(list(generate(backend, prompt, 100))) == 4
    assert len(list(generate(backend, prompt, 2))) == 2


@pytest.mark.parametrize(
    ("prompt", "count", "told"),
    [
        ([], 5, "prompt must have at least 1 token, got 0"),
        ([7] * 600, 5, "prompt has 600 tokens, the model's context is 512"),
        ([7], 0, "max tokens must be at least 1, got 0"),
        ([7], -3, "max tokens must be at least 1, got -3"),
    ],
)
def test_bad_requests_are_refused_at_once(backend: Backend, prompt: list[int], count: int, told: str) -> None:
    with pytest.raises(BadInputError, match=told):
        generate(backend, prompt, count)


@given(logits_arrays)
def test_no_temperature_is_greedy(logits: np.ndarray) -> None:
    logits[0] = logits.max() + 1
    assert Sampled(temperature=1e-3).start()(logits) == Greedy().start()(logits) == 0


@given(logits_arrays, st.floats(0.05, 1), st.floats(0.2, 3))
def test_the_nucleus_is_the_smallest_set_that_holds_top_p(logits: np.ndarray, top_p: float, temperature: float) -> None:
    tokens, probabilities = Sampled(temperature, top_p).nucleus(logits)
    scaled = logits.astype(float) / temperature
    softmax = np.exp(scaled - scaled.max())
    softmax /= softmax.sum()
    assert np.isclose(probabilities.sum(), 1)
    assert softmax[tokens].sum() >= top_p - 1e-9
    assert softmax[tokens[:-1]].sum() < top_p + 1e-9
    others = np.delete(softmax, tokens)
    assert len(others) == 0 or others.max() <= softmax[tokens].min() + 1e-12


def test_draws_follow_the_probabilities() -> None:
    """Known answer: softmax of log p is p; 20,000 draws lie within five standard errors."""
    wanted = np.array([0.5, 0.3, 0.15, 0.05])
    choose = Sampled(seed=3).start()
    drawn = np.bincount([choose(np.log(wanted).astype(np.float32)) for _ in range(20_000)], minlength=4) / 20_000
    assert (np.abs(drawn - wanted) < 5 * np.sqrt(wanted * (1 - wanted) / 20_000)).all()
    choose = Sampled(top_p=0.7, seed=3).start()
    assert {choose(np.log(wanted).astype(np.float32)) for _ in range(1000)} == {0, 1}


@pytest.mark.parametrize("temperature", [0, -1, float("inf"), float("nan")])
def test_temperatures_without_meaning_are_refused(temperature: float) -> None:
    with pytest.raises(BadInputError, match="temperature must be above 0, got"):
        Sampled(temperature=temperature)


@pytest.mark.parametrize("top_p", [0, -0.1, 1.1, float("nan")])
def test_top_p_outside_its_range_is_refused(top_p: float) -> None:
    with pytest.raises(BadInputError, match="top_p must be above 0 and at most 1, got"):
        Sampled(top_p=top_p)


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_streamed_text_is_the_text_and_never_a_broken_character(text: str) -> None:
    tokens = TOKENIZER(text, add_special_tokens=False).input_ids
    pieces = list(stream_text(TOKENIZER, tokens))
    if "\ufffd" not in text and not any(special in text for special in SPECIAL_TOKENS):
        assert len(tokens) == len(text.encode())
        assert "".join(pieces) == text
        assert all("\ufffd" not in piece for piece in pieces)


@given(st.binary(max_size=30))
def test_any_bytes_stream_without_an_unfinished_end(data: bytes) -> None:
    pieces = list(stream_text(TOKENIZER, [len(SPECIAL_TOKENS) + byte for byte in data]))
    assert "".join(pieces) == data.decode(errors="replace").rstrip("\ufffd")
    assert not pieces or not pieces[-1].endswith("\ufffd")


def test_text_comes_as_soon_as_it_is_whole() -> None:
    tokens = TOKENIZER("aé€", add_special_tokens=False).input_ids
    seen: list[int] = []

    def read() -> object:
        for token in tokens:
            seen.append(token)
            yield token

    at = [(piece, len(seen)) for piece in stream_text(TOKENIZER, read())]  # type: ignore[arg-type]
    assert at == [("a", 1), ("é", 3), ("€", 6)]


def test_the_chat_format(tiny: ModelFolder) -> None:
    tokenizer = load_tokenizer(tiny.path)
    turns = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": " Hi "},
        {"role": "assistant", "content": "Hello"},
        {"role": "user", "content": "Bye"},
    ]
    text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    assert text == (
        "<bos><start_of_turn>user\nBe brief.\n\nHi<end_of_turn>\n<start_of_turn>model\nHello<end_of_turn>\n"
        "<start_of_turn>user\nBye<end_of_turn>\n<start_of_turn>model\n"
    )
    ids = tokenizer(text, add_special_tokens=False).input_ids
    assert ids[:2] == [2, 4]
    assert ids.count(2) == 1
    assert stop_tokens(tokenizer) == {1, 5}
    with pytest.raises(Exception, match="role must be user, model or"):
        tokenizer.apply_chat_template([{"role": "judge", "content": "x"}], tokenize=False)


def test_the_tokenizer_survives_saving(tiny: ModelFolder) -> None:
    from mlx_lm.tokenizer_utils import load as load_as_mlx_lm

    text, fresh = "Grüße, 世界! <end_of_turn>\n", byte_tokenizer()
    ids = fresh(text).input_ids
    assert ids[0] == 2
    assert ids[-2] == 5
    for loaded in (load_tokenizer(tiny.path), load_as_mlx_lm(tiny.path)):
        assert list(loaded.encode(text)) == ids
        assert loaded.decode(ids[1:]) == text
        assert loaded.eos_token_id == 1
