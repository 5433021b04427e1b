"""Short runs: what is trained changes, what is frozen does not, and a restart is the beginning."""

from functools import partial

import pytest
import torch

from gemma_bench.core.errors import BadInputError, InvalidRunError
from gemma_bench.measure.likelihood_torch import of_module
from gemma_bench.training.fine_tune import Adapter, Course, WholeModel, train
from gemma_bench.training.micro import MICRO, micro_model

START = 2
SMALL = MICRO.model_copy(update={"num_hidden_layers": 2, "hidden_size": 32, "intermediate_size": 32})
ROWS = torch.randint(6, 262, (6, 10), generator=torch.Generator().manual_seed(0))


@pytest.fixture(params=[WholeModel, partial(Adapter, rank=2)], ids=["whole", "adapter"])
def trainee(request):
    return request.param(micro_model(SMALL))


def nats(trainee):
    return of_module(trainee.model, START)(ROWS.numpy())


def test_sequences_are_learnt_and_a_restart_forgets_them(trainee):
    trainee.restart(0)
    before = nats(trainee)
    for _ in train(trainee, ROWS, START, Course(40, 6, 0.02)):
        pass
    assert nats(trainee).mean() < before.mean() - 0.05
    trainee.restart(0)
    assert nats(trainee) == pytest.approx(before, abs=1e-6)


def test_the_same_course_ends_at_the_same_weights(trainee):
    ends = []
    for _ in range(2):
        trainee.restart(1)
        for _ in train(trainee, ROWS, START, Course(3, 4, 0.01)):
            pass
        ends.append(nats(trainee))
    assert (ends[0] == ends[1]).all()


def test_an_adapter_leaves_the_weights_alone():
    trainee = Adapter(micro_model(SMALL), rank=2)
    weights = {name: part.clone() for name, part in trainee.model.named_parameters() if not part.requires_grad}
    trainee.restart(0)
    for _ in train(trainee, ROWS, START, Course(2, 4, 0.05)):
        pass
    assert weights
    assert all((part == weights[name]).all() for name, part in trainee.model.named_parameters() if name in weights)


def test_every_sequence_is_visited_equally_often_and_the_rate_ends_at_zero(trainee):
    course = Course(5, 4, 0.01)
    trainee.restart(0)
    assert [step for step, _ in train(trainee, ROWS, START, course)] == list(range(1, 11))
    factors = [course.factor(step, 100) for step in range(101)]
    assert factors[0] == pytest.approx(0.2)
    assert max(factors) == 1
    assert factors[100] == pytest.approx(0, abs=1e-9)


def test_no_data_is_refused(trainee):
    with pytest.raises(BadInputError, match="at least 1 sequence, got 0"):
        next(train(trainee, ROWS[:0], START, Course(1, 4, 0.01)))


def test_a_loss_that_is_no_number_ends_the_run(trainee):
    trainee.model.model.norm.weight.data.fill_(float("nan"))
    with pytest.raises(InvalidRunError, match="no number") as caught:
        next(train(trainee, ROWS, START, Course(1, 4, 0.01)))
    assert caught.value.rule == "diverged"


def test_a_module_scores_as_its_backend_does(tiny):
    from gemma_bench.measure.likelihood import of_backend
    from gemma_bench.models.loading import load

    backend = load(tiny, "torch", "cpu")
    found = of_module(backend.model, backend.tokenizer.bos_token_id)(ROWS.numpy())
    assert found == pytest.approx(of_backend(backend)(ROWS.numpy()), abs=1e-4)
