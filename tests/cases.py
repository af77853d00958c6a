"""Cases of a test that differ in nothing but chance, or in the moment of a fault."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest


def one_measured(cases: Iterable[Any]) -> list[Any]:
    """The values of such a parameter, of which coverage is measured for the first alone.

    The others come by the same places, and take three times as long where they are measured.
    """
    first, *others = cases
    return [first, *(pytest.param(one, marks=pytest.mark.many_cases) for one in others)]
