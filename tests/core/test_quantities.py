from __future__ import annotations

from decimal import Decimal

import pytest
from kubernetes.utils.quantity import parse_quantity

from fededge.core.quantities import quantity


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("500m", "0.5"),
        ("2", 2),
        ("1.5", "1.5"),
        (".5", "0.5"),
        ("1.", 1),
        ("4Gi", 4 * 2**30),
        ("1.5Ki", 1536),
        ("128974848", 128974848),
        ("1e3", 1000),
        ("1E3", 1000),
        ("5e-1", "0.5"),
        ("1E", 10**18),
        ("100k", 10**5),
        ("100n", "1e-7"),
    ],
)
def test_quantities(text: str, value: str | int) -> None:
    assert quantity(text) == Decimal(value)


@pytest.mark.parametrize("suffix", ["", "n", "u", "m", *"kMGTPE", *(f"{letter}i" for letter in "KMGTPE")])
def test_suffixes_mean_what_they_mean_to_kubernetes(suffix: str) -> None:
    assert quantity(f"12.25{suffix}") == parse_quantity(f"12.25{suffix}")


@pytest.mark.parametrize(
    "text", ["", ".", "lots", "4GB", "4 Gi", "-1", "NaN", "Infinity", "1Ki2", "1ki", "1K", "1e", "٣"]
)
def test_what_is_no_quantity(text: str) -> None:
    with pytest.raises(ValueError, match="is no quantity of Kubernetes, such as 500m"):
        quantity(text)
