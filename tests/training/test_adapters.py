"""Adapters: what they refuse, and the algebra of merge and restart."""

import copy

import pytest
import torch

from gemma_bench.core.errors import BadInputError, DamagedFileError
from gemma_bench.training import adapters
from gemma_bench.training.adapters import attach, factors, layers, merge, merge_and_restart, restart
from gemma_bench.training.change import CumulativeChange
from gemma_bench.training.micro import MICRO, micro_model
from gemma_bench.training.split_weights import LOW_HALF, add_product, master

TOKENS = torch.arange(6, 38).view(2, 16)


def logits(model):
    with torch.no_grad():
        return model(input_ids=TOKENS).logits


def trained(model, generator):
    """Give every factor numbers, as training would."""
    for layer in layers(model).values():
        for parameter in adapters.adapter_parameters(layer):
            parameter.data.normal_(std=0.05, generator=generator)
    return model


@pytest.fixture
def adapted(micro):
    return trained(attach(micro, 4), torch.Generator().manual_seed(1))


def test_attaching_changes_nothing_and_trains_only_the_adapters(micro):
    before = logits(micro)
    model = attach(micro, 4)
    assert torch.equal(logits(model), before)
    trainable = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert len(trainable) == 2 * 7 * MICRO.num_hidden_layers
    assert all("lora_" in name for name in trainable)
    assert set(layers(model)) == {name.removesuffix(".weight") for name in MICRO.matrix_shapes() if "embed" not in name}


def test_a_seed_gives_the_factors_and_leaves_torch_s_own_numbers_alone():
    before = torch.random.get_rng_state()
    one, other, third = (attach(micro_model(), 2, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), before)
    first = [factors(next(iter(layers(model).values())))[1] for model in (one, other, third)]
    assert torch.equal(first[0], first[1])
    assert not torch.equal(first[0], first[2])


@pytest.mark.parametrize(
    ("rank", "options", "sentence"),
    [
        (0, {}, "rank must be between 1 and 32, got 0"),
        (33, {}, "rank must be between 1 and 32, got 33"),
        (65, {"targets": ("q_proj",)}, "rank must be between 1 and 64, got 65"),
        (4, {"targets": ("qkv",)}, "unknown target 'qkv', expected one of down_proj, gate_proj, k_proj, o_proj"),
        (4, {"targets": ("embed_tokens",)}, "embed_tokens cannot have an adapter: it shares its matrix with lm_head"),
        (4, {"targets": ("lm_head",)}, "lm_head cannot have an adapter: it shares its matrix with embed_tokens"),
        (4, {"targets": ()}, "targets must be at least one of"),
    ],
)
def test_what_cannot_be_attached(micro, rank, options, sentence):
    with pytest.raises(BadInputError, match=sentence):
        attach(micro, rank, **options)


def test_a_merge_changes_no_output_and_the_next_gradient_flows(adapted):
    before = logits(adapted)
    merge_and_restart(layers(adapted), torch.Generator().manual_seed(2))
    assert (logits(adapted) - before).abs().max() < 1e-5
    adapted(input_ids=TOKENS, labels=TOKENS).loss.backward()
    for layer in layers(adapted).values():
        b, a = adapters.adapter_parameters(layer)
        assert b.grad.abs().max() > 0
        assert a.grad.abs().max() == 0
        assert b.abs().max() == 0
        assert 0 < a.abs().max() <= a.shape[1] ** -0.5


def test_merged_weights_are_those_of_peft(adapted):
    theirs = copy.deepcopy(adapted).merge_and_unload().state_dict()
    merge_and_restart(layers(adapted), torch.Generator())
    for name, layer in layers(adapted).items():
        torch.testing.assert_close(layer.get_base_layer().weight, theirs[f"{name}.weight"])


def test_a_merge_keeps_the_parameters_that_the_optimizer_knows(adapted):
    before = {name: id(parameter) for name, parameter in adapted.named_parameters()}
    merge_and_restart(layers(adapted), torch.Generator())
    assert {name: id(parameter) for name, parameter in adapted.named_parameters()} == before


def test_saved_adapters_come_back_and_are_peft_s_own(adapted, tmp_path):
    from peft import PeftModel

    adapters.save(adapted, tmp_path / "adapter")
    for bring in (adapters.load, lambda base, folder: PeftModel.from_pretrained(base, folder)):
        again = bring(micro_model(), tmp_path / "adapter")
        torch.testing.assert_close(logits(again), logits(adapted), rtol=0, atol=0)
    with pytest.raises(BadInputError, match=r"holds no adapter: adapter_config\.json is missing"):
        adapters.load(micro_model(), tmp_path)


def test_all_of_it_works_without_memory():
    from gemma_bench.models.torch_backend import meta_model

    model = attach(meta_model(MICRO.config()), 4, dtype=torch.bfloat16)
    merge_and_restart(layers(model), torch.Generator())
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}
    assert {part.dtype for layer in layers(model).values() for part in factors(layer)} == {torch.bfloat16}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_full_precision_weights_get_the_product(dtype):
    linear = torch.nn.Linear(24, 40, bias=False, dtype=dtype)
    b, a, before = torch.randn(40, 3), torch.randn(3, 24), linear.weight.detach().clone()
    add_product(linear, b, a, 0.5)
    torch.testing.assert_close(linear.weight.detach() - before, (0.5 * b @ a).to(dtype), rtol=1e-4, atol=1e-5)
    assert not hasattr(linear, LOW_HALF)


def test_bfloat16_weights_are_the_rounding_of_an_exact_float32_master():
    """A thousand updates, each far below what bfloat16 can add, are all there, to the last bit of float32."""
    generator = torch.Generator().manual_seed(0)
    linear = torch.nn.Linear(24, 40, bias=False, dtype=torch.bfloat16)
    single = torch.nn.Linear(24, 40, bias=False)
    single.weight.data.copy_(linear.weight)
    plain = linear.weight.detach().clone()
    for _ in range(1000):
        b, a = torch.rand(40, 1, generator=generator) * 1e-5, torch.rand(1, 24, generator=generator)
        add_product(linear, b, a)
        add_product(single, b, a)
        plain.addmm_(b.bfloat16(), a.bfloat16())
    assert torch.equal(master(linear), single.weight)
    half_a_step = single.weight.abs() * 2.0**-8
    assert ((linear.weight.float() - single.weight).abs() <= half_a_step).all()
    assert (plain.float() - single.weight).norm() > 2 * (linear.weight.float() - single.weight).norm()
    assert LOW_HALF not in linear.state_dict()


def test_other_weights_are_refused():
    with pytest.raises(BadInputError, match=r"must be bfloat16, float32 or float64, got torch\.float16"):
        add_product(torch.nn.Linear(4, 4, dtype=torch.float16), torch.ones(4, 1), torch.ones(1, 4))


def test_the_change_is_the_sum_of_what_was_merged(micro):
    """Factors at first, one matrix in float64 later; the rank grows by the adapter's with every merge."""
    generator, change = torch.Generator().manual_seed(3), CumulativeChange()
    adapted = trained(attach(micro, 8, targets=("k_proj", "down_proj")), generator)
    start = {name: layer.get_base_layer().weight.detach().clone() for name, layer in layers(adapted).items()}
    for merges in range(1, 9):
        change.record(layers(adapted))
        merge_and_restart(layers(adapted), generator)
        trained(adapted, generator)
        for name, layer in layers(adapted).items():
            part, weight = change.matrices[name], layer.get_base_layer().weight.detach()
            assert (part.matrix() - (weight - start[name])).abs().max() < 1e-5
            assert torch.linalg.matrix_rank(part.matrix()) == min(8 * merges, *weight.shape)
            assert (part.factors() is None) == (name.endswith("k_proj") and merges > 5)
    now = change.with_adapters(layers(adapted))
    for name, layer in layers(adapted).items():
        b, a = (part.double() for part in factors(layer))
        torch.testing.assert_close(now[name].matrix(), change.matrices[name].matrix() + b @ a)
    again = CumulativeChange()
    again.load_state_dict(change.state_dict())
    assert all(torch.equal(again.matrices[name].matrix(), change.matrices[name].matrix()) for name in start)


def test_a_restart_follows_its_generator(adapted):
    layer = next(iter(layers(adapted).values()))
    drawn = []
    for seed in (5, 5, 6):
        restart(layer, torch.Generator().manual_seed(seed))
        drawn.append(factors(layer)[1].clone())
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


def test_merging_twice_is_seen(adapted):
    """The control of the test above: what must not happen changes the output."""
    before = logits(adapted)
    for layer in layers(adapted).values():
        merge(layer)
    assert (logits(adapted) - before).abs().max() > 1e-2


def saved_by_peft(folder, **options):
    """Save an adapter of PEFT's own making whose every number is drawn, as training would leave it."""
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(micro_model(), LoraConfig(r=2, **{"target_modules": ["q_proj"], **options}))
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and "lora_" in name:
            parameter.data.normal_(std=0.1)
    model.save_pretrained(folder)
    return model


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"use_dora": True}, "must be plain LoRA, .* got use_dora=True"),
        ({"lora_bias": True}, "must be plain LoRA, .* got lora_bias=True"),
        ({"modules_to_save": ["lm_head"]}, r"must be plain LoRA, .* got modules_to_save=\['lm_head'\]"),
        ({"modules_to_save": ["norm"]}, r"must be plain LoRA, .* got modules_to_save=\['norm'\]"),
        ({"target_modules": ["q_proj", "embed_tokens"]}, "must be beside linear layers only, .*embed_tokens"),
        ({"target_modules": ["lm_head"]}, "lm_head, which shares its matrix"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_an_adapter_that_is_more_than_a_product_beside_a_matrix_is_refused(tmp_path, options, sentence):
    saved_by_peft(tmp_path, **options)
    with pytest.raises(BadInputError, match=sentence):
        adapters.load(micro_model(), tmp_path)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"use_rslora": True, "lora_alpha": 3},
        {"target_modules": "all-linear", "exclude_modules": ["lm_head"], "rank_pattern": {"k_proj": 4}},
        {"layers_to_transform": [0], "alpha_pattern": {"q_proj": 7}},
    ],
)
def test_a_plain_adapter_from_elsewhere_computes_what_peft_does(tmp_path, options):
    theirs = saved_by_peft(tmp_path, **options)
    loaded = adapters.load(micro_model(), tmp_path)
    torch.testing.assert_close(logits(loaded), logits(theirs), rtol=0, atol=0)
    for layer in layers(loaded).values():
        merge(layer)
        restart(layer, torch.Generator())
    torch.testing.assert_close(logits(loaded), logits(theirs), rtol=1e-4, atol=1e-4)


def test_an_adapter_that_lacks_a_tensor_or_is_of_another_kind_is_refused(adapted, tmp_path):
    from peft import IA3Config, get_peft_model
    from safetensors.torch import load_file, save_file

    adapters.save(adapted, tmp_path / "short")
    file = tmp_path / "short" / "adapter_model.safetensors"
    tensors = load_file(file)
    tensors.pop(sorted(tensors)[0])
    save_file(tensors, file)
    with pytest.warns(UserWarning, match="missing adapter keys"), pytest.raises(BadInputError, match="in one of them"):
        adapters.load(micro_model(), tmp_path / "short")
    other = IA3Config(target_modules=["q_proj", "down_proj"], feedforward_modules=["down_proj"])
    get_peft_model(micro_model(), other).save_pretrained(tmp_path / "ia3")
    with pytest.raises(BadInputError, match=r"must be LoRA, got .*IA3"):
        adapters.load(micro_model(), tmp_path / "ia3")
    (tmp_path / "ia3" / "adapter_config.json").write_text("[1")
    with pytest.raises(DamagedFileError, match=r"adapter_config\.json cannot be read"):
        adapters.load(micro_model(), tmp_path / "ia3")
