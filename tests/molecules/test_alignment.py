"""The batched assignment against the Hungarian optimum, the polar factor against the SVD."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ctrlgen.domains.molecules import alignment
from ctrlgen.domains.molecules.alignment import align, assigned, hungarian, polar_factor
from ctrlgen.domains.molecules.data import read
from ctrlgen.domains.molecules.layers import centred

Clouds = tuple[Tensor, Tensor, Tensor]


def noisy(positions: Tensor, counts: Tensor) -> Clouds:
    """Noise, data and counts, as a training step has them."""
    mask = torch.arange(positions.shape[1]) < counts.unsqueeze(1)
    draw = torch.Generator().manual_seed(1)
    noise = centred(torch.randn(positions.shape, generator=draw), mask)
    return noise, centred(positions, mask) / 1.4, counts


@pytest.fixture(scope="module")
def clouds() -> Clouds:
    """256 chains of 2 to 29 atoms, a bond length apart, folded like molecules."""
    draw = torch.Generator().manual_seed(0)
    counts = torch.randint(2, 30, (256,), generator=draw)
    steps = torch.randn(256, 29, 3, generator=draw)
    chain = (1.4 * steps / steps.norm(dim=2, keepdim=True)).cumsum(1)
    return noisy(0.6 * chain, counts)


@pytest.fixture(scope="module")
def molecules(qm9_folder: str) -> Clouds:
    """256 molecules of QM9."""
    held = read("qm9", qm9_folder, "valid")
    rows = torch.randperm(len(held), generator=torch.Generator().manual_seed(0))[:256]
    return noisy(held.positions[rows], held.counts[rows])


def distances(noise: Tensor, data: Tensor) -> float:
    return float((noise - data).square().sum())


@pytest.mark.parametrize("case", ["clouds", "molecules"])
def test_the_assignment_is_within_a_percent_of_the_optimum(
    case: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    noise, data, counts = request.getfixturevalue(case)
    benefit = data @ noise.transpose(1, 2)
    best, fast = hungarian(benefit, counts), assigned(benefit, counts)
    place = torch.arange(noise.shape[1])
    assert torch.equal(fast.sort(1).values, place.expand_as(fast))
    padding = place >= counts.unsqueeze(1)
    assert torch.equal(fast[padding], place.expand_as(fast)[padding])
    costs = [
        distances(noise.gather(1, order.unsqueeze(2).expand(-1, -1, 3)), data)
        for order in (best, fast)
    ]
    assert costs[0] <= costs[1] < 1.01 * costs[0]
    exact = align(noise, data, counts)
    monkeypatch.setattr(alignment, "hungarian", assigned)
    close = align(noise, data, counts)
    assert distances(close, data) < 1.01 * distances(exact, data)
    assert distances(close, data) < 0.6 * distances(noise, data)


def test_an_assignment_does_not_depend_on_the_batch(clouds: Clouds) -> None:
    noise, data, counts = (part[:12] for part in clouds)
    benefit = data @ noise.transpose(1, 2)
    whole = assigned(benefit, counts)
    for row in range(12):
        n = int(counts[row])
        alone = assigned(benefit[row : row + 1, :n, :n], counts[row : row + 1])
        assert torch.equal(alone[0], whole[row, :n])


@pytest.mark.parametrize("kind", ["any", "reflection", "planar", "line", "tiny"])
def test_the_polar_factor_is_that_of_the_decomposition(kind: str) -> None:
    draw = torch.Generator().manual_seed(3)
    matrix = torch.randn(200, 3, 3, generator=draw, dtype=torch.float64)
    left, values, right = torch.linalg.svd(matrix)
    if kind == "reflection":
        matrix = matrix * -matrix.det().sign()[:, None, None]
    elif kind in ("planar", "line"):
        values[:, 1 if kind == "line" else 2 :] = 0
        matrix = left @ values.diag_embed() @ right
    elif kind == "tiny":
        matrix = 1e-12 * matrix
    found = polar_factor(matrix)
    torch.testing.assert_close(
        found @ found.mT, torch.eye(3, dtype=torch.float64).expand_as(found), rtol=0, atol=1e-8
    )
    # No orthogonal matrix has a larger overlap than the sum of the singular values.
    overlap = (found * matrix).sum((1, 2))
    torch.testing.assert_close(overlap, torch.linalg.svdvals(matrix).sum(1), rtol=3e-7, atol=0)
    if kind in ("any", "reflection"):
        left, _, right = torch.linalg.svd(matrix)
        torch.testing.assert_close(found, left @ right, rtol=0, atol=1e-4)
    if kind == "reflection":
        assert bool((found.det() < 0).all())


def test_nothing_to_turn_stays() -> None:
    zero = torch.zeros(2, 3, 3)
    torch.testing.assert_close(polar_factor(zero), torch.eye(3).expand(2, 3, 3))
