"""How small can an update be: rank-1 adapters, merged every step or every few.

The rule says where an update comes from. A random A with B = 0 makes a step of plain descent the change −η·G·a·aᵀ: a
sketch of the gradient G, unbiased for a ~ N(0, I), with cosine 1/√n to it. The top singular pair of G is the best
rank-1 step there is; with error feedback what it leaves out is added to the next gradient. A sign step is a random A
under Adam with fresh moments. Where a rule needs G itself, hooks read it as the product of output gradients and inputs,
which the backward pass holds anyway; only error feedback builds it, because it keeps it: exactly, or rounded to
bfloat16, which processors with such instructions multiply in a third of the time. An adapter that is about to be
aimed adds nothing and is left out of that step's passes.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float
from peft.tuners.lora import LoraLayer
from pydantic import Field
from torch import Generator, Tensor, nn

from gemma_bench.core.errors import BadInputError, InvalidRunError
from gemma_bench.training import method
from gemma_bench.training.adapters import PROJECTIONS, adapter_parameters, attach, layers, merge
from gemma_bench.training.change import CumulativeChange
from gemma_bench.training.gradients import GradientFactors
from gemma_bench.training.method import Group, MakeOptimizer, MethodCallback, Moment, Options, Prepared
from gemma_bench.training.moments import reset_moments
from gemma_bench.training.schedule import cosine
from gemma_bench.training.settings import Settings

_POWER_STEPS, _TINY = 3, 1e-30
Vector = Float[Tensor, " width"]
Product = Callable[[Vector], Vector]
Pairs = Mapping[str, tuple[nn.Parameter, nn.Parameter]]
"""B and A of every layer, by its name."""


def descent(groups: list[dict[str, Any]], settings: Settings) -> torch.optim.Optimizer:
    """Return plain gradient descent."""
    return torch.optim.SGD(groups, settings.learning_rate)


@torch.no_grad()
def random_a(layer: LoraLayer, generator: Generator) -> None:
    """Draw A from N(0, 1) and set B to zero."""
    b, a = adapter_parameters(layer)
    a.copy_(torch.randn(a.shape, generator=generator))
    b.zero_()


@torch.no_grad()
def random_b(layer: LoraLayer, generator: Generator) -> None:
    """Draw B from N(0, 1) and set A to zero."""
    b, a = adapter_parameters(layer)
    b.copy_(torch.randn(b.shape, generator=generator))
    a.zero_()


@torch.no_grad()
def kept_a(layer: LoraLayer, generator: Generator) -> None:  # noqa: ARG001
    """Set B to zero and leave A, from which the search for the next singular pair starts."""
    adapter_parameters(layer)[0].zero_()


def top_pair(times: Product, transposed_times: Product, start: Vector) -> tuple[Vector, Vector]:
    """Return σ·u and v of a matrix's largest singular value, by power iteration from a guess of v.

    A matrix of zeros, as in a step at rate 0, leaves the guess as it was: a guess of zeros would never move again.
    """
    v = start
    for _ in range(_POWER_STEPS):
        v = transposed_times(times(v))
        size = torch.linalg.vector_norm(v)
        v = v / size.clamp_min(_TINY)
    v = torch.where(size > 0, v, start)
    return times(v), v


class TopPair:
    """Turns an adapter towards the top singular pair of its weight's gradient, at the first step of a cycle."""

    state: dict[str, Tensor]

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        """Remember nothing from step to step."""
        self.state, self.dtype = {}, dtype

    @torch.no_grad()
    def aim(self, gradients: GradientFactors, found: Pairs, rate: float, clip_norm: float) -> Tensor:  # noqa: ARG002
        """Set A to v and B's gradient to G·v = σ·u; their norm over all layers, which is returned, is clipped."""
        for name, (b, a) in found.items():
            out, into = gradients.of(name)
            aimed, v = top_pair(lambda v: out.T @ (into @ v), lambda u: into.T @ (out @ u), a[0])  # noqa: B023
            a[0], b.grad = v, aimed[:, None].to(b)
        norm: Tensor = nn.utils.clip_grad_norm_([b for b, _ in found.values()], clip_norm or math.inf)
        return norm


class ErrorFeedback(TopPair):
    """The top pair of gradient plus all that earlier steps left out; `dtype` is what the gradient is multiplied in."""

    @torch.no_grad()
    def aim(self, gradients: GradientFactors, found: Pairs, rate: float, clip_norm: float) -> Tensor:
        """Take the step itself: B = −σ·u of rate·G + residual, which loses what was taken; return the norm of all G."""
        wholes, norms = dict[str, Tensor](), list[Tensor]()
        for name in found:
            wholes[name] = gradients.whole(name, self.dtype)
            norms.append(wholes[name].norm())  # while it is in the cache
        norm: Tensor = torch.stack(norms).norm()
        scale = rate * (clip_norm / (norm + 1e-6)).clamp(max=1) if clip_norm else torch.full_like(norm, rate)
        for name, (b, a) in found.items():
            whole, kept = wholes.pop(name), self.state.get(name)
            wanted = whole.mul_(scale) if kept is None else kept.addcmul_(whole, scale)
            step, v = top_pair(wanted.mv, wanted.T.mv, a[0])
            self.state[name] = wanted.addr_(step, v, alpha=-1)
            a[0], b[:, 0] = v, -step
        return norm


@dataclass(frozen=True)
class Rule:
    """Where a rank-1 update comes from: how a cycle begins, what aims it, which optimizer steps, when it merges."""

    begin: Callable[[LoraLayer, Generator], None]
    aim: Callable[[], TopPair] | None = None
    optimizer: MakeOptimizer = descent
    merges_at_every_step: bool = False


RULES = {
    "random_a": Rule(random_a),
    "random_b": Rule(random_b),
    "top_pair": Rule(kept_a, TopPair),
    "error_feedback": Rule(kept_a, ErrorFeedback, merges_at_every_step=True),
    "error_feedback_bf16": Rule(kept_a, partial(ErrorFeedback, torch.bfloat16), merges_at_every_step=True),
    "sign": Rule(random_a, optimizer=method.adamw),
}


class RankOne(Options):
    """Rank-1 adapters of scale 1, merged and begun anew every `merge_freq` steps."""

    name: ClassVar[str] = "rank1"
    rule: Literal["random_a", "random_b", "top_pair", "error_feedback", "error_feedback_bf16", "sign"] = Field(
        "top_pair", description="Where an update comes from."
    )
    merge_freq: int = Field(1, ge=1, description="Steps between two merges.")
    targets: tuple[str, ...] = Field(PROJECTIONS, description="Matrices that are trained.")
    keep_change: bool = Field(False, description="Keep every merged update, so that their sum's rank can be read.")

    @property
    def trains_weights(self) -> bool:
        """Never by an optimizer: merges into 16-bit weights keep what they lose beside them."""
        return False

    @property
    def has_adapters(self) -> bool:
        """Always."""
        return True

    def kept_rank(self, steps: int) -> int:
        """Return the number of merges."""
        return steps // self.merge_freq if self.keep_change else 0

    def prepare(self, model: nn.Module, settings: Settings) -> Prepared:
        """Attach rank-1 adapters; error feedback is defined for a merge at every step only."""
        if RULES[self.rule].merges_at_every_step and self.merge_freq != 1:
            raise BadInputError(f"merge freq must be 1 with error feedback, got {self.merge_freq}")
        adapted = attach(model, 1, alpha=1, targets=self.targets, seed=settings.seed)
        groups = [Group(method.all_adapter_parameters(adapted), cosine(settings))]
        merges = Merges(self, layers(adapted), settings.seed + 1)
        change = merges.change if self.keep_change else None
        optimizer = RULES[self.rule].optimizer
        return Prepared(adapted, groups, optimizer, [merges], changes_frozen_weights=True, change=change)


class Merges(MethodCallback):
    """Begins, aims and merges the adapters on time."""

    def __init__(self, options: RankOne, found: dict[str, LoraLayer], seed: int) -> None:
        """Start with nothing merged; layers are given, because a walk through the model at every step costs."""
        self.options, self.rule, self.layers = options, RULES[options.rule], found
        self.pairs: Pairs = {}
        self.norm = torch.zeros(())
        self.aim = self.rule.aim() if self.rule.aim else None
        self.generator, self.change = Generator().manual_seed(seed), CumulativeChange()
        self.gradients, self.first_merge = GradientFactors(), options.merge_freq

    def begin(self, now: Moment) -> None:
        """Draw the first adapters and start to watch gradients where the rule needs them."""
        self.pairs = {name: adapter_parameters(layer) for name, layer in self.layers.items()}
        if now.step == 0:
            for layer in self.layers.values():
                random_a(layer, self.generator)
                self.rule.begin(layer, self.generator)
        if self.aim:
            self.gradients.watch(self.layers)

    def before_gradients(self, now: Moment) -> None:
        """Look at gradients in the first step of a cycle only, past the adapters, which add nothing then."""
        if self.aim:
            self._look(is_watching=now.step % self.options.merge_freq == 0)

    def before_step(self, now: Moment) -> None:
        """Aim the adapters with the gradients of all batches of this step."""
        if self.aim and self.gradients.is_watching:
            self.norm = self.aim.aim(self.gradients, self.pairs, now.optimizer.param_groups[0]["lr"], now.clip_norm)
            self.gradients.clear()
            self._look(is_watching=False)

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        """Let no gradient into the weights that is no number; the trainer sees none that hooks read."""
        super().on_pre_optimizer_step(args, state, control, **more)
        if not math.isfinite(norm := float(self.norm)):
            raise InvalidRunError("diverged", f"the gradient's norm became {norm} in step {state.global_step + 1}")

    def _look(self, *, is_watching: bool) -> None:
        self.gradients.is_watching = is_watching
        for layer in self.layers.values():
            layer._disable_adapters = is_watching  # PEFT's own `enable_adapters` freezes them too

    def after_step(self, now: Moment) -> None:
        """Merge at the end of a cycle and begin the next one, without memory of this one."""
        if now.step % self.options.merge_freq:
            return
        if self.options.keep_change:
            self.change.record(self.layers)
        for layer in self.layers.values():
            merge(layer)
            self.rule.begin(layer, self.generator)
        reset_moments(now.optimizer, (parameter for pair in self.pairs.values() for parameter in pair))

    def end(self, now: Moment) -> None:  # noqa: ARG002
        """Stop watching."""
        self.gradients.stop()

    def state_dict(self) -> dict[str, Any]:
        """Return where the random numbers are, what was left out and what was merged."""
        residual = self.aim.state if self.aim else {}
        return {"generator": self.generator.get_state(), "residual": residual, "change": self.change.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what `state_dict` returned."""
        self.generator.set_state(state["generator"])
        self.change.load_state_dict(state["change"])
        if self.aim:
            self.aim.state = dict(state["residual"])
