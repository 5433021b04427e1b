"""The real model's experiment from end to end on random weights: equal tokens, right accounts, ends in time."""

import pytest

from gemma_bench.core.errors import BadInputError
from gemma_bench.experiments.set_block_gemma import FIXTURE, FULL, LONG, STUDY, run
from gemma_bench.experiments.set_block_start import size_of_bytes
from gemma_bench.experiments.set_block_writing import Setting, written_in_blocks
from gemma_bench.measure.writing import answer_nats, next_token_answers
from gemma_bench.methods.set_block_decoding import SetBlock, decode
from gemma_bench.methods.set_block_torch import TorchPasses
from gemma_bench.methods.set_block_trace import answers
from gemma_bench.models.catalog import find
from gemma_bench.models.loading import load

PROMPTS = [[2, 30, 31, 32], [2, 40, 41, 42, 43, 44, 45]]


@pytest.fixture
def small(tiny):
    return FIXTURE.model_copy(update={"model": str(tiny.path), "steps": 3, "prompts": 4, "text_bytes": 4000})


@pytest.fixture(scope="module")
def model(tiny):
    return load(tiny, "torch", "cpu", "float32").model


@pytest.mark.parametrize("lora_rank", [None, 2])
def test_both_trainings_see_the_same_number_of_tokens(small, lora_rank):
    (record,) = run(small.model_copy(update={"lora_rank": lora_rank}))
    assert record.set_block_count_tokens == record.control_count_tokens == 3 * 4 * 64
    assert record.loss_model == ("base", "set block", "next token")
    assert record.loss_over_control_nats[2] == 0
    assert len(set(record.loss_nats)) == 3
    assert record.row_decoder == ("next token", "entropy", "entropy", "next token", "next token", "entropy")
    assert record.row_model == ("set block",) * 3 + ("next token", "base", "base")
    assert [record.row_tokens_per_pass[row] for row in (0, 2, 3, 4)] == [1] * 4  # row 2: blocks of one token
    assert [record.row_same_ratio[row] for row in (0, 3, 4)] == [1] * 3
    assert record.is_complete


def test_a_model_can_be_initialised_and_trained_here(small, tmp_path, monkeypatch):
    """Nothing is located or fetched; the start is trained on next tokens before both tunings begin with it."""
    monkeypatch.setattr("gemma_bench.models.loading.locate", lambda *_: pytest.fail("looked for weights"))
    own = small.model_copy(update={"model": "tiny", "start_steps": 40, "start_budget_s": 20})
    (record,) = run(own, state=tmp_path)
    assert record.model_id == "tiny-bytes-bfloat16"
    assert (record.start_steps_count, record.start_count_tokens) == (40, 40 * 4 * 64)
    assert record.start_losses_nats[-1] < record.start_losses_nats[0] - 0.5
    base, tuned, _ = record.loss_nats
    assert base < record.start_losses_nats[0] - 0.5
    assert tuned < record.start_losses_nats[0] - 0.5
    monkeypatch.setattr("gemma_bench.training.short_run._go_on", lambda *_: pytest.fail("trained again"))
    (again,) = run(own, state=tmp_path)
    assert again.loss_nats == record.loss_nats


def test_the_full_scale_needs_no_weights():
    assert FULL.start_steps
    assert FULL.start_budget_s + 2 * FULL.budget_s < 0.8 * FULL.total_budget_s
    size, whole = size_of_bytes(FULL.model), find(FULL.model)
    assert (size.num_hidden_layers, size.sliding_window, size.vocab_size) == (whole.num_hidden_layers, 512, 262)


def test_what_there_is_when_time_is_up_is_recorded(small):
    (record,) = run(small.model_copy(update={"total_budget_s": 0}))
    assert not record.is_complete
    assert record.row_decoder == ("next token",)


def test_a_killed_run_goes_on(small, tmp_path, monkeypatch):
    (record,) = run(small, state=tmp_path)
    assert [record.row_model[row] for row in record.pattern_row] == ["set block"] * 3
    assert {len(passes) for passes in record.pattern_fixed_in_pass} == {small.new_tokens}
    for gone in ("in blocks 1", "losses"):
        (tmp_path / f"{gone}.json").unlink()
    monkeypatch.setattr("gemma_bench.training.short_run._go_on", lambda *_: pytest.fail("trained again"))
    monkeypatch.setattr(
        "gemma_bench.experiments.set_block_completions.next_token_answers", lambda *_: pytest.fail("written again")
    )
    (again,) = run(small, state=tmp_path)
    measured = {"date_utc", "load_average_1min", "row_s", "total_s"}
    assert again.model_dump(exclude=measured) == record.model_dump(exclude=measured)


def test_the_whole_vocabulary_is_kept_unless_the_text_s_is_asked_for(small):
    whole, cut = (next(run(small.model_copy(update={"text_vocabulary": cut}))) for cut in (False, True))
    assert (whole.vocabulary_count, cut.vocabulary_count < 262) == (262, True)
    assert cut.loss_nats[0] < whole.loss_nats[0], "fewer tokens to choose from cost less"


def test_a_setting_without_meaning_is_refused_before_anything_is_loaded(small):
    wrong = small.model_copy(update={"model": "nothing", "settings": (Setting(amount=-1),)})
    with pytest.raises(BadInputError, match="gamma must be at least 0"):
        next(run(wrong))


@pytest.mark.parametrize("config", [STUDY, LONG, FULL])
def test_presets_leave_time_to_decode(config):
    assert len(config.settings) > 2
    assert config.prompts >= 200
    assert 2 * config.budget_s < config.total_budget_s


def test_choosing_on_the_device_writes_what_the_decoder_writes(model):
    for setting in (Setting(amount=1.0, block_tokens=5), Setting(sampler="fixed", amount=2, block_tokens=4)):
        plain = answers(decode(TorchPasses(model, 4), PROMPTS, 12, setting.method))
        assert written_in_blocks(model, PROMPTS, 12, setting, 4) == list(plain)


def test_one_token_at_a_time_is_what_the_model_finds_likeliest(model):
    import torch

    found = next_token_answers(model, PROMPTS, 6, None)
    for prompt, answer in zip(PROMPTS, found, strict=True):
        logits = model(input_ids=torch.tensor([[*prompt, *answer]])).logits[0]
        assert logits[len(prompt) - 1 : -1].argmax(dim=1).tolist() == list(answer)
        own = -logits.log_softmax(dim=1)[len(prompt) - 1 : -1].gather(1, torch.tensor(answer)[:, None]).sum()
        assert answer_nats(model, [prompt], [answer]) == pytest.approx([own.item()], rel=1e-5)
    both = answer_nats(model, PROMPTS, found)
    assert both == pytest.approx([answer_nats(model, [p], [a])[0] for p, a in zip(PROMPTS, found, strict=True)])


def test_the_method_of_a_setting_is_the_decoder_s():
    assert isinstance(Setting().method, SetBlock)
