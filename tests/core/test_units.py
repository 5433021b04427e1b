import pytest

from gemma_bench.core.units import gigabytes, number


@pytest.mark.parametrize(
    ("size", "text"), [(6_620_000_000, "6.62 GB"), (541_900_000, "541.90 MB"), (2_048, "2.05 kB"), (12, "12 B")]
)
def test_bytes_are_written_in_decimal_units(size, text):
    assert gigabytes(size) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (268_098_176, "268,098,176"),
        (0, "0"),
        (62.27, "62.27"),
        (1e-5, "1e-05"),
        (0.004, "0.004"),
        (103_820.7, "103,821"),
    ],
)
def test_numbers_keep_what_a_reader_needs(value, text):
    assert number(value) == text
