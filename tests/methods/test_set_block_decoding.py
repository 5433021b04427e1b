"""Set block decoding: the same in both libraries, the same alone and in a batch, with an exact cache."""

from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import DynamicCache

from gemma_bench.core.errors import BadInputError
from gemma_bench.methods.block_samplers import BlockSampler, EntropyBounded, Factor, FixedCount, LeftPrefix
from gemma_bench.methods.set_block_decoding import SetBlock, decode
from gemma_bench.methods.set_block_passes import Passes, passes_of
from gemma_bench.methods.set_block_torch import TorchPasses, readout
from gemma_bench.methods.set_block_trace import Answer, answers, stream_tokens
from gemma_bench.models.backend import Backend
from gemma_bench.models.catalog import TINY
from gemma_bench.models.generation import generate
from gemma_bench.models.loading import load
from gemma_bench.models.sampling import Sampled
from gemma_bench.models.tiny import random_folder

MASK = 3
"""`<unk>`, which a byte-level vocabulary never writes."""

PROMPT = [2, 80, 81, 82, 83]
OTHER = [2, 90, 91, 92, 93, 94, 95, 96, 97, 98]
SAMPLERS = [EntropyBounded(11), LeftPrefix(7), Factor(2.95), FixedCount(3)]
NOTHING = np.zeros((1, 0), dtype=int)


@pytest.fixture(scope="session", params=["torch", "mlx"])
def masked(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Backend:
    return load(random_folder(tmp_path_factory.mktemp("models") / "masked", mask_token=MASK), request.param, "cpu")


def answer(passes: Passes, prompt: list[int], count: int = 30, **more: Any) -> Answer:
    return answers(decode(passes, [prompt], count, **more))[0]


def plain_cache(backend: Backend, tokens: list[int]) -> list[np.ndarray]:
    """What the libraries' own caches hold after a plain prefill: all tokens of every layer."""
    cache: Any = DynamicCache() if backend.name == "torch" else backend.new_cache()
    backend.logits([tokens], cache=cache)
    layers = cache.layers if backend.name == "torch" else cache
    return [
        np.stack([backend.numpy(kept)[:, :, : len(tokens)] for kept in (layer.keys, layer.values)]) for layer in layers
    ]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_both_libraries_write_the_same(tiny_pair: list[Passes], sampler: BlockSampler) -> None:
    method = SetBlock(6, sampler)
    ours, theirs = (answers(decode(passes, [PROMPT, OTHER], 40, method)) for passes in tiny_pair)
    assert ours == theirs
    assert len(set(ours[0].tokens)) > 10, "control: not one token over and over"
    assert 10 < ours[0].passes_count < 40, "control: some passes fix several tokens, some are not the first of a block"
    drawn = [answers(decode(passes, [PROMPT, OTHER], 20, method, Sampled(seed=3))) for passes in tiny_pair]
    assert drawn[0] == drawn[1] != tuple(one for one in ours)


@pytest.fixture(scope="session")
def tiny_pair(tmp_path_factory: pytest.TempPathFactory) -> list[Passes]:
    folder = random_folder(tmp_path_factory.mktemp("models") / "masked", mask_token=MASK)
    return [passes_of(load(folder, library, "cpu")) for library in ("torch", "mlx")]


def small(tmp_path: Path, library: str, window: int) -> Backend:
    """One local and one global layer, and windows shorter and longer than a block."""
    size = TINY.model_copy(update={"num_hidden_layers": 2, "sliding_window_pattern": 2, "sliding_window": window})
    return load(random_folder(tmp_path / f"{library}{window}", size, mask_token=MASK), library, "cpu")


@pytest.mark.parametrize("library", ["torch", "mlx"])
@pytest.mark.parametrize("window", [1, 2, 3, 4, 5, 7, 8, 16])
def test_the_cache_is_a_causal_prefills_whatever_window_and_block(tmp_path: Path, library: str, window: int) -> None:
    backend = small(tmp_path, library, window)
    passes = passes_of(backend)
    for block, length in product((1, 2, 3, 4, 5, 8), (1, 3, 6)):
        prompt = OTHER[:length]
        cache = passes.new_cache(np.zeros(1, dtype=int), 40)
        written = answer(passes, prompt, 18, method=SetBlock(block, FixedCount(2)), cache=cache)
        assert cache.kept_tokens == length + (17 // block) * block, "all blocks but the last"
        tokens = [*prompt, *written.tokens][: cache.kept_tokens]
        for ours, plain in zip(passes.kept(cache), plain_cache(backend, tokens), strict=True):
            assert np.allclose(ours, plain, atol=2e-5)


@pytest.mark.parametrize("library", ["torch", "mlx"])
@pytest.mark.parametrize("window", [1, 3, 8])
def test_a_block_changes_nothing_before_it_and_sees_all_of_itself(tmp_path: Path, library: str, window: int) -> None:
    backend = small(tmp_path, library, window)
    passes, prompt, block = passes_of(backend), np.array([OTHER]), np.array([[MASK, 70, MASK, 71]])
    logits = passes.logits(passes.new_cache(np.zeros(1, dtype=int), 20), prompt, block)
    assert np.allclose(logits[:, : prompt.size], backend.numpy(backend.logits([OTHER])), atol=1e-4)
    changed = np.array([[MASK, 70, MASK, 99]])
    other = passes.logits(passes.new_cache(np.zeros(1, dtype=int), 20), prompt, changed)
    moved = np.abs(other - logits)[0].max(axis=1)
    assert moved[: prompt.size].max() == 0
    assert moved[prompt.size :].min() > 1e-3, "both ways: the first token of the block sees its last"


def test_the_window_reaches_as_far_as_in_training(tmp_path: Path) -> None:
    """One local layer of window 3: a block's token sees two to its left and two to its right, no more."""
    size = TINY.model_copy(update={"num_hidden_layers": 1, "sliding_window": 3})
    passes = passes_of(load(random_folder(tmp_path / "local", size, mask_token=MASK), "torch", "cpu"))

    def logits(prompt: list[int], block: list[int]) -> np.ndarray:
        cache = passes.new_cache(np.zeros(1, dtype=int), 20)
        return passes.logits(cache, np.array([prompt]), np.array([block]))[0]

    plain = logits([2, 50, 51], [60, 61, 62, 63, 64])
    for position in range(8):
        tokens = [2, 50, 51, 60, 61, 62, 63, 64]
        tokens[position] = 99
        moved = np.abs(logits(tokens[:3], tokens[3:]) - plain).max(axis=1) > 0
        for seen in range(8):
            reaches = abs(seen - position) < 3 and (seen >= 3 or position <= seen)
            assert moved[seen] == reaches


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_batch_writes_what_each_prompt_writes_alone(masked: Backend, sampler: BlockSampler) -> None:
    passes, method = passes_of(masked), SetBlock(5, sampler)
    prompts = [PROMPT, OTHER, [2, 44], OTHER[:7]]
    free = [answer(passes, prompt, method=method) for prompt in prompts]
    stops = {free[0].tokens[4], free[1].tokens[13]}
    alone = tuple(answer(passes, prompt, method=method, stop_tokens=stops) for prompt in prompts)
    together = answers(decode(passes, prompts, 30, method, stop_tokens=stops))
    assert together == alone
    assert len({len(one.tokens) for one in together}) > 1, "control: rows end at different times"


@pytest.mark.parametrize("method", [SetBlock(5, FixedCount(2)), SetBlock(1)])
def test_a_seeded_answer_does_not_depend_on_the_other_prompts(masked: Backend, method: SetBlock) -> None:
    passes, choice = passes_of(masked), Sampled(temperature=2.0, seed=3)
    prompts = [PROMPT, OTHER, [2, 44]]
    alone = tuple(answer(passes, prompt, 20, method=method, choice=choice) for prompt in prompts)
    assert answers(decode(passes, prompts, 20, method, choice)) == alone
    assert len({one.tokens for one in alone}) == 3, "control: prompts matter"


@pytest.mark.parametrize("library", [0, 1])
def test_rows_that_need_nothing_are_not_read(
    tiny_pair: list[Passes], library: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows end at different tokens; a pass with nothing to keep reads those that are not done, whatever the padding."""
    passes, method = tiny_pair[library], SetBlock(6, EntropyBounded(11))
    widths: list[int] = []
    right = type(passes).hidden  # type: ignore[attr-defined]
    prompts = [PROMPT, OTHER, [2, 44], OTHER[:7]]
    stops = {
        answer(passes, prompt, method=method).tokens[place] for prompt, place in zip(prompts, (4, 13), strict=False)
    }

    def watched(self: Any, cache: Any, finished: Any, block: Any, rows: Any = None) -> Any:
        widths.append(len(block) if rows is None else len(rows))
        return right(self, cache, finished, block, rows)

    monkeypatch.setattr(type(passes), "hidden", watched)
    seen = list(decode(passes, prompts, 30, method, stop_tokens=stops))
    assert widths[: len(seen)] == [
        len(prompts) if one.width_tokens > 6 else len({fixed.row for fixed in one.fixed}) for one in seen
    ]
    assert min(widths) < len(prompts), "control: some rows are done before others"
    assert answers(seen) == tuple(answer(passes, prompt, method=method, stop_tokens=stops) for prompt in prompts)


def test_an_answer_ends_before_its_stop_token_and_no_pass_is_spent_behind_it(masked: Backend) -> None:
    passes, method = passes_of(masked), SetBlock(6, FixedCount(2))
    free = answer(passes, PROMPT, method=method)
    for stop in free.tokens[:8]:
        ended = answer(passes, PROMPT, method=method, stop_tokens={stop})
        assert stop not in ended.tokens
        assert ended.is_ended
        assert ended.passes_count <= free.passes_count
        assert ended.autoregressive_passes_count == len(ended.tokens) + 1
    assert not free.is_ended


@pytest.mark.parametrize("count", [1, 4, 6, 7, 29])
def test_lengths_and_passes_are_right_to_the_token(masked: Backend, count: int) -> None:
    """Three at a time: a block of 6 takes 2 passes, what is left of the length likewise."""
    passes = passes_of(masked)
    seen = list(decode(passes, [PROMPT], count, SetBlock(6, FixedCount(3))))
    found = answers(seen)[0]
    whole, rest = divmod(count, 6)
    assert len(found.tokens) == count
    assert found.passes_count == len(seen) == 2 * whole + -(-rest // 3)
    widths = [one.width_tokens for one in seen]
    assert widths[0] == len(PROMPT) + min(6, count)
    assert set(widths[1:]) <= {6, 12, rest, 6 + rest}
    assert found.tokens_per_pass == count / len(seen)


def test_the_ends_of_gamma_are_one_token_and_one_pass_a_block(masked: Backend) -> None:
    passes = passes_of(masked)
    assert answer(passes, PROMPT, 24, method=SetBlock(6, EntropyBounded(0))).passes_count == 24
    assert answer(passes, PROMPT, 24, method=SetBlock(6, EntropyBounded(float("inf")))).passes_count == 4


def test_blocks_of_one_token_are_autoregressive(masked: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gemma_bench.methods.set_block_decoding.PREFILL_TOKENS", 4)
    passes, method = passes_of(masked), SetBlock(1)
    wanted = [tuple(generate(masked, prompt, 24)) for prompt in (PROMPT, OTHER)]
    alone = answer(passes, PROMPT, 24, method=method)
    assert (alone.tokens, alone.fixed_in_pass) == (wanted[0], tuple(range(1, 25)))
    assert [found.tokens for found in answers(decode(passes, [PROMPT, OTHER], 24, method))] == wanted
    stop = wanted[1][9]
    ended = answers(decode(passes, [PROMPT, OTHER], 24, method, stop_tokens={stop}))[1]
    assert (ended.tokens, ended.is_ended) == (wanted[1][: wanted[1].index(stop)], True)


def test_the_left_prefix_writes_from_left_to_right(masked: Backend) -> None:
    found = answer(passes_of(masked), PROMPT, method=SetBlock(8, LeftPrefix(6)))
    assert list(found.fixed_in_pass) == sorted(found.fixed_in_pass)
    other = answer(passes_of(masked), PROMPT, method=SetBlock(8, EntropyBounded(6)))
    assert list(other.fixed_in_pass) != sorted(other.fixed_in_pass), "control: the surest token is not always leftmost"


def test_the_context_is_filled_to_its_last_place(masked: Backend) -> None:
    prompt = [7] * 505
    assert len(answer(passes_of(masked), prompt, 100, method=SetBlock(4)).tokens) == 7


@pytest.mark.parametrize("length", [505, 511, 512])
def test_blocks_of_one_token_fill_the_context_as_autoregression_does(masked: Backend, length: int) -> None:
    prompt = [7] * length
    wanted = tuple(generate(masked, prompt, 100))
    assert answer(passes_of(masked), prompt, 100, method=SetBlock(1)).tokens == wanted
    assert len(wanted) == 513 - length, "the token behind the last place that is read is there too"


def test_tokens_stream_as_soon_as_they_are_final(masked: Backend) -> None:
    passes, method = passes_of(masked), SetBlock(6, FixedCount(2))
    wanted = answer(passes, PROMPT, method=method, stop_tokens={5})
    pulled: list[int] = []

    def watched() -> Any:
        for number, one in enumerate(decode(passes, [PROMPT], 30, method, stop_tokens={5}), start=1):
            pulled.append(number)
            yield one

    came = [(token, pulled[-1]) for token in stream_tokens(watched())]
    assert tuple(token for token, _ in came) == wanted.tokens
    latest = np.maximum.accumulate(wanted.fixed_in_pass).tolist()
    assert [number for _, number in came] == latest, "each comes with the pass that fixed it and all before it"


def test_no_pass_is_asked_for_behind_a_rows_end(masked: Backend) -> None:
    passes, method = passes_of(masked), SetBlock(6, FixedCount(2))
    stop = answer(passes, PROMPT, method=method).tokens[3]
    pulled: list[object] = []

    def watched() -> Any:
        for one in decode(passes, [PROMPT, OTHER], 30, method, stop_tokens={stop}):
            pulled.append(one)
            yield one

    own = answer(passes, PROMPT, method=method, stop_tokens={stop})
    assert tuple(stream_tokens(watched())) == own.tokens
    assert len(pulled) == own.passes_count < 15, "control: the other row takes 15"


def test_a_seed_repeats_and_another_differs(masked: Backend) -> None:
    passes, method = passes_of(masked), SetBlock(6, FixedCount(2))
    runs = [answer(passes, PROMPT, method=method, choice=Sampled(seed=seed)) for seed in (1, 1, 2)]
    assert runs[0] == runs[1] != runs[2]


def test_a_cache_is_gone_on_from(masked: Backend) -> None:
    passes, method = passes_of(masked), SetBlock(6, FixedCount(2))
    cache = passes.new_cache(np.zeros(1, dtype=int), 60)
    first = answer(passes, OTHER[:4], 5, method=method, cache=cache)
    assert (cache.kept_tokens, len(first.tokens)) == (4, 5)
    going_on = answer(passes, OTHER[4:], method=method, cache=cache)
    assert going_on == answer(passes, OTHER, method=method)


def test_long_prompts_are_read_in_pieces(masked: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    passes, method = passes_of(masked), SetBlock(6, FixedCount(2))
    whole = answers(decode(passes, [OTHER * 3, PROMPT], 20, method))
    monkeypatch.setattr("gemma_bench.methods.set_block_decoding.PREFILL_TOKENS", 7)
    pieces = list(decode(passes, [OTHER * 3, PROMPT], 20, method))
    assert answers(pieces) == whole
    assert pieces[0].width_tokens == 30 % 7 + 6


def test_entropies_are_in_nats_and_the_mask_token_is_out() -> None:
    """Known answers: m equal tokens have ln m nats and confidence 1/m, whatever the mask token's own logit."""
    logits = torch.full((4, 50), -80.0)
    for row, count in enumerate((1, 2, 10, 49)):
        logits[row, :count] = 7.0
    logits[:, 49] = 1e4
    found = readout(logits, mask_token=49)
    assert np.allclose(found.entropies_nats, np.log([1, 2, 10, 49]), atol=1e-5)
    assert np.allclose(found.confidences, [1, 1 / 2, 1 / 10, 1 / 49])
    assert found.logits(np.array([2]))[0].argmax() == 0


def test_the_mask_token_is_never_written(tmp_path: Path) -> None:
    """A model whose likeliest token everywhere is the mask, by its embedding, still writes others."""
    model = load(random_folder(tmp_path / "masked", mask_token=MASK), "torch", "cpu").model  # type: ignore[attr-defined]
    favourite = answer(TorchPasses(model, MASK), PROMPT, method=SetBlock(4)).tokens[0]
    written = answer(TorchPasses(model, favourite), PROMPT, method=SetBlock(4)).tokens
    assert favourite not in written


def test_a_model_with_adapters_decodes_as_one_merged(tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    model = load(random_folder(tmp_path / "masked", mask_token=MASK), "torch", "cpu").model  # type: ignore[attr-defined]
    torch.manual_seed(0)
    adapted: Any = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)).eval()
    found = answer(TorchPasses(adapted, MASK), PROMPT, method=SetBlock(4, FixedCount(2)))
    merged = answer(TorchPasses(adapted.merge_and_unload(), MASK), PROMPT, method=SetBlock(4, FixedCount(2)))
    assert found == merged


BAD_REQUESTS: list[tuple[Callable[[Passes], object], str]] = [
    (lambda passes: decode(passes, [], 5), "prompts must have at least 1 token each, got an empty one"),
    (lambda passes: decode(passes, [PROMPT, []], 5), "prompts must have at least 1 token each, got an empty one"),
    (lambda passes: decode(passes, [[7] * 512], 5), "prompt has 512 tokens, the model's context of 512 leaves no room"),
    (lambda passes: decode(passes, [[7] * 513], 5, SetBlock(1)), "prompt has 513 tokens, the model's context of 512"),
    (lambda passes: decode(passes, [PROMPT, [2, MASK]], 5), "prompt contains token 3, which stands for hidden tokens"),
    (lambda passes: decode(passes, [PROMPT], 0), "max tokens must be at least 1, got 0"),
    (lambda passes: decode(passes, [[2, 262]], 5), "token ids must be between 0 and 261, got 262"),
    (lambda passes: decode(passes, [[2, -1]], 5), "token ids must be between 0 and 261, got -1"),
    (lambda _: SetBlock(0), "block size must be at least 1 token, got 0"),
    (lambda _: EntropyBounded(-0.1), "gamma must be at least 0 nats, got -0.1"),
]


@pytest.mark.parametrize(("ask", "told"), BAD_REQUESTS)
def test_bad_requests_are_refused_at_once(masked: Backend, ask: Callable[[Passes], object], told: str) -> None:
    with pytest.raises(BadInputError, match=told):
        ask(passes_of(masked))


def test_foreign_caches_are_refused(tiny_pair: list[Passes]) -> None:
    ours, theirs = tiny_pair
    cache: Any = DynamicCache()
    with pytest.raises(BadInputError, match="cache must be one that the passes' `new_cache` made, got DynamicCache"):
        decode(ours, [PROMPT], 5, cache=cache)
    cache = theirs.new_cache(np.zeros(1, dtype=int), 20)
    with pytest.raises(BadInputError, match="the cache holds keys and values of another model"):
        decode(ours, [PROMPT], 5, cache=cache)
    cache = ours.new_cache(np.zeros(2, dtype=int), 20)
    with pytest.raises(
        BadInputError, match=r"prompts must be 2 rows of one length behind this cache, got 1 rows of \[5\]"
    ):
        decode(ours, [PROMPT], 5, cache=cache)
    cache = ours.new_cache(np.zeros(1, dtype=int), 9)
    with pytest.raises(BadInputError, match="the cache has room for 9 tokens, 5 of text and 5 new ones need more"):
        decode(ours, [PROMPT], 5, cache=cache)
    assert len(answer(ours, PROMPT, 4, cache=cache).tokens) == 4


def test_models_that_cannot_fill_in_a_block_are_refused(backend: Backend, tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match=r"tiny-float32 has no mask token") as refused:
        passes_of(backend)
    assert f"train sbd --model {backend.folder.path} --data FOLDER --output RUN` and decode with RUN/model" in str(
        refused.value
    )
    from gemma_bench.models.convert_mlx import convert

    quantised = convert(random_folder(tmp_path / "masked", mask_token=MASK), 4, 64, tmp_path / "4bit")
    with pytest.raises(BadInputError, match="torch decodes set blocks in 16 or 32 bits, got 4bit: take backend mlx"):
        passes_of(load(quantised, "torch", "cpu"))
    assert len(answer(passes_of(load(quantised, "mlx", "cpu")), PROMPT, 10).tokens) == 10
    for wrong in (-1, 262):
        with pytest.raises(BadInputError, match=f"mask token must be between 0 and 261, got {wrong}"):
            TorchPasses(load(random_folder(tmp_path / f"m{wrong}"), "torch", "cpu").model, wrong)  # type: ignore[attr-defined]
