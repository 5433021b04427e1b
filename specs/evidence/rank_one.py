"""Evidence of chapter 5: how small an update can be. In a fault run models and runs are smaller."""

import pytest

from gemma_bench.claims import Measured

RATES = {"top_pair": 0.3, "random_a": 0.1}
"""The best rates of a sweep on another seed."""


@pytest.fixture
def gradient_excess(tiny):
    """Return how many directions a gradient has beyond its tokens, the worst of all matrices and numbers of tokens.

    At one token every value and feed-forward matrix must have exactly 1 (the gradients of queries and keys are zero
    there: one token has nothing to choose from). Tokens differ, because layer 0 tells only different ones apart.
    """
    import torch

    from gemma_bench.measure.gradient_rank import gradient_spectra
    from gemma_bench.models.loading import load

    model = load(tiny, "torch", "cpu", "float32").model.double()
    worst, seen = -1, []
    for rows, tokens in ((1, 1), (1, 2), (1, 4), (1, 16), (4, 4)):
        ids = 6 + torch.randperm(256, generator=torch.Generator().manual_seed(rows))[: rows * (tokens + 1)]
        ranks = {name: found.rank for name, found in gradient_spectra(model, ids.view(rows, -1)).items()}
        worst = max(worst, *(rank - rows * tokens for rank in ranks.values()))
        if tokens == 1:
            alone = [rank for name, rank in ranks.items() if not name.endswith(("q_proj", "k_proj"))]
            worst = max(worst, *(abs(rank - 1) for rank in alone))
        queries = min(rank for name, rank in ranks.items() if name.endswith("q_proj"))
        seen.append(f"{rows} × {tokens} tokens: {max(ranks.values())} (queries {queries})")
    return worst, "; ".join(seen)


@pytest.fixture
def batch_of_one(gemma, text):
    """Return the smallest rank of a gradient over one sequence of 64 tokens of real text.

    Matrices without any are left out: those of queries and keys, were there but one token to choose from.
    """
    import torch

    from gemma_bench.measure import gradient_rank
    from gemma_bench.models.backend import subject
    from gemma_bench.models.loading import load

    backend = load(gemma, "torch", "cpu", "float32")
    ids = torch.tensor([backend.tokenizer(text).input_ids[:65]])
    last = backend.size.num_hidden_layers - 1
    found = gradient_rank.gradient_spectra(backend.model, ids, (0, last // 2, last))
    found = {name: spectrum for name, spectrum in found.items() if spectrum.rank}
    ranks = {name: spectrum.rank for name, spectrum in found.items()}
    stable = sorted(spectrum.stable_rank for spectrum in found.values())
    widest, narrowest = (pick(ranks, key=ranks.__getitem__) for pick in (max, min))
    reason = (
        f"{ids.shape[1] - 1} tokens, {len(ranks)} matrices: from {ranks[narrowest]} ({narrowest}) to {ranks[widest]} "
        f"({widest}); the stable rank is small, {stable[0]:.1f} to {stable[-1]:.1f}"
    )
    return ranks[narrowest], reason, subject(backend)


@pytest.fixture
def step_from_zero(tiny):
    """Return how far a merged step of a fresh adapter is from −η·s²·G·Aᵀ·A, and A's share of the gradient."""
    import torch

    from gemma_bench.measure.gradient_rank import next_token_loss, projections
    from gemma_bench.models.loading import load
    from gemma_bench.training import adapters

    model, rate = load(tiny, "torch", "cpu", "float32").model.double(), 0.1
    ids = torch.randint(6, 262, (2, 17), generator=torch.Generator().manual_seed(0))
    plain = projections(model)
    gradients = torch.autograd.grad(next_token_loss(model, ids), list(plain.values()))
    before = [weight.detach().clone() for weight in plain.values()]
    adapted = adapters.attach(model, rank=2, dtype=torch.float64)
    layers = adapters.layers(adapted).values()
    next_token_loss(adapted.get_base_model(), ids).backward()
    worst, of_a = 0.0, 0.0
    for layer, gradient, old in zip(layers, gradients, before, strict=True):
        (b, a), s = adapters.adapter_parameters(layer), layer.scaling[adapters.ADAPTER]
        of_a = max(of_a, float(a.grad.norm() / b.grad.norm()))
        torch.optim.SGD([b, a], lr=rate).step()
        adapters.merge(layer)
        expected = -rate * s**2 * gradient @ a.detach().mT @ a.detach()
        moved = layer.get_base_layer().weight.detach() - old
        worst = max(worst, float((moved - expected).norm() / expected.norm()))
    reason = f"weights off by {worst:.1e}, A's gradient over B's at most {of_a:.1e}, {len(before)} matrices in float64"
    return max(worst, of_a), reason


def plain_sum(weight, b, a):
    """Add a product to a weight in the weight's own type, as a merge without any remedy does."""
    weight.add_((b @ a).to(weight.dtype))


@pytest.fixture
def lost_in_bfloat16(gemma):
    """Return the smallest share of 100 small rank-1 updates that plain bfloat16 merges lose, and what a remedy loses."""
    import torch

    from gemma_bench.models.backend import subject
    from gemma_bench.models.loading import load
    from gemma_bench.training.adapters import PROJECTIONS
    from gemma_bench.training.split_weights import add_product, master

    backend, generator = load(gemma, "torch", "cpu", "bfloat16"), torch.Generator().manual_seed(0)
    lost, kept = {}, []
    for name in PROJECTIONS:
        linear = next(part for path, part in backend.model.named_modules() if path.endswith(name))
        start = linear.weight.detach().clone()
        plain, exact, size = start.clone(), torch.zeros(start.shape, dtype=torch.float64), start.float().norm()
        for _ in range(100):
            b, a = (torch.randn(shape, generator=generator) for shape in ((len(start), 1), (1, start.shape[1])))
            b *= 1e-4 * size / (b.norm() * a.norm())
            plain_sum(plain, b, a)
            add_product(linear, b, a)
            exact += b.double() @ a.double()
        lost[name] = float((plain.double() - start.double() - exact).norm() / exact.norm())
        kept.append(float((master(linear).double() - start.double() - exact).norm() / exact.norm()))
    shares = ", ".join(f"{name} {share:.0%}" for name, share in lost.items())
    return (
        min(lost.values()),
        f"lost: {shares}; with the lower halves kept beside the weights {max(kept):.1g}",
        subject(backend),
    )


@pytest.fixture
def sketch(request, tiny):
    """Return the figure, over what it should be, whose interval reaches farthest from 1, of two matrices' gradients.

    Draws of A are the rule's own.
    """
    import torch

    from gemma_bench.measure.gradient_rank import next_token_loss, projections
    from gemma_bench.measure.sketch import bias_over_chance, sketch_moments
    from gemma_bench.methods import rank_one
    from gemma_bench.models.loading import load
    from gemma_bench.training import adapters

    count, generator = 2_000 if request.config.option.faults else 30_000, torch.Generator().manual_seed(0)
    model = load(tiny, "torch", "cpu", "float32").model
    weights = {
        name: weight for name, weight in projections(model, (0,)).items() if name.endswith(("v_proj", "down_proj"))
    }
    ids = torch.randint(6, 262, (2, 33), generator=generator)
    gradients = torch.autograd.grad(next_token_loss(model, ids), list(weights.values()))
    layers, parts, biases = adapters.layers(adapters.attach(model, 1, alpha=1)), {}, []
    for name, gradient in zip(weights, gradients, strict=True):
        layer, draws = layers[f"model.layers.{name}"], torch.empty(count, gradient.shape[1])
        for draw in draws:
            rank_one.random_a(layer, generator)
            draw.copy_(adapters.adapter_parameters(layer)[1][0].detach())
        n = gradient.shape[1]
        parts |= {f"{what} at n = {n}": found for what, found in sketch_moments(gradient, draws).items()}
        biases.append(bias_over_chance(gradient, draws))
    worst = max(parts, key=lambda what: max(abs(parts[what].high - 1), abs(parts[what].low - 1)))
    shown = ", ".join(f"{what} {found.value:.3f}" for what, found in parts.items())
    reason = f"{count:,} draws, worst of {shown}; bias {max(biases):.2f} × that of chance alone"
    return Measured.within(parts[worst], "× of what is claimed"), reason


@pytest.fixture
def merged_steps(request):
    """Return the largest difference from the expected rank, over matrices and numbers of merged steps of random A."""
    from gemma_bench.measure.rank_evolution import effective_weights

    course = _course(request, steps=40, read_every=4, warmup_steps=0)
    start = _start(course, seed=0)
    random, top = (_run(course, start, rule, seed=0) for rule in ("random_a", "top_pair"))
    worst = 0
    for name, weight in effective_weights(start).items():
        expected = [min(step, *weight.shape) for step in random.steps]
        worst = max(worst, *(abs(rank - right) for rank, right in zip(random.rank_of[name], expected, strict=True)))
    reason = (
        f"{len(random.rank_of)} matrices, {len(random.steps)} readings up to {random.steps[-1]} steps: mean rank "
        f"{random.rank[-1]:.1f} (of 64 or 16 rows); top pairs overlap a little, {top.rank[-1]:.1f}"
    )
    return worst, reason


@pytest.fixture
def rules(request):
    """Return the effective rank after merged steps of the top pair over LoRA-8's: the mean over seeds, one in a fault run."""
    from gemma_bench.core.intervals import Interval, mean_interval

    is_small = request.config.option.faults
    course = _course(request, steps=120 if is_small else 200, read_every=40, warmup_steps=20, warm_steps=60)
    starts = {seed: _start(course, seed) for seed in range(1 if is_small else 5)}
    found = {
        seed: (_run(course, start, "top_pair", seed), _lora(course, start, seed)) for seed, start in starts.items()
    }
    ratios = [top.effective_rank[-1] / plain.effective_rank[-1] for top, plain in found.values()]
    top, plain = found[0]
    reason = (
        f"top pair {top.effective_rank[-1]:.1f}, LoRA-8 {plain.effective_rank[-1]:.1f}; random directions of the top "
        f"pairs' norms {top.null_effective_rank:.1f}"
    )
    interval = Interval(*3 * ratios) if is_small else mean_interval(ratios)
    return Measured.within(interval, "× LoRA-8's effective rank", ratios), reason


def _course(request, **more):
    """Return a course of the micro model; the single key-value head makes matrices of 16 rows."""
    from gemma_bench.experiments.low_rank_arms import Course
    from gemma_bench.training.micro import MICRO

    size = MICRO.model_copy(update={"num_key_value_heads": 1})
    return Course(**{"size": size, "warm_steps": 10 if request.config.option.faults else 60, "held_out_rows": 8} | more)


def _start(course, seed):
    from gemma_bench.experiments.low_rank_arms import warm_up

    return warm_up(course.model_copy(update={"warmup_steps": 5}), seed)


def _run(course, start, rule, seed):
    from gemma_bench.experiments.low_rank_arms import Arm, run_arm
    from gemma_bench.methods.rank_one import RankOne

    arm = Arm(name=rule, method=RankOne(rule=rule), rates=(), null_terms=course.read_every)
    return run_arm(arm, RATES[rule], seed, course, start)


def _lora(course, start, seed):
    from gemma_bench.experiments.low_rank_arms import Arm, run_arm
    from gemma_bench.training.method import Lora

    return run_arm(Arm(name="lora_8", method=Lora(rank=8), rates=()), 8e-3, seed, course, start)
