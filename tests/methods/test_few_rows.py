"""The kernel for few rows: torch's products, to the rounding of their type, and torch's own where it does not fit."""

from itertools import product as pairs

import numpy as np
import pytest
import torch
from torch import nn

from gemma_bench.methods import few_rows
from gemma_bench.methods.few_rows import few_row_products, is_served, product
from gemma_bench.methods.set_block_torch import TorchPasses
from gemma_bench.models.catalog import TINY
from gemma_bench.models.loading import load
from gemma_bench.models.tiny import random_folder

needs_compiler = pytest.mark.skipif(few_rows.KERNELS.load() is None, reason="no C compiler")


@needs_compiler
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_products_are_exact_to_the_rounding_of_their_type(dtype):
    torch.manual_seed(0)
    for rows, (count, columns) in pairs((2, 3, 4, 5, 6, 7, 8, 13, 17, 32), ((4, 8192), (132, 16), (260, 640))):
        x, weight = torch.randn(rows, columns).to(dtype), torch.randn(count, columns).to(dtype)
        wanted = x.double() @ weight.double().T
        error = (product(x, weight).double() - wanted).abs().max() / wanted.abs().max()
        assert error < (1e-6 if dtype == torch.float32 else 2**-8)


@needs_compiler
def test_a_row_comes_out_the_same_among_others_and_with_more_threads():
    torch.manual_seed(0)
    x, weight = torch.randn(7, 640), torch.randn(260, 640)
    together = product(x, weight)
    for first, last in ((0, 1), (1, 3), (3, 7)):
        assert torch.equal(product(x[first:last], weight), together[first:last])
    threads = torch.get_num_threads()
    torch.set_num_threads(3 - threads % 2)
    again = product(x, weight)
    torch.set_num_threads(threads)
    assert torch.equal(again, together)
    assert torch.equal(product(x.unflatten(0, (1, 7)), weight)[0], together)


@pytest.mark.parametrize(
    ("x", "weight", "serves"),
    [
        (torch.zeros(2, 640), torch.zeros(256, 640), True),
        (torch.zeros(1, 640), torch.zeros(256, 640), False),  # torch's own is made for this
        (torch.zeros(4, 8, 640), torch.zeros(256, 640), True),
        (torch.zeros(33, 640), torch.zeros(256, 640), False),
        (torch.zeros(8, 640), torch.zeros(16, 640), False),  # too small
        (torch.zeros(8, 640), torch.zeros(258, 640), False),  # not in fours
        (torch.zeros(8, 650), torch.zeros(256, 650), False),
        (torch.zeros(8, 8208), torch.zeros(256, 8208), False),
        (torch.zeros(8, 640), torch.zeros(640, 256).T, False),  # in another order
        (torch.zeros(8, 640, dtype=torch.bfloat16), torch.zeros(256, 640), False),
        (torch.zeros(8, 640).double(), torch.zeros(256, 640).double(), False),
    ],
)
def test_what_does_not_fit_is_left_to_torch(x, weight, serves):
    assert is_served(x, weight) is serves


@needs_compiler
def test_linear_layers_are_taken_over_without_gradients_only(monkeypatch):
    calls = []
    monkeypatch.setattr(few_rows, "_LARGE_HEAD", 1)
    monkeypatch.setattr(few_rows, "product", lambda x, weight: calls.append(len(x)) or product(x, weight))

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(640, 256, bias=False)

        def get_output_embeddings(self):
            return self.head

    model, x = Model(), torch.randn(8, 640)
    plain = nn.Linear.forward
    wanted = model.head(x)
    with few_row_products(model)():
        wanted.sum().backward()
        assert model.head(x).requires_grad
        assert calls == []
        with torch.inference_mode():
            assert torch.allclose(model.head(x), wanted, atol=1e-5)
            nn.Linear(640, 256)(x)  # has a bias
        assert calls == [8]
    assert nn.Linear.forward is plain
    monkeypatch.setattr(few_rows.KERNELS, "load", lambda: None)
    with few_row_products(model)(), torch.inference_mode():
        model.head(x)
    assert calls == [8], "without a compiler it is torch's"


@needs_compiler
def test_passes_with_the_kernel_say_what_they_say_without_it(tmp_path, monkeypatch):
    size = TINY.model_copy(update={"hidden_size": 128, "intermediate_size": 1024})
    model = load(random_folder(tmp_path / "wide", size, mask_token=3), "torch", "cpu").model
    finished, block = np.array([[2, 80, 81, 82]]), np.array([[3, 70, 3, 3]])
    found = []
    for large in (1, 1 << 24):
        monkeypatch.setattr(few_rows, "_LARGE_HEAD", large)
        monkeypatch.setattr(few_rows, "_SMALLEST", 1)
        passes = TorchPasses(model, 3)
        cache = passes.new_cache(np.zeros(1, dtype=int), 20)
        found.append(passes.read(cache, finished, block, block == 3))
    ours, plain = found
    assert np.allclose(ours.entropies_nats, plain.entropies_nats, atol=1e-4)
    chosen = np.arange(3)
    assert np.abs(ours.logits(chosen) - plain.logits(chosen)).max() < 1e-3
    assert (ours.logits(chosen) != plain.logits(chosen)).any(), "control: another order of sums"
