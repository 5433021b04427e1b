"""How quantities are written. Everything inside the library is SI and plain bytes; only printing converts."""

GIB = 2**30
GB = 10**9

_EXACT_DIGITS = 15
_SMALL, _WHOLE, _LARGE = 1e-3, 1e4, 1e6


def gigabytes(size_bytes: float) -> str:
    """Write bytes as decimal gigabytes (or MB, kB, B below), the unit of published model sizes."""
    for unit, scale in (("GB", GB), ("MB", 10**6), ("kB", 10**3)):
        if abs(size_bytes) >= scale:
            return f"{size_bytes / scale:.2f} {unit}"
    return f"{size_bytes:.0f} B"


def number(value: float) -> str:
    """Write a figure: integers with thousands separators, others with four significant digits."""
    if float(value).is_integer() and abs(value) < 10**_EXACT_DIGITS:
        return f"{int(value):,}"
    if value and not _SMALL <= abs(value) < _LARGE:
        return f"{value:.3g}"
    return f"{value:,.0f}" if abs(value) >= _WHOLE else f"{value:.4g}"
