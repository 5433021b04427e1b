"""The trainer: the same numbers as a plain loop, bit-exact resuming, and what stops it."""

import math
import shutil
from unittest.mock import patch

import pytest
import torch
from transformers import TrainerCallback

from gemma_bench.core.errors import BadInputError, DamagedFileError, GemmaBenchError, InvalidRunError
from gemma_bench.methods.rank_one import RankOne
from gemma_bench.methods.relora import ReLoRA
from gemma_bench.training import checkpoint
from gemma_bench.training.corpus import Windows, python_sources
from gemma_bench.training.method import Full, Lora
from gemma_bench.training.micro import micro_model
from gemma_bench.training.objective import NextToken
from gemma_bench.training.order import Order
from gemma_bench.training.settings import Settings
from gemma_bench.training.trainer import Trainer, fit, mean_nats


@pytest.fixture(scope="module")
def rows():
    return Windows(python_sources().train[:3_000], 24)


def weights(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(one, other):
    """Compare what is nested in dicts and lists, tensors bit by bit."""
    match one:
        case torch.Tensor():
            return torch.equal(one, other)
        case dict():
            return one.keys() == other.keys() and all(same(one[name], other[name]) for name in one)
        case list() | tuple():
            return len(one) == len(other) and all(map(same, one, other))
        case _:
            return one == other


class Losses(TrainerCallback):
    """Keeps every line of the log that has a loss."""

    def __init__(self):
        self.seen = []

    def on_log(self, *_, logs, **run):  # noqa: ARG002
        if "loss" in logs:
            self.seen.append((logs["loss"], logs.get("grad_norm"), logs["learning_rate"]))


def test_it_takes_the_steps_of_a_plain_loop(rows):
    settings = Settings(iters=5, learning_rate=1e-3, batch_size=2, warmup_steps=2, steps_per_report=1)
    watch = Losses()
    trained = weights(fit(micro_model(), Full(), rows, settings, callbacks=[watch]).model)
    model, losses = micro_model(), []
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3, (0.9, 0.95), weight_decay=0)
    from gemma_bench.training.schedule import cosine

    for step, indices in enumerate(Order(len(rows), 2, 5, settings.seed)):
        optimizer.param_groups[0]["lr"] = 1e-3 * cosine(settings)(step)
        optimizer.zero_grad()
        loss = model(**rows.collate(rows.__getitems__(indices))).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
    assert [seen[0] for seen in watch.seen] == pytest.approx(losses, rel=1e-5)
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(trained[name], tensor, rtol=1e-4, atol=1e-5)


class Ragged(NextToken):
    """Rows of which only some tokens are targets: 3 of the first row, all of the others."""

    def collate(self, rows):
        batch = super().collate(rows)
        labels = batch["labels"].clone()
        labels[batch["input_ids"][:, 0] % 2 == 0, :20] = -100
        return {**batch, "labels": labels}


def test_accumulated_batches_weigh_by_their_tokens(rows):
    """Four batches of one row make the step of one batch of four, though rows differ in targets."""
    whole = Settings(iters=3, learning_rate=1e-3, batch_size=4, steps_per_report=1)
    parts = whole.model_copy(update={"batch_size": 1, "gradient_accumulation": 4})
    seen = []
    for settings in (whole, parts):
        watch = Losses()
        seen.append(
            (weights(fit(micro_model(), Full(), rows, settings, callbacks=[watch], objective=Ragged()).model), watch)
        )
    for name, tensor in seen[0][0].items():
        torch.testing.assert_close(seen[1][0][name], tensor, rtol=1e-4, atol=1e-5)
    assert [s[0] for s in seen[0][1].seen] == pytest.approx([s[0] for s in seen[1][1].seen], rel=1e-5)


def test_order_is_one_shuffle_after_the_other():
    batches = list(Order(10, 4, 5, seed=3))
    flat = [row for batch in batches for row in batch]
    assert sorted(flat[:10]) == sorted(flat[10:]) == list(range(10))
    assert flat[:10] != flat[10:]
    assert batches == list(Order(10, 4, 5, seed=3))
    assert batches != list(Order(10, 4, 5, seed=4))


def test_checkpointing_changes_memory_not_numbers(rows):
    settings = Settings(iters=3, learning_rate=1e-3, batch_size=2)
    recomputed = settings.model_copy(update={"checkpointing": True})
    for method in (Lora(rank=2), RankOne(rule="top_pair")):
        one, other = (weights(fit(micro_model(), method, rows, each).model) for each in (settings, recomputed))
        assert same(one, other)


def test_held_out_nats_are_the_mean_over_targets_and_leave_the_mode(rows):
    model = micro_model().train()
    with torch.no_grad():
        expected = float(model(**rows.collate(rows.rows[:10])).loss)
    assert mean_nats(model, rows, limit=10, batch_size=3) == pytest.approx(expected, rel=1e-5)
    assert model.training
    assert abs(mean_nats(model, rows) - math.log(262)) < 0.5


def test_evaluation_is_logged_with_perplexity(rows):
    settings = Settings(iters=4, learning_rate=1e-3, batch_size=2, steps_per_eval=2)
    trainer = fit(micro_model(), Full(), rows, settings, held_out=rows)
    found = [line for line in trainer.state.log_history if "eval_loss" in line]
    assert [line["step"] for line in found] == [2, 4]
    assert found[0]["eval_perplexity"] == pytest.approx(math.exp(found[0]["eval_loss"]))
    assert found[1]["eval_loss"] < found[0]["eval_loss"] < math.log(262) + 0.5


METHODS = {
    "full": Full(),
    "lora with dropout": Lora(rank=2, dropout=0.2),
    "relora": ReLoRA(rank=2, reset_interval=4, rewarm_steps=1, dropout=0.1),
    "relora, pruned": ReLoRA(rank=2, reset_interval=4, rewarm_steps=1, moments="prune"),
    "relora, unread": ReLoRA(rank=2, reset_interval=4, rewarm_steps=1, keep_change=False),
    "relora, warm": ReLoRA(rank=2, reset_interval=3, rewarm_steps=1, warm_start_steps=5, embeddings=True),
    "random": RankOne(rule="random_a", keep_change=True),
    "every third": RankOne(rule="top_pair", merge_freq=3),
    "error feedback": RankOne(rule="error_feedback"),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", METHODS)
def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(rows, tmp_path, name, dtype):
    """Weights, what they lost in rounding, moments, losses, and the method's own state, from every checkpoint."""
    method = METHODS[name]
    if dtype is torch.bfloat16 and method.trains_weights:
        pytest.skip("weights that an optimizer owns are float32")
    settings = Settings(iters=9, learning_rate=1e-2, batch_size=2, steps_per_report=2, save_every=1)
    kept = tmp_path / "kept"

    class Keep(TrainerCallback):
        def on_save(self, args, state, control, **_):  # noqa: ARG002
            folder = f"checkpoint-{state.global_step}"
            shutil.copytree(tmp_path / "run" / folder, kept / folder)

    def run(folder, callbacks, resume=None):
        prepared = method.prepare(micro_model(dtype=dtype), settings)
        trainer = Trainer(prepared, rows, settings, callbacks=callbacks, folder=folder)
        trainer.train(resume)
        return trainer, checkpoint.changing_weights(trainer), [c.state_dict() for c in prepared.callbacks]

    watch = Losses()
    whole, expected, states = run(tmp_path / "run", [watch, Keep()])
    assert [path.name for path in checkpoint.checkpoints(tmp_path / "run")] == ["checkpoint-8", "checkpoint-9"]
    for step in (1, 4, 5, 6, 8):
        again = Losses()
        trainer, found, state = run(tmp_path / "again", [again], kept / f"checkpoint-{step}")
        assert same(found, expected)
        assert same(weights(trainer.model), weights(whole.model))
        assert again.seen == watch.seen[step // 2 :]
        assert same(state, states)
        assert same(trainer.optimizer.state_dict(), whole.optimizer.state_dict())


@pytest.fixture
def stopped(rows, tmp_path):
    """A folder with checkpoints of a run that had an identity."""
    settings = Settings(iters=2, learning_rate=1e-2, batch_size=2, save_every=1)
    prepared = Lora(rank=2).prepare(micro_model(), settings)
    Trainer(prepared, rows, settings, folder=tmp_path, identity={"rank": 2, "model": "micro"}).train()
    return tmp_path, settings


@pytest.mark.parametrize(
    ("identity", "sentence"),
    [
        ({"rank": 3, "model": "micro"}, "rank was 2 there and is 3 now"),
        ({"rank": 2, "model": "tiny"}, "model was 'micro' there and is 'tiny' now"),
        ({"rank": 2}, "model was 'micro' there and is None now"),
        ({"merge_freq": 1, "method": "rank1"}, "method was None there and is 'rank1' now"),
    ],
)
def test_another_run_is_not_gone_on_with(rows, stopped, identity, sentence):
    folder, settings = stopped
    trainer = Trainer(Lora(rank=2).prepare(micro_model(), settings), rows, settings, identity=identity)
    with pytest.raises(BadInputError, match=sentence):
        trainer.train(checkpoint.newest(folder))


def test_a_damaged_checkpoint_is_named(rows, stopped):
    folder, settings = stopped
    state = checkpoint.newest(folder) / checkpoint.STATE
    state.write_bytes(state.read_bytes()[:1000])
    identity = {"rank": 2, "model": "micro"}
    trainer = Trainer(Lora(rank=2).prepare(micro_model(), settings), rows, settings, identity=identity)
    with pytest.raises(DamagedFileError, match=r"state\.pt cannot be read"):
        trainer.train(checkpoint.newest(folder))
    with pytest.raises(BadInputError, match="holds no checkpoint"):
        checkpoint.newest(folder / "nowhere")


def test_a_loss_that_is_no_number_stops_the_run_and_keeps_the_last_checkpoint(rows, tmp_path):
    class Breaks(NextToken):
        seen = 0

        def __call__(self, model, batch):
            Breaks.seen += 1
            return super().__call__(model, batch) * (float("nan") if Breaks.seen == 3 else 1.0)

    settings = Settings(iters=5, learning_rate=1e-3, batch_size=2, save_every=1)
    prepared = Full().prepare(micro_model(), settings)
    trainer = Trainer(prepared, rows, settings, objective=Breaks(), folder=tmp_path)
    said = "loss became nan in step 3; checkpoint-1 is the last good checkpoint, checkpoint-2 leads to this again"
    with pytest.raises(InvalidRunError, match=said) as stop:
        trainer.train()
    assert stop.value.rule == "diverged"
    assert checkpoint.newest(tmp_path).name == "checkpoint-2"


def test_a_gradient_that_is_no_number_never_reaches_the_weights(rows):
    settings = Settings(iters=3, learning_rate=1e-3, batch_size=2)
    model = micro_model()
    model.lm_head.weight.register_hook(lambda gradient: gradient * float("inf"))
    before = weights(model)
    with pytest.raises(InvalidRunError, match=r"gradient's norm became (nan|inf) in step 1"):
        fit(model, Full(), rows, settings)
    assert same(weights(model), before)


def test_a_gradient_that_is_no_number_is_seen_without_clipping_too(rows, tmp_path):
    settings = Settings(iters=4, learning_rate=1e30, batch_size=2, clip_norm=0, save_every=1)
    trainer = Trainer(Full().prepare(micro_model(), settings), rows, settings, folder=tmp_path)
    with pytest.raises(InvalidRunError, match=r"(loss|gradient's norm) became (nan|inf) in step 2; there is no good"):
        trainer.train()
    assert all(bool(torch.isfinite(tensor).all()) for tensor in weights(trainer.model).values())


def test_weights_that_are_no_numbers_are_not_saved(rows, tmp_path):
    class Break(TrainerCallback):
        def on_step_end(self, args, state, control, model, **_):  # noqa: ARG002
            if state.global_step == 3:
                model.model.norm.weight.data[0] = float("nan")

    settings = Settings(iters=5, learning_rate=1e-3, batch_size=2, save_every=1)
    trainer = Trainer(Full().prepare(micro_model(), settings), rows, settings, callbacks=[Break()], folder=tmp_path)
    said = "norm.weight is no number any more after step 3; checkpoint-2 is the last good checkpoint$"
    with pytest.raises(InvalidRunError, match=said):
        trainer.train()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-1", "checkpoint-2"]


@pytest.mark.parametrize("rule", ["top_pair", "error_feedback"])
def test_methods_that_look_at_gradients_themselves_name_the_checkpoint_too(rows, tmp_path, rule):
    class Break(TrainerCallback):
        def on_step_begin(self, args, state, control, model, **_):  # noqa: ARG002
            if state.global_step == 2:
                model.get_output_embeddings().register_full_backward_hook(
                    lambda _, into, __: tuple(gradient * float("inf") for gradient in into)
                )

    settings = Settings(iters=5, learning_rate=1e-3, batch_size=2, save_every=1, clip_norm=0)
    trainer = Trainer(
        RankOne(rule=rule).prepare(micro_model(), settings), rows, settings, callbacks=[Break()], folder=tmp_path
    )
    with pytest.raises(InvalidRunError, match=r"norm became (nan|inf) in step 3; checkpoint-1 is the last good"):
        trainer.train()


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("trainer_state.json", None, r"trainer_state\.json cannot be read"),
        ("trainer_state.json", "{", r"trainer_state\.json cannot be read"),
        ("trainer_state.json", "[1]", r"trainer_state\.json cannot be read"),
        ("trainer_state.json", "{}", r"trainer_state\.json must be of step 2, got 0"),
        ("run.json", "[1]", r"run\.json must hold names, got list"),
        ("run.json", "{", r"run\.json is not JSON"),
    ],
)
def test_damaged_counters_and_identities_are_named(rows, stopped, name, content, sentence):
    folder, settings = stopped
    path = checkpoint.newest(folder) / name
    path.unlink() if content is None else path.write_text(content)
    identity = {"rank": 2, "model": "micro"}
    trainer = Trainer(Lora(rank=2).prepare(micro_model(), settings), rows, settings, identity=identity)
    with pytest.raises(DamagedFileError, match=sentence):
        trainer.train(checkpoint.newest(folder))


def test_an_evaluation_is_in_the_precision_of_the_steps(rows):
    settings = Settings(iters=2, learning_rate=1e-2, batch_size=2, steps_per_eval=2)
    trainer = Trainer(Full().prepare(micro_model(), settings), rows, settings, held_out=rows, autocast=True)
    trainer.train()
    (line,) = [line for line in trainer.state.log_history if "eval_loss" in line]
    assert trainer.held_out_nats(rows) == line["eval_loss"] != mean_nats(trainer.model, rows, batch_size=2)


def test_a_full_disk_leaves_the_earlier_checkpoints(rows, stopped):
    folder, settings = stopped
    more = settings.model_copy(update={"iters": 4})
    identity = {"rank": 2, "model": "micro"}
    trainer = Trainer(Lora(rank=2).prepare(micro_model(), more), rows, more, folder=folder, identity=identity)

    def full(state, path):  # noqa: ARG001
        path.write_bytes(b"half")
        raise RuntimeError("PytorchStreamWriter failed writing file data.pkl: file write failed")

    with patch("torch.save", full), pytest.raises(GemmaBenchError, match="is the disk full"):
        trainer.train(checkpoint.newest(folder))
    assert sorted(path.name for path in folder.iterdir()) == ["checkpoint-1", "checkpoint-2"]


def test_an_evaluation_without_targets_is_refused(rows):
    class Nothing(NextToken):
        def collate(self, rows):
            batch = super().collate(rows)
            return {**batch, "labels": torch.full_like(batch["labels"], -100)}

    with pytest.raises(BadInputError, match="no token to predict"):
        mean_nats(micro_model(), rows, Nothing(), limit=2)
