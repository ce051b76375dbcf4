"""Rows of a batch: taking them, counting them, moving what belongs to them."""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch

from ctrlgen.rows.batching import PerSample, expand_like, row_sum, rows_like, rows_of, take


class Pair(NamedTuple):
    left: torch.Tensor
    right: torch.Tensor


class Inner(PerSample):
    per_sample = ("mask",)

    def __init__(self, mask: torch.Tensor) -> None:
        self.mask = mask


class Outer(PerSample):
    per_sample = ("y", "data", "inner")

    def __init__(self) -> None:
        self.y = torch.arange(8.0).reshape(4, 2)
        self.data = {"label": torch.arange(4), "none": None}
        self.inner = Inner(torch.tensor([True, False, True, True]))
        self.shared = torch.ones(3)
        self.pair = Pair(torch.ones(2), torch.tensor([1, 2]))
        self.several = [torch.ones(2), (torch.zeros(1), "text")]
        self.network = torch.nn.Linear(1, 1)


def test_take_restricts_every_per_sample_attribute():
    whole = Outer()
    part = whole.take(torch.tensor([2, 0]))
    assert type(part) is Outer and part is not whole
    assert part.y.tolist() == [[4, 5], [0, 1]]
    assert part.data["label"].tolist() == [2, 0] and part.data["none"] is None
    assert part.inner.mask.tolist() == [True, True]
    assert part.shared is whole.shared and part.network is whole.network
    assert whole.y.shape == (4, 2), "the whole stays whole"
    again = part.take(torch.tensor([1]))
    assert again.y.tolist() == [[0, 1]]


def test_take_is_differentiable():
    y = torch.ones(3, requires_grad=True)
    (gradient,) = torch.autograd.grad(take(y, torch.tensor([1, 1])).sum(), y)
    assert gradient.tolist() == [0, 2, 0]


def test_what_holds_no_rows_is_shared():
    shared = PerSample()
    assert shared.take(torch.tensor([0])) is shared
    assert take(None, torch.tensor([0])) is None
    with pytest.raises(TypeError, match="per-sample value must be a tensor"):
        take(3.0, torch.tensor([0]))


def test_rows_are_counted_and_must_agree():
    whole = Outer()
    assert rows_of(whole) == 4 and rows_of(whole.y) == 4 and rows_of({}) is None
    assert rows_of(PerSample()) is None and rows_of(3.0) is None
    whole.data["label"] = torch.arange(5)
    with pytest.raises(ValueError, match="disagree on the batch size"):
        rows_of(whole)
    with pytest.raises(ValueError, match=r"\{'a': 2, 'b': 3\}"):
        rows_of({"a": torch.ones(2), "b": torch.ones(3), "c": None})


@pytest.mark.parametrize(
    "arguments", [(torch.float64,), ("cpu", torch.float64), (torch.ones(1, dtype=torch.float64),)]
)
def test_moving_keeps_masks_and_labels(arguments):
    whole = Outer()
    moved = whole.to(*arguments)
    assert moved.y.dtype == moved.shared.dtype == moved.several[1][0].dtype == torch.float64
    assert moved.data["label"].dtype == torch.int64
    assert moved.inner.mask.dtype == torch.bool
    assert isinstance(moved.pair, Pair)
    assert [part.dtype for part in moved.pair] == [torch.float64, torch.int64]
    assert moved.network is whole.network and moved.network.weight.dtype == torch.float32
    assert whole.y.dtype == torch.float32
    assert whole.to(dtype=torch.float64).y.dtype == torch.float64
    assert whole.to("cpu").y.dtype == torch.float32


def test_moving_to_a_device(device):
    moved = Outer().to(device)
    assert moved.y.device.type == moved.data["label"].device.type == device.type
    assert moved.take(torch.tensor([1])).y.device.type == device.type


def test_broadcasting_against_a_state():
    x = torch.ones(2, 3, 4)
    assert expand_like(torch.tensor(2.0), x).shape == ()
    assert expand_like(torch.ones(2), x).shape == (2, 1, 1)
    rows = rows_like([1, 2], x)  # type: ignore[arg-type]
    assert rows.dtype == x.dtype and rows.shape == (2, 1, 1)


@pytest.mark.parametrize("length", [1, 16384, 16385, 50000])
def test_sums_of_rows_do_not_depend_on_the_batch(length):
    x = torch.randn(3, length, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    together = row_sum(x)
    torch.testing.assert_close(together, x.sum(1), rtol=1e-12, atol=1e-12)
    assert torch.equal(together[1:2], row_sum(x[1:2]))
