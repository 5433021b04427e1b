"""Both libraries against each other, against themselves by another path, and against arithmetic."""

import numpy as np
import pytest

from gemma_bench.core.errors import BadInputError, UnavailableError
from gemma_bench.models.backend import Backend, Masks
from gemma_bench.models.folder import ModelFolder
from gemma_bench.models.inputs import causal_masks
from gemma_bench.models.loading import load

LENGTH = 30
"""Well past the tiny window of 8."""


@pytest.fixture(scope="module")
def tokens() -> list[list[int]]:
    random = np.random.default_rng(1)
    return [[2, *map(int, random.integers(6, 262, LENGTH - 1))] for _ in range(2)]


def test_torch_and_mlx_agree_on_logits(tiny: ModelFolder, tokens: list[list[int]]) -> None:
    torch, mlx = load(tiny, "torch", "cpu"), load(tiny, "mlx", "cpu")
    left, right = torch.numpy(torch.logits(tokens)), mlx.numpy(mlx.logits(tokens))
    assert left.shape == right.shape == (2, LENGTH, 262)
    assert np.abs(left - right).max() <= 1e-4
    assert left.std() > 0.3, "control: equal because alive, not because zero"


def test_attention_is_neither_uniform_nor_blind(backend: Backend, tokens: list[list[int]]) -> None:
    """A change of one early token moves the last position: through local layers, and through the global one alone."""
    near, far = [list(tokens[0])], [list(tokens[0])]
    near[0][-3], far[0][1] = 7, 7
    last = [backend.numpy(backend.logits(row, last_only=True))[0, 0] for row in ([tokens[0]], near, far)]
    assert np.abs(last[1] - last[0]).max() > 0.01
    assert np.abs(last[2] - last[0]).max() > 1e-3


@pytest.mark.parametrize("steps", [(1,) * LENGTH, (5, 1, 1, 1, 1, 1, 10, 1, 1, 8), (20, 1, 3, 1, 5), (7, 1, 1, 21)])
def test_cached_steps_equal_the_full_forward(backend: Backend, tokens: list[list[int]], steps: tuple[int, ...]) -> None:
    whole = backend.numpy(backend.logits(tokens))
    cache, start, parts = backend.new_cache(), 0, []
    for step in steps:
        parts.append(backend.numpy(backend.logits([row[start : start + step] for row in tokens], cache=cache)))
        start += step
    assert start == LENGTH == backend.read_tokens(cache)
    np.testing.assert_allclose(np.concatenate(parts, axis=1), whole, atol=5e-5)


def test_causal_masks_given_by_hand_change_nothing(backend: Backend, tokens: list[list[int]]) -> None:
    masks = causal_masks(backend.size, LENGTH)
    default = backend.numpy(backend.logits(tokens))
    np.testing.assert_allclose(backend.numpy(backend.logits(tokens, masks=masks)), default, atol=5e-5)


def test_other_masks_change_what_they_should(backend: Backend, tokens: list[list[int]]) -> None:
    """Control: without the window the first 8 positions stay; with sight of the future the first one moves."""
    size, default = backend.size, backend.numpy(backend.logits(tokens))
    causal = causal_masks(size, LENGTH).full_attention
    unwindowed = backend.numpy(backend.logits(tokens, masks=Masks(causal, causal)))
    np.testing.assert_allclose(unwindowed[:, :8], default[:, :8], atol=5e-5)
    assert np.abs(unwindowed[:, 8:] - default[:, 8:]).max() > 1e-3
    everything = np.ones_like(causal)
    both_ways = backend.numpy(backend.logits(tokens, masks=Masks(everything, everything)))
    assert np.abs(both_ways[:, 0] - default[:, 0]).max() > 1e-3


@pytest.mark.parametrize("steps", [(1,) * LENGTH, (5, 1, 1, 1, 1, 1, 10, 1, 1, 8), (20, 1, 3, 1, 5)])
def test_masks_given_by_hand_work_with_a_cache(
    backend: Backend, tokens: list[list[int]], steps: tuple[int, ...]
) -> None:
    whole = backend.numpy(backend.logits(tokens))
    cache, start = backend.new_cache(), 0
    for step in steps:
        masks = causal_masks(backend.size, step, start)
        piece = [row[start : start + step] for row in tokens]
        part = backend.numpy(backend.logits(piece, masks=masks, cache=cache))
        np.testing.assert_allclose(part, whole[:, start : start + step], atol=5e-5)
        start += step


@pytest.mark.parametrize("seed", range(4))
def test_random_masks_agree_between_libraries_with_a_rotated_cache(tiny: ModelFolder, seed: int) -> None:
    """One token after a full ring: keys lie rotated in MLX and in order in torch, the answer must be one."""
    random = np.random.default_rng(seed)
    prompt, answers = [[2, *map(int, random.integers(6, 262, 12 + seed))]], []
    read = len(prompt[0]) + 1
    full = random.random((1, read + 1)) < 0.5
    sliding = np.zeros_like(full)
    sliding[0, -7:] = random.random(7) < 0.5
    full[0, -1] = sliding[0, -1] = True
    for name in ("torch", "mlx"):
        model = load(tiny, name, "cpu")
        cache = model.new_cache()
        model.logits(prompt, cache=cache)
        model.logits([[9]], cache=cache)
        answers.append(model.numpy(model.logits([[10]], cache=cache, masks=Masks(full, sliding))))
    assert np.abs(answers[0] - answers[1]).max() <= 1e-4


def test_wrong_masks_are_refused(backend: Backend) -> None:
    square = np.ones((3, 3), dtype=bool)
    with pytest.raises(BadInputError, match=r"mask sliding_attention must be bool \[3, 3\], got bool \[2, 3\]"):
        backend.logits([[2, 7, 8]], masks=Masks(square, square[:2]))
    with pytest.raises(BadInputError, match="got float64"):
        backend.logits([[2, 7, 8]], masks=Masks(square.astype(float), square))  # type: ignore[arg-type]
    cache = backend.new_cache()
    backend.logits([[2] * 20], cache=cache)
    row = np.ones((1, 21), dtype=bool)
    with pytest.raises(BadInputError, match="which the cache has dropped"):
        backend.logits([[7]], masks=Masks(row, row), cache=cache)


def test_last_only_is_the_last_position(backend: Backend, tokens: list[list[int]]) -> None:
    whole, last = backend.numpy(backend.logits(tokens)), backend.numpy(backend.logits(tokens, last_only=True))
    assert last.shape == (2, 1, 262)
    np.testing.assert_allclose(last[:, 0], whole[:, -1], atol=5e-5)


@pytest.mark.parametrize("batch_size", [1, 3])
def test_cache_bytes_are_those_of_arithmetic(backend: Backend, batch_size: int) -> None:
    cache = backend.new_cache()
    assert backend.cache_bytes(cache) == 0
    for length in range(1, 21):
        backend.synchronize()
        backend.logits([[7]] * batch_size, cache=cache)
        kept = backend.kept_tokens(length)
        expected = backend.size.kv_cache_bytes(length, 4, batch_size=batch_size, kept_tokens=kept)
        assert backend.cache_bytes(cache) == expected
    assert kept == {"torch": 7, "mlx": 8}[backend.name]


def test_mlx_cache_holds_a_whole_prefill_until_the_next_step(tiny: ModelFolder) -> None:
    model = load(tiny, "mlx", "cpu")
    cache = model.new_cache()
    model.logits([[7] * 20], cache=cache)
    assert model.cache_bytes(cache) == model.size.kv_cache_bytes(20, 4, kept_tokens=20)
    model.logits([[7]], cache=cache)
    assert model.cache_bytes(cache) == model.size.kv_cache_bytes(21, 4)


@pytest.mark.parametrize(("precision", "width"), [("float32", 4), ("bfloat16", 2), ("float16", 2)])
@pytest.mark.parametrize("name", ["torch", "mlx"])
def test_precision_is_what_the_weights_cost(tiny: ModelFolder, name: str, precision: str, width: int) -> None:
    model = load(tiny, name, "cpu", precision)
    assert model.precision == precision
    assert model.weight_bytes() == tiny.size.weight_bytes(8 * width) == tiny.size.parameter_count * width
    cache = model.new_cache()
    model.logits([[2, 7]], cache=cache)
    assert model.cache_bytes(cache) == tiny.size.kv_cache_bytes(2, width)


def test_peak_memory_is_measured_or_absent(tiny: ModelFolder) -> None:
    assert load(tiny, "torch", "cpu").peak_memory_bytes() is None
    mlx = load(tiny, "mlx", "cpu")
    mlx.reset_peak_memory()
    mlx.numpy(mlx.logits([[7] * 400]))
    peak = mlx.peak_memory_bytes()
    assert peak is not None
    assert peak >= mlx.weight_bytes() + 400 * 262 * 4


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ([], r"lengths \[\]"),
        ([[]], r"lengths \[0\]"),
        ([[1, 2], [3]], r"lengths \[1, 2\]"),
        ([[262]], "between 0 and 261, got 262"),
        ([[-1]], "between 0 and 261, got -1"),
        ([[7] * 513], "513 tokens are too many, the model's context is 512"),
    ],
)
def test_bad_tokens_are_refused(backend: Backend, rows: list[list[int]], told: str) -> None:
    with pytest.raises(BadInputError, match=told):
        backend.logits(rows)


def test_a_full_cache_takes_no_more(backend: Backend) -> None:
    cache = backend.new_cache()
    backend.logits([[7] * 512], cache=cache, last_only=True)
    with pytest.raises(BadInputError, match="513 tokens are too many"):
        backend.logits([[7]], cache=cache)


def test_choices_that_do_not_exist_are_listed(tiny: ModelFolder) -> None:
    with pytest.raises(BadInputError, match="unknown backend 'jax', expected one of torch, mlx"):
        load(tiny, "jax")
    with pytest.raises(BadInputError, match="unknown device 'tpu', expected one of cpu, mps, cuda"):
        load(tiny, "torch", "tpu")
    with pytest.raises(BadInputError, match="unknown device 'tpu', expected one of cpu, metal, cuda"):
        load(tiny, "mlx", "tpu")
    for name in ("torch", "mlx"):
        with pytest.raises(BadInputError, match="unknown precision 'int1', expected one of float32, bfloat16, float16"):
            load(tiny, name, "cpu", "int1")


def test_a_device_that_is_not_here_is_named(tiny: ModelFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    from gemma_bench.models import backend_mlx, torch_backend

    monkeypatch.setattr(torch_backend, "available_devices", lambda: ["cpu"])
    monkeypatch.setattr(backend_mlx, "available_devices", lambda: ["cpu"])
    for name, device in (("torch", "cuda"), ("torch", "mps"), ("mlx", "metal")):
        with pytest.raises(UnavailableError, match=f"device '{device}' is not available here, available: cpu") as error:
            load(tiny, name, device)
        assert error.value.missing == device
