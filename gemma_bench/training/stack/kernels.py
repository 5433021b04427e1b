"""The operations in C, for stacks on the CPU in float32, where launching an operation costs more than doing it."""

import ctypes
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gemma_bench.models.compiled import Kernels
from gemma_bench.training.stack.operations import Heads, Operations, Rotation

KERNELS = Kernels(*(Path(__file__).with_name(name) for name in ("kernels.h", "kernels.c", "attention.c")))

PIECE_LOGITS = 1 << 17
"""As many as a core's own cache has room for."""

_Gradients = tuple[Tensor | None, ...]


def compiled() -> Operations | None:
    """Return the operations in C, or `None` on a machine without a C compiler."""
    if KERNELS.load() is None:
        return None
    return Operations(
        embed=_Embed.apply,
        rms=_Rms.apply,
        layer_norm=_LayerNorm.apply,
        attention=_Attention.apply,
        gelu=_gelu,
        geglu=_geglu,
        cross_entropy=_CrossEntropy.apply,
        adamw=_adamw,
    )


def _call(name: str, *arguments: Tensor | int | float | None) -> None:
    """Call a kernel: tensors go as addresses, whole numbers as int64, other numbers as float."""
    getattr(KERNELS.required(), name)(*(_as_c(argument) for argument in arguments))


def _as_c(argument: Tensor | int | float | None) -> Any:
    match argument:
        case Tensor():
            return ctypes.c_void_p(argument.data_ptr())
        case float():
            return ctypes.c_float(argument)
        case int():
            return ctypes.c_int64(argument)
        case None:
            return ctypes.c_void_p(None)


class _Embed(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, table: Tensor, tokens: Tensor, scale: float) -> Tensor:
        models, symbols, width = table.shape
        tokens = tokens.contiguous()
        out = table.new_empty(*tokens.shape, width)
        _call("embed_forward", models, tokens.shape[1], width, table.stride(0), float(scale), tokens, table, out)
        context.save_for_backward(tokens)
        context.symbols, context.scale = symbols, float(scale)
        return out

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> _Gradients:
        (tokens,), gradient = context.saved_tensors, gradients[0].contiguous()
        models, rows, width = gradient.shape
        table = gradient.new_empty(models, context.symbols, width)
        _call("embed_backward", models, rows, width, context.symbols, context.scale, tokens, gradient, table)
        return table, None, None


class _Rms(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, x: Tensor, weight: Tensor, epsilon: float, residual: Tensor | None = None) -> Tensor:
        (models, rows, width), x = x.shape, x.contiguous()
        inverse, out = x.new_empty(models, rows), torch.empty_like(x)
        residual = None if residual is None else residual.contiguous()
        _call("rms_forward", models, rows, width, weight.stride(0), epsilon, x, weight, residual, inverse, out)
        context.save_for_backward(x, weight, inverse)
        context.has_residual = residual is not None
        return out

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> _Gradients:
        (x, weight, inverse), gradient = context.saved_tensors, gradients[0].contiguous()
        dx, dweight = torch.empty_like(x), x.new_empty(len(x), x.shape[2])
        _call("rms_backward", *x.shape, weight.stride(0), gradient, x, weight, inverse, dx, dweight)
        return dx, dweight, None, gradient if context.has_residual else None


class _LayerNorm(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, x: Tensor, weight: Tensor, bias: Tensor, epsilon: float) -> Tensor:
        (models, rows, width), x = x.shape, x.contiguous()
        mean, inverse, out = x.new_empty(models, rows), x.new_empty(models, rows), torch.empty_like(x)
        stride = weight.stride(0)
        _call("layer_norm_forward", models, rows, width, stride, epsilon, x, weight, bias, mean, inverse, out)
        context.save_for_backward(x, weight, mean, inverse)
        return out

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> _Gradients:
        (x, *kept), gradient = context.saved_tensors, gradients[0].contiguous()
        dx, dweight, dbias = torch.empty_like(x), *(x.new_empty(len(x), x.shape[2]) for _ in range(2))
        _call("layer_norm_backward", *x.shape, kept[0].stride(0), gradient, x, *kept, dx, dweight, dbias)
        return dx, dweight, dbias, None


class _Layout(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_int64) for name in ("models", "batch", "length", "heads", "groups", "d", "stride")),
        *((name, ctypes.c_float) for name in ("epsilon", "scale")),
        *((name, ctypes.c_void_p) for name in ("query", "key", "cosine", "sine")),
    )


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(
        context: Any,
        qkv: Tensor,
        query: Tensor | None,
        key: Tensor | None,
        rotation: Rotation | None,
        heads: Heads,
        length: int,
    ) -> Tensor:
        (models, tokens, _), qkv = qkv.shape, qkv.contiguous()
        tables = (query, key, *(rotation or (None, None)))
        context.layout = _Layout(
            *(models, tokens // length, length, heads.heads, heads.groups, heads.width),
            *(0 if query is None else query.stride(0), heads.epsilon, heads.scale),
            *(None if table is None else table.data_ptr() for table in tables),
        )
        context.save_for_backward(qkv, *tables)
        out = qkv.new_empty(models, tokens, heads.heads * heads.width)
        _call_laid_out("attention_forward", context.layout, qkv, out)
        return out

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> _Gradients:
        qkv, query, *_ = context.saved_tensors
        dqkv = torch.empty_like(qkv)
        dquery, dkey = (qkv.new_empty(len(qkv), context.layout.d) for _ in range(2))
        _call_laid_out("attention_backward", context.layout, gradients[0].contiguous(), qkv, dqkv, dquery, dkey)
        return (dqkv, *((None, None) if query is None else (dquery, dkey)), None, None, None)


def _call_laid_out(name: str, layout: _Layout, *tensors: Tensor) -> None:
    getattr(KERNELS.required(), name)(ctypes.byref(layout), *(ctypes.c_void_p(tensor.data_ptr()) for tensor in tensors))


class _Gelu(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, x: Tensor, is_gated: bool) -> Tensor:
        x = x.contiguous()
        width = x.shape[2] // 2 if is_gated else x.shape[2]
        out = x.new_empty(*x.shape[:2], width)
        _call("gelu_forward", x.shape[0] * x.shape[1], width, int(is_gated), x, out)
        context.save_for_backward(x)
        context.is_gated = is_gated
        return out

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> _Gradients:
        (x,), gradient = context.saved_tensors, gradients[0].contiguous()
        dx = torch.empty_like(x)
        rows, width = x.shape[0] * x.shape[1], gradient.shape[2]
        _call("gelu_backward", rows, width, int(context.is_gated), gradient, x, dx)
        return dx, None


def _gelu(x: Tensor) -> Tensor:
    out: Tensor = _Gelu.apply(x, False)  # type: ignore[no-untyped-call]
    return out


def _geglu(x: Tensor) -> Tensor:
    out: Tensor = _Gelu.apply(x, True)  # type: ignore[no-untyped-call]
    return out


class _CrossEntropy(torch.autograd.Function):
    """Logits are made, and turned into gradients, piece by piece: a piece stays in a core's own cache."""

    @staticmethod
    def forward(context: Any, hidden: Tensor, table: Tensor, targets: Tensor) -> Tensor:
        (models, rows, _), symbols = hidden.shape, table.shape[1]
        loss, to_hidden, to_table = hidden.new_empty(targets.shape), torch.empty_like(hidden), torch.zeros_like(table)
        some_rows = min(rows, max(1, PIECE_LOGITS // symbols))
        some_models = max(1, PIECE_LOGITS // (some_rows * symbols))
        for first in range(0, models, some_models):
            these = slice(first, first + some_models)
            for row in range(0, rows, some_rows):
                piece = these, slice(row, row + some_rows)
                error = torch.bmm(hidden[piece], table[these].transpose(1, 2))
                nats = loss.new_empty(error.shape[:2])
                _call("cross_entropy", *error.shape, 1 / rows, targets[piece].contiguous(), error, nats)
                loss[piece] = nats
                torch.bmm(error, table[these], out=to_hidden[piece])
                to_table[these].baddbmm_(error.transpose(1, 2), hidden[piece])
        context.save_for_backward(to_hidden, to_table)
        return loss.mean(1)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> _Gradients:
        factor = gradients[0][:, None, None]
        return (*(tensor * factor for tensor in context.saved_tensors), None)


def _adamw(
    weights: Tensor,
    gradient: Tensor,
    first: Tensor,
    second: Tensor,
    scales: Tensor,
    *,
    beta1: float,
    beta2: float,
    epsilon: float,
) -> None:
    rate, root = (scales[:, column].contiguous() for column in range(2))
    _call("adamw", *weights.shape, beta1, beta2, epsilon, rate, root, gradient, weights, first, second)
