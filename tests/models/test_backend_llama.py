"""llama.cpp as a backend: what we ask of its library, on one that remembers, and what we refuse."""

import ctypes
import dataclasses
import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from gemma_bench.core.errors import BadInputError, UnavailableError
from gemma_bench.models import backend_llama
from gemma_bench.models.folder import ModelFolder
from gemma_bench.models.loading import LLAMA, is_installed, load
from gemma_bench.models.packaged import ORIGIN

VOCAB = 262


class Remembering(SimpleNamespace):
    """Stands for `llama_cpp`: the logits at a place are high for token + position, wherever logits were asked for."""

    def __init__(self) -> None:
        super().__init__(freed=[], llama_backend_init=lambda: None, llama_log_callback=lambda call: call)

    def llama_log_set(self, *_: Any) -> None: ...

    def llama_model_default_params(self) -> None: ...

    def llama_model_load_from_file(self, file: bytes, _: Any) -> bytes:
        return file

    def llama_model_size(self, _: Any) -> int:
        return 123

    def llama_context_default_params(self) -> Any:
        return SimpleNamespace()

    def llama_init_from_model(self, _: Any, settings: Any) -> Any:
        return SimpleNamespace(room=settings.n_ctx, seen=[], rows={})

    def llama_free(self, context: Any) -> None:
        self.freed.append(context)

    def llama_batch_init(self, count: int, *_: Any) -> Any:
        names = ("token", "pos", "n_seq_id", "logits")
        return SimpleNamespace(seq_id=[[None] for _ in range(count)], **{name: [None] * count for name in names})

    def llama_batch_free(self, _: Any) -> None: ...

    def llama_decode(self, context: Any, batch: Any) -> int:
        assert batch.n_tokens <= 512
        context.seen += zip(batch.token, batch.pos, strict=True)
        context.rows = {}
        for place in range(batch.n_tokens):
            if batch.logits[place]:
                row = np.zeros(VOCAB, dtype=np.float32)
                row[(batch.token[place] + batch.pos[place]) % VOCAB] = 1
                context.rows[place] = row
        return int(len(context.seen) > context.room)

    def llama_get_logits_ith(self, context: Any, place: int) -> Any:
        return context.rows[place].ctypes.data_as(ctypes.POINTER(ctypes.c_float))


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> Remembering:
    made = Remembering()
    monkeypatch.setitem(sys.modules, "llama_cpp", made)
    monkeypatch.setattr(backend_llama, "gguf_file", lambda: "270m.gguf")
    return made


@pytest.fixture
def packaged(tiny: ModelFolder) -> ModelFolder:
    size = tiny.size.model_copy(update={"max_position_embeddings": 2048})
    return dataclasses.replace(tiny, origin=ORIGIN, size=size)


def test_positions_go_on_from_call_to_call_and_from_piece_to_piece(library: Remembering, packaged: ModelFolder) -> None:
    backend = load(packaged, LLAMA)
    tokens, cache = [place % 50 for place in range(1200)], backend.new_cache()
    whole = backend.logits([tokens[:1100]], cache=cache)
    assert whole.shape == (1, 1100, VOCAB)
    assert whole[0].argmax(-1).tolist() == [(token + place) % VOCAB for place, token in enumerate(tokens[:1100])]
    last = backend.logits([tokens[1100:]], cache=cache, last_only=True)
    assert last.shape == (1, 1, VOCAB)
    assert int(last.argmax()) == (tokens[-1] + 1199) % VOCAB
    assert [position for _, position in cache.context.seen] == list(range(1200))
    assert backend.read_tokens(cache) == 1200
    del cache
    assert len(library.freed) == 1


@pytest.mark.usefixtures("library")
def test_what_it_does_not_do_is_refused(packaged: ModelFolder, tiny: ModelFolder) -> None:
    with pytest.raises(BadInputError, match="270m as PyPI has it"):
        load(tiny, LLAMA)
    with pytest.raises(BadInputError, match="cuda"):
        load(packaged, LLAMA, "cuda")
    backend = load(packaged, LLAMA)
    with pytest.raises(BadInputError, match="1 sequence at a time"):
        backend.logits([[1], [2]])
    with pytest.raises(BadInputError, match="the model's context is 2048"):
        backend.logits([[1] * 2049])


def test_a_machine_without_it_says_what_to_install(packaged: ModelFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "llama_cpp", None)
    with pytest.raises(UnavailableError, match="pip install llama-cpp-python"):
        load(packaged, LLAMA)
    with pytest.raises(BadInputError, match="unknown backend 'gguf'"):
        is_installed("gguf")
