"""What a long run has found so far, in a state folder, so that a killed run goes on with the next question."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from gemma_bench.core.errors import DamagedFileError
from gemma_bench.core.files import read_text, write_text

_REMEDY = "remove it to find that again"


def kept(state: Path | None, name: str, find: Callable[[], Any], shape: Any = Any) -> Any:
    """Return what `find` returns, in JSON's types (tuples come as lists), asked once for each name and state folder.

    With a `shape` it is made one. Without a folder it is asked each time. Raises `DamagedFileError` for a file that is
    not JSON, or of another shape.
    """
    path = None if state is None else state / f"{name}.json"
    if path is None or not path.exists():
        text = json.dumps(find())
        found = TypeAdapter(shape).validate_python(json.loads(text))
        if path is not None:
            write_text(path, text)
        return found
    try:
        return TypeAdapter(shape).validate_python(json.loads(read_text(path, "state")))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "it"
        raise DamagedFileError(f"state {path}: {where}: {first['msg']}; {_REMEDY}") from error
    except ValueError as error:
        raise DamagedFileError(f"state {path} is not JSON: {error}; {_REMEDY}") from error
