"""Folders: what is whole opens, and each kind of damage is told by the name of what is damaged."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from gemma_bench.core.errors import BadInputError, DamagedFileError, GemmaBenchError
from gemma_bench.models import digests, saving
from gemma_bench.models.catalog import TINY
from gemma_bench.models.folder import MANIFEST, ModelFolder, open_folder
from gemma_bench.models.headers import read_headers
from gemma_bench.models.tiny import random_folder

WEIGHTS = "model.safetensors"
Q_PROJ = "model.layers.0.self_attn.q_proj.weight"


def test_open_says_what_is_there(tiny: ModelFolder) -> None:
    again = open_folder(tiny.path)
    assert again == tiny
    assert (again.size, again.origin, again.precision) == (TINY, "random weights, seed 0", "float32")
    assert again.model_id == "tiny-float32"
    assert {name: header.shape for name, header in read_headers(tiny.path).items()} == TINY.parameter_shapes()


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(tiny: ModelFolder, tmp_path: Path) -> None:
    assert random_folder(tmp_path / "same").sha256 == tiny.sha256
    assert random_folder(tmp_path / "other", seed=1).sha256 != tiny.sha256


def test_the_mask_token_of_training_is_kept_through_conversion(tiny: ModelFolder, tmp_path: Path) -> None:
    from gemma_bench.models.convert_mlx import convert

    masked = random_folder(tmp_path / "masked", mask_token=3)
    assert (tiny.mask_token, masked.mask_token, open_folder(masked.path).mask_token) == (None, 3, 3)
    assert convert(masked, 4, 64, tmp_path / "masked-4bit").mask_token == 3


def test_a_size_of_ones_own_opens_again(tmp_path: Path) -> None:
    size = TINY.model_copy(update={"name": "mine", "num_hidden_layers": 7, "sliding_window": 4})
    assert random_folder(tmp_path / "mine", size, dtype="bfloat16").size == size


def test_a_folder_without_our_manifest_is_known_by_its_configuration(tiny_copy: Path, tiny: ModelFolder) -> None:
    (tiny_copy / MANIFEST).unlink()
    opened = open_folder(tiny_copy)
    assert (opened.size, opened.origin, opened.sha256) == (TINY, "folder copy", tiny.sha256)


def _edit_config(**changes: object) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        (folder / MANIFEST).unlink()
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, **changes}))

    return damage


def _edit_tensors(edit: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        (folder / MANIFEST).unlink()
        tensors = load_file(folder / WEIGHTS)
        edit(tensors)
        save_file(tensors, folder / WEIGHTS)

    return damage


def _flip_last_byte(folder: Path) -> None:
    data = bytearray((folder / WEIGHTS).read_bytes())
    data[-1] ^= 1
    (folder / WEIGHTS).write_bytes(data)


def _cut(folder: Path) -> None:
    data = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(data[:-100])


def _cut_without_manifest(folder: Path) -> None:
    (folder / MANIFEST).unlink()
    _cut(folder)


def _write_over(name: str, content: bytes) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        (folder / MANIFEST).unlink()
        (folder / name).write_bytes(content)

    return damage


def _only_pickled(folder: Path) -> None:
    (folder / MANIFEST).unlink()
    (folder / WEIGHTS).rename(folder / "pytorch_model.bin")


def _double(folder: Path) -> None:
    (folder / MANIFEST).unlink()
    shutil.copy(folder / WEIGHTS, folder / "model-2.safetensors")


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "flipped byte": (_flip_last_byte, r"model.safetensors must have sha256 [0-9a-f]{64}, found [0-9a-f]{64}"),
    "truncated": (_cut, r"model.safetensors must have [\d,]+ bytes, found [\d,]+"),
    "truncated, no manifest": (_cut_without_manifest, r"model.safetensors are truncated or damaged: expected [\d,]+"),
    "missing file": (lambda folder: (folder / "tokenizer.json").unlink(), "file tokenizer.json is missing"),
    "missing tensor": (_edit_tensors(lambda t: t.pop(Q_PROJ)), rf"tensor {Q_PROJ} \[64, 64\] is missing"),
    "extra tensor": (
        _edit_tensors(lambda t: t.update(more=torch.zeros(3))),
        r"tensor more \[3\] is not part of this model",
    ),
    "wrong shape": (
        _edit_tensors(lambda t: t.update({Q_PROJ: torch.zeros(64, 32)})),
        rf"tensor {Q_PROJ} must be \[64, 64\], found \[64, 32\]",
    ),
    "wrong type": (
        _edit_tensors(lambda t: t.update({Q_PROJ: t[Q_PROJ].to(torch.int8)})),
        f"tensor {Q_PROJ} is I8, expected BF16 or F16 or F32",
    ),
    "mixed types": (
        _edit_tensors(lambda t: t.update({Q_PROJ: t[Q_PROJ].half()})),
        "is F(16|32), the others are F(16|32)",
    ),
    "no weights header": (_write_over(WEIGHTS, b"not safetensors at all"), "no safetensors header in 22 bytes"),
    "bad weights header": (_write_over(WEIGHTS, (4).to_bytes(8, "little") + b"nope"), "header is unreadable"),
    "empty weights": (_write_over(WEIGHTS, b""), "no safetensors header in 0 bytes"),
    "only pickled": (_only_pickled, r"only pickled weights \(pytorch_model.bin\): safetensors are needed"),
    "no weights": (lambda folder: (folder / WEIGHTS).unlink(), r"holds no \*.safetensors file"),
    "a tensor twice": (_double, "is in model-2.safetensors and in model.safetensors, expected once"),
    "no configuration": (lambda folder: (folder / "config.json").unlink(), "has no config.json"),
    "configuration is no JSON": (_write_over("config.json", b"{"), "config.json is not JSON"),
    "configuration is a list": (_write_over("config.json", b"[]"), "must be a JSON object, found list"),
    "another kind": (_edit_config(model_type="llama"), "model_type must be 'gemma3_text', found 'llama'"),
    "multimodal": (_edit_config(model_type="gemma3"), "multimodal checkpoint.*--from FOLDER"),
    "unknown depth": (_edit_config(num_hidden_layers=5), "5 layers × 64 wide is no Gemma 3"),
    "other window": (_edit_config(sliding_window=9), "sliding_window of tiny must be 8, found 9"),
    "other rotary base": (_edit_config(rope_theta=1e4), "rope_theta of tiny must be 1000000.0, found 10000.0"),
    "foreign quantization": (_edit_config(quantization={"mode": "mxfp4"}), "quantization must be affine"),
    "manifest of another schema": (
        lambda folder: (folder / MANIFEST).write_text('{"schema_version": 99}'),
        "schema_version must be 1, got 99",
    ),
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_each_damage_is_one_error_that_names_it(tiny_copy: Path, kind: str) -> None:
    damage, told = DAMAGES[kind]
    damage(tiny_copy)
    with pytest.raises(DamagedFileError, match=told):
        open_folder(tiny_copy)


def test_no_folder_is_not_a_damaged_one(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="there is no model folder"):
        open_folder(tmp_path / "nothing")


def test_an_unchanged_folder_is_hashed_once(tiny_copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hashed: list[str] = []

    def counted(path: Path, *_: object) -> str:
        hashed.append(path.name)
        return real(path)

    real = digests.sha256
    monkeypatch.setattr(digests, "sha256", counted)
    (tiny_copy / WEIGHTS).touch()
    open_folder(tiny_copy)
    assert WEIGHTS in hashed
    hashed.clear()
    open_folder(tiny_copy)
    assert hashed == []
    (tiny_copy / digests.STAMP).write_text("damaged")
    open_folder(tiny_copy)
    assert WEIGHTS in hashed


def test_shards_hold_the_same_model(tiny: ModelFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from gemma_bench.models.loading import load

    monkeypatch.setattr(saving, "_SHARD_BYTES", 200_000)
    sharded = random_folder(tmp_path / "sharded")
    assert len(list(sharded.path.glob("model-*.safetensors"))) > 2
    prompt = [[2, 80, 90, 100]]
    for name in ("torch", "mlx"):
        one, many = load(tiny, name, "cpu"), load(sharded, name, "cpu")
        assert (one.numpy(one.logits(prompt)) == many.numpy(many.logits(prompt))).all()


@pytest.mark.parametrize("message", [None, "Error while serializing: I/O error: No space left (os error 28)"])
def test_a_full_disk_is_one_error_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, message: str | None
) -> None:
    import safetensors.torch
    from safetensors import SafetensorError

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device") if message is None else SafetensorError(message)

    monkeypatch.setattr(safetensors.torch, "save_file", full)
    with pytest.raises(GemmaBenchError, match="no room on disk"):
        random_folder(tmp_path / "tiny")
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_fit_is_not_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(GemmaBenchError, match=r"needed, 1.00 kB free"):
        random_folder(tmp_path / "tiny")
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_dtype_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="unknown dtype 'int3', expected one of float32, bfloat16, float16"):
        random_folder(tmp_path / "tiny", dtype="int3")
