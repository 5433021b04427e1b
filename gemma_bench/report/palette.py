"""Colours of the page and of its charts, for light and for dark grounds."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

FONT = 'system-ui, -apple-system, "Segoe UI", "Helvetica Neue", "DejaVu Sans", sans-serif'

GROUNDS: Mapping[str, tuple[str, str]] = {
    "card": ("#fffefb", "#1c2125"),
    "ink": ("#20252b", "#e4e6e8"),
    "soft": ("#585f69", "#a4acb5"),
    "line": ("#dedad0", "#32393f"),
    "accent": ("#1d5f7d", "#8cc4dd"),
}

SERIES: Sequence[tuple[str, str]] = (
    ("#1f6f9f", "#6db9e8"),
    ("#c2571a", "#f0a068"),
    ("#2d7d46", "#79cf98"),
    ("#84348a", "#d79bdc"),
    ("#8a6a00", "#e0c060"),
    ("#117a80", "#63cdd2"),
    ("#b3261e", "#ff9b90"),
    ("#5b636d", "#a4acb5"),
)


class Colours(NamedTuple):
    """What a chart is drawn with, as CSS says it."""

    card: str
    ink: str
    soft: str
    line: str
    accent: str
    series: Sequence[str]


ON_PAGE = Colours(
    **{name: f"var(--{name})" for name in GROUNDS},
    series=[f"light-dark({light}, {dark})" for light, dark in SERIES],
)
"""The page chooses."""

IN_FILES = Colours(**{name: light for name, (light, _) in GROUNDS.items()}, series=[light for light, _ in SERIES])
"""Files are light: programs other than browsers know no variables."""
