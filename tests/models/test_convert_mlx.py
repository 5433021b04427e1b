"""Conversion: exact sizes, smaller errors with more bits, and refusals that list what there is."""

from pathlib import Path

import numpy as np
import pytest

from gemma_bench.core.errors import BadInputError, DamagedFileError, UnavailableError
from gemma_bench.models.convert_mlx import BITS, convert
from gemma_bench.models.folder import ModelFolder, open_folder
from gemma_bench.models.loading import load

PROMPT = [[2, *range(70, 90)]]


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 8])
def test_quantised_weights_have_exactly_their_bits(tiny: ModelFolder, tmp_path: Path, bits: int) -> None:
    """The loaded arrays, the file and the formula agree: bits + 32/64 per weight of a matrix (4.5 at 4 bits)."""
    folder = convert(tiny, bits, destination=tmp_path / "q")
    assert (folder.bits, folder.group_size, folder.origin) == (bits, 64, tiny.origin)
    assert folder.precision == f"{bits}bit"
    matrices = sum(rows * columns for rows, columns in tiny.size.matrix_shapes().values())
    norm_bytes = (tiny.size.parameter_count - matrices) * 2
    model = load(folder, "mlx", "cpu")
    assert (model.weight_bytes() - norm_bytes) * 8 == matrices * (bits + 0.5)
    assert model.weight_bytes() == tiny.size.weight_bytes(bits, 64)
    assert model.precision == f"{bits}bit"


def test_smaller_groups_cost_more_and_are_named(tiny: ModelFolder, home: Path) -> None:
    folder = convert(tiny, 4, group_size=32)
    assert folder.path == home / "models" / "tiny-4bit-g32"
    assert load(folder, "mlx", "cpu").weight_bytes() == tiny.size.weight_bytes(4, 32) > tiny.size.weight_bytes(4, 64)


def test_more_bits_are_nearer_to_the_original(tiny: ModelFolder, tmp_path: Path) -> None:
    reference = load(tiny, "mlx", "cpu")
    exact = reference.numpy(reference.logits(PROMPT))
    errors = []
    for bits in (2, 4, 8):
        model = load(convert(tiny, bits, destination=tmp_path / str(bits)), "mlx", "cpu")
        errors.append(float(np.abs(model.numpy(model.logits(PROMPT)) - exact).mean()))
    assert errors[0] > 1.5 * errors[1] > 6 * errors[2] > 0


def test_sixteen_bits_are_the_same_model_in_bfloat16(tiny: ModelFolder, tmp_path: Path) -> None:
    folder = convert(tiny, 16, destination=tmp_path / "tiny-16bit")
    assert (folder.bits, folder.dtype) == (None, "bfloat16")
    converted, cast = load(folder, "mlx", "cpu"), load(tiny, "mlx", "cpu", "bfloat16")
    assert (converted.numpy(converted.logits(PROMPT)) == cast.numpy(cast.logits(PROMPT))).all()
    assert load(folder, "torch", "cpu").precision == "bfloat16"


def test_a_truncated_conversion_is_damaged(tiny: ModelFolder, tmp_path: Path) -> None:
    folder = convert(tiny, 4, destination=tmp_path / "q")
    data = (folder.path / "model.safetensors").read_bytes()
    (folder.path / "model.safetensors").write_bytes(data[:-1])
    with pytest.raises(DamagedFileError, match="bytes, found"):
        open_folder(folder.path)


def test_what_there_is_not_is_listed(tiny: ModelFolder, tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="bits must be one of 2, 3, 4, 5, 6, 8, 16, got 5000"):
        convert(tiny, 5000)
    with pytest.raises(BadInputError, match="group size must be one of 32, 64, 128, got 7"):
        convert(tiny, 4, group_size=7)
    with pytest.raises(BadInputError, match=r"group size 128 does not divide the rows of model.embed_tokens.weight"):
        convert(tiny, 4, group_size=128)
    folder = convert(tiny, 4, destination=tmp_path / "q")
    with pytest.raises(BadInputError, match="is quantised already: convert tiny instead"):
        convert(folder, 8)
    with pytest.raises(BadInputError, match="runs in 4bit only, got 'float32'"):
        load(folder, "mlx", "cpu", "float32")
    assert 4 in BITS


def test_without_mlx_it_is_said(tiny: ModelFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "mlx_lm.convert", None)
    with pytest.raises(UnavailableError, match=r'pip install "gemma_bench\[mlx\]"') as error:
        convert(tiny, 4, destination=tmp_path / "q")
    assert error.value.missing == "mlx"
    monkeypatch.delitem(sys.modules, "gemma_bench.models.backend_mlx", raising=False)
    monkeypatch.setitem(sys.modules, "mlx_lm.utils", None)
    with pytest.raises(UnavailableError, match=r'pip install "gemma_bench\[mlx\]"'):
        load(tiny, "mlx")


def test_the_converter_is_silent(tiny: ModelFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    convert(tiny, 4, destination=tmp_path / "q")
    assert capsys.readouterr().out == ""
