"""Half precision, for every component: it works, or is refused by one clear error at once."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch import Tensor

EVERYONE = torch.arange(4)
REFUSAL = re.compile(r"\w+: expected (torch\.)?float32 or (torch\.)?float64, got torch\.bfloat16")

REFUSED = {
    "optimizer": "decays near 1 round to 1, and a line search sees no decrease",
    "method": "hands its states to optimizers and decompositions",
    "operator:blur": "Fourier transforms",
    "operator:motion-blur": "Fourier transforms",
    "operator:nonlinear-blur": "Fourier transforms",
    "operator:phase-retrieval": "Fourier transforms",
    "operator:filter": "Fourier transforms",
    "operator:low-pass": "Fourier transforms",
    "operator:band-limit": "Fourier transforms",
    "operator:reverb": "Fourier transforms",
    "cost:spectra": "Fourier transforms",
    "cost:mel": "Fourier transforms",
    "cost:chroma": "Fourier transforms",
    "operator:matrix": "a singular value decomposition",
    "cost:fragment": "a singular value decomposition",
}
"""Who refuses, and what for that knows no half precision; all others must work."""


@pytest.fixture
def refuses(request: pytest.FixtureRequest) -> bool:
    name = request.node.callspec.id
    return name in REFUSED or name.split(":")[0] in REFUSED


def test_half_precision_works_or_is_refused(case: Any, refuses: bool) -> None:
    if refuses:
        with pytest.raises((TypeError, ValueError)) as error:
            case.rows(EVERYONE, torch.bfloat16)
        assert REFUSAL.match(str(error.value)), error.value
        return
    half = case.rows(EVERYONE, torch.bfloat16)
    assert half.keys() == case.whole().keys()
    for name, value in half.items():
        if value.is_floating_point():
            assert value.dtype == torch.bfloat16, name
            assert value.isfinite().all(), name


def test_rows_in_half_precision_do_not_see_their_batch(light_case: Any, refuses: bool) -> None:
    """To the last of eight bits, on a scale of the largest number."""
    if refuses:
        return
    index = torch.tensor([2, 0])
    whole: dict[str, Tensor] = light_case.rows(EVERYONE, torch.bfloat16)
    for name, value in light_case.rows(index, torch.bfloat16).items():
        expected = whole[name][index].double()
        error = float((value.double() - expected).abs().max())
        assert error <= 2**-7 * max(1.0, float(expected.abs().max())), name


def test_what_is_refused_exists(all_cases: dict[str, Any]) -> None:
    kinds = {name.split(":")[0] for name in all_cases}
    assert REFUSED.keys() <= all_cases.keys() | kinds
