"""Laws 1 to 5 and 7 on every component: rows, seeds, shapes, gradients, dtypes, devices."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from ctrlgen.rows.batching import PerSample

ROWS = 4
everything = torch.arange(ROWS)
INDICES = ([0], [2], [3, 0, 1], [1, 1, 2], [2, 0, 3, 1, 3, 3])


def same(left: dict[str, Tensor], right: dict[str, Tensor], tolerance: float) -> None:
    """Equal outputs, to a tolerance relative to the largest number among them."""
    assert left.keys() == right.keys()
    for name, value in left.items():
        other = right[name]
        assert value.shape == other.shape and value.dtype == other.dtype, name
        scale = float(other.double().abs().max().clamp_min(1))
        error = float((value.double() - other.double()).abs().max())
        assert error <= tolerance * scale, (name, error, scale)


def sliced(outputs: dict[str, Tensor], index: Tensor) -> dict[str, Tensor]:
    return {name: value[index] for name, value in outputs.items()}


# ------------------------------------------------------------------ law 1


def test_a_row_does_not_see_its_batch(light_case: Any) -> None:
    """Whatever rows are taken, in whatever order and however often: `take` is slicing."""
    for index in INDICES:
        at = torch.tensor(index)
        same(light_case.rows(at, torch.float64), sliced(light_case.whole(), at), 1e-10)


@pytest.mark.parametrize("index", [[2], [3, 0, 1, 1]], ids=str)
def test_a_row_of_a_long_computation_does_not_see_its_batch(
    heavy_case: Any, index: list[int]
) -> None:
    at = torch.tensor(index)
    same(heavy_case.rows(at, torch.float64), sliced(heavy_case.whole(), at), 1e-10)


def test_gradients_do_not_see_the_batch(gradient_case: Any) -> None:
    """The gradient of one row's output reaches that row's input only."""
    function, x = gradient_case.gradient
    x = x.clone().requires_grad_()
    out = function(x)
    out = out.reshape(len(out), -1)
    weight = torch.linspace(0.5, 1.5, out.shape[1], dtype=out.dtype)
    for i in range(ROWS):
        (gradient,) = torch.autograd.grad((out[i] * weight).sum(), x, retain_graph=True)
        others = [j for j in range(ROWS) if j != i]
        assert gradient[others].abs().max() == 0
        assert gradient[i].abs().max() > 0


# ------------------------------------------------------------------ law 2


def test_the_same_seeds_give_the_same_numbers(case: Any) -> None:
    """To the bit, without reading or moving the global generator."""
    first = case.whole()
    torch.manual_seed(4711)
    state = torch.get_rng_state()
    second = case.rows(everything, torch.float64)
    assert torch.equal(torch.get_rng_state(), state)
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


# ------------------------------------------------------------------ law 3


def test_one_value_per_sample(value_case: Any) -> None:
    assert value_case.whole()["value"].shape == (ROWS,)
    assert value_case.rows(torch.tensor([2]), torch.float64)["value"].shape == (1,)


def test_one_row_per_sample(case: Any) -> None:
    for name, value in case.whole().items():
        assert value.shape[0] == ROWS, name


# ------------------------------------------------------------------ law 4


def test_gradients_belong_to_the_caller(gradient_case: Any) -> None:
    """They reach the input where it asks for them, in every row, and are right."""
    function, x = gradient_case.gradient
    x = x.clone().requires_grad_()
    out = function(x)
    assert out.requires_grad
    weight = torch.linspace(0.5, 1.5, out.numel(), dtype=out.dtype).reshape(out.shape)
    (gradient,) = torch.autograd.grad((out * weight).sum(), x)
    assert gradient.isfinite().all()
    assert bool((gradient.reshape(ROWS, -1).abs().amax(1) > 0).all())


def test_gradients_are_those_of_the_values(exact_case: Any) -> None:
    """Against a central difference along a random direction."""
    function, x = exact_case.gradient
    generator = torch.Generator().manual_seed(5)
    direction = torch.randn(x.shape, generator=generator, dtype=x.dtype)
    x = x.clone().requires_grad_()
    out = function(x)
    weight = torch.linspace(0.5, 1.5, out.numel(), dtype=out.dtype).reshape(out.shape)
    (gradient,) = torch.autograd.grad((out * weight).sum(), x)
    h = 1e-5
    with torch.no_grad():
        difference = ((function(x + h * direction) - function(x - h * direction)) * weight).sum()
    expected = difference / (2 * h)
    assert float((gradient * direction).sum()) == pytest.approx(float(expected), rel=2e-4, abs=1e-6)


# ------------------------------------------------------------------ law 6


def test_what_is_not_finite_stays_in_its_row(gradient_case: Any) -> None:
    """Neither the values of other rows nor their gradients notice."""
    function, clean = gradient_case.gradient
    others, results = torch.tensor([0, 2, 3]), []
    for bad in (None, math.nan, math.inf):
        x = clean.clone()
        if bad is not None:
            x[1] = bad
        x.requires_grad_()
        out = function(x)
        (gradient,) = torch.autograd.grad(out.sum(), x)
        results.append((out.detach()[others], gradient[others]))
    for out, gradient in results[1:]:
        assert torch.allclose(out, results[0][0], rtol=1e-12, atol=1e-12)
        assert torch.allclose(gradient, results[0][1], rtol=1e-10, atol=1e-10)


# ------------------------------------------------------------------ dtypes and devices


def test_dtype_of_the_input_is_the_dtype_of_the_output(case: Any) -> None:
    double, single = case.whole(), case.whole(torch.float32)
    for name, value in double.items():
        if value.is_floating_point():
            assert value.dtype == torch.float64, name
            assert single[name].dtype == torch.float32, name
        assert single[name].isfinite().all(), name


def test_single_precision_agrees_with_double(smooth_case: Any) -> None:
    double, single = smooth_case.whole(), smooth_case.whole(torch.float32)
    floating = {name: v for name, v in double.items() if v.is_floating_point()}
    same({name: single[name].double() for name in floating}, floating, smooth_case.rounding)


def tensors(value: Any) -> Iterator[Tensor]:
    """All tensors that an object holds for its samples."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from tensors(item)
    elif isinstance(value, PerSample):
        for name in value.per_sample:
            yield from tensors(getattr(value, name))


@pytest.mark.parametrize(
    "device", ["meta", pytest.param("cuda", marks=pytest.mark.cuda)], ids=["meta", "cuda"]
)
def test_to_moves_what_belongs_to_samples(part_case: Any, device: str) -> None:
    """A copy on the device; whole numbers and masks keep their dtype on the way to float32."""
    part = part_case.part()
    before = list(tensors(part))
    for old, moved in zip(before, tensors(part.to(device)), strict=True):
        assert moved.device.type == device and moved.dtype == old.dtype
    for old, single in zip(before, tensors(part.to(torch.float32)), strict=True):
        assert single.dtype == (torch.float32 if old.is_floating_point() else old.dtype)
    for old, again in zip(before, tensors(part), strict=True):
        assert again is old
    there_and_back = part.to(torch.float32).to(torch.float64)
    for old, back in zip(before, tensors(there_and_back), strict=True):
        assert back.dtype == old.dtype
        assert torch.allclose(back.double(), old.double(), rtol=1e-6, atol=1e-6)


def test_taking_leaves_the_original_alone_and_composes(light_case: Any) -> None:
    before = light_case.whole()
    first, second = torch.tensor([3, 1, 0]), torch.tensor([2, 0])
    light_case.rows(first, torch.float64)
    same(light_case.rows(everything, torch.float64), before, 0)
    same(light_case.rows(first[second], torch.float64), sliced(before, first[second]), 1e-10)
