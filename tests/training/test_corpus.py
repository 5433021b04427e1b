"""The corpus that every machine has."""

import pytest
import torch

from gemma_bench.core.errors import BadInputError
from gemma_bench.models.tokenizer import byte_tokenizer
from gemma_bench.training.corpus import (
    Windows,
    python_documents,
    python_files,
    python_sources,
    python_tokens,
    rows_after,
    spread,
)


def test_python_s_sources_are_split_by_file():
    train, held_out = python_files()
    assert not set(train) & set(held_out)
    assert len(train) // len(held_out) in (8, 9)
    assert not [path for path in train + held_out if "test" in path.parts]


def test_bytes_are_what_the_tiny_tokenizer_says():
    corpus, (train, held_out) = python_sources(), python_files()
    for stream, files in ((corpus.train, train), (corpus.held_out, held_out)):
        assert len(stream) == sum(path.stat().st_size + 1 for path in files)
        first = next(path for path in files if path.stat().st_size)
        expected = byte_tokenizer()(first.read_text(encoding="utf-8")).input_ids[:200]
        start = sum(path.stat().st_size + 1 for path in files[: files.index(first)])
        assert stream[start : start + len(expected)].tolist() == expected


def test_tokens_of_a_model_are_as_many_as_asked_for():
    corpus = python_tokens(byte_tokenizer(), 5000)
    assert (len(corpus.train), len(corpus.held_out)) == (5000, 500)
    with pytest.raises(BadInputError, match="own sources have"):
        python_tokens(byte_tokenizer(), 10**9)


def test_documents_are_whole_files_in_a_seeded_order_with_an_end_after_each():
    tokenizer, (train, held_out) = byte_tokenizer(), python_files()
    corpus = python_documents(tokenizer, 50_000, seed=3)
    for stream, files, most in ((corpus.train, train, 50_000), (corpus.held_out, held_out, 12_500)):
        text = "".join(tokenizer.decode([token]) for token in stream.tolist())
        documents = text.split(tokenizer.eos_token)[:-1]
        assert sum(map(len, documents[:-1])) < most <= sum(map(len, documents))
        known = {path.read_text(encoding="utf-8", errors="replace") for path in files}
        assert set(documents) <= known
    assert python_documents(tokenizer, 50_000, seed=4).train[:500].tolist() != corpus.train[:500].tolist()
    rows = rows_after(corpus.train, 50, tokenizer.bos_token_id)
    assert set(rows[:, 0].tolist()) == {tokenizer.bos_token_id}
    assert rows[:, 1:].flatten().tolist() == corpus.train[: rows[:, 1:].numel()].tolist()


def test_rows_are_chosen_evenly():
    rows = torch.arange(22).view(11, 2)
    assert spread(rows, 3)[:, 0].tolist() == [0, 10, 20]
    with pytest.raises(BadInputError, match="the text has 11 rows of 2 tokens, 12 were asked for"):
        spread(rows, 12)


def test_windows_lie_side_by_side():
    windows = Windows(torch.arange(23), 5)
    assert len(windows) == 4
    assert windows[1].tolist() == [5, 6, 7, 8, 9]
    assert windows.__getitems__([3, 0]).tolist() == [windows[3].tolist(), windows[0].tolist()]
    batch = Windows.collate(windows.__getitems__([2]))
    assert batch["input_ids"].tolist() == batch["labels"].tolist() == [[10, 11, 12, 13, 14]]
    for length in (1, 24):
        with pytest.raises(BadInputError, match=f"between 2 and 23 tokens, got {length}"):
            Windows(torch.arange(23), length)


def test_a_micro_model_is_its_seed_s_and_leaves_torch_s_numbers_alone():
    from gemma_bench.training.micro import MICRO, micro_model

    before = torch.random.get_rng_state()
    one, other = (micro_model(seed=seed) for seed in (0, 1))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert sum(parameter.numel() for parameter in one.parameters()) == MICRO.parameter_count
    assert torch.equal(one.lm_head.weight, micro_model(seed=0).lm_head.weight)
    assert not torch.equal(one.lm_head.weight, other.lm_head.weight)
    assert {p.dtype for p in micro_model(dtype=torch.float64).parameters()} == {torch.float64}
