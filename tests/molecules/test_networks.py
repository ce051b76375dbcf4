"""Symmetries of the velocity networks and regressors, padding, batches, preconditioning."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import ctrlgen
from ctrlgen.domains.molecules.layers import TimeEmbedding, centred
from ctrlgen.domains.molecules.molecule_batches import fitted
from ctrlgen.domains.molecules.networks import MoleculeVelocity, build
from ctrlgen.domains.molecules.regressors import PropertyNetwork, load_regressor
from ctrlgen.domains.molecules.states import Atoms, split

pytest.importorskip("e3nn")

CLASSES = 4
COUNTS = torch.tensor([6, 3, 5, 2])
DTYPES = [torch.float32, torch.float64]
TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-10}
SIZES = {
    "geot": {"width": 16, "depth": 2, "pair": 8, "vectors": 4, "heads": 2, "bands": 12},
    "e3nn": {"scalars": 8, "vectors": 4, "tensors": 2, "depth": 2, "bands": 8},
}


def awaken(network: nn.Module) -> None:
    """Random numbers where training would have put some: heads and modulations start at zero."""
    for parameter in network.parameters():
        if not bool(parameter.any()):
            nn.init.normal_(parameter, std=0.3)


def velocity(kind: str, dtype: torch.dtype = torch.float32) -> MoleculeVelocity:
    torch.manual_seed(1)
    network = build(
        kind, classes=CLASSES, scale=0.2, frequencies=[0.1, 0.2, 0.3, 0.4], **SIZES[kind]
    )
    awaken(network)
    return network.to(dtype)


def regressor(dtype: torch.dtype = torch.float32) -> PropertyNetwork:
    torch.manual_seed(1)
    network = PropertyNetwork(
        CLASSES,
        mean=[75.0, 6800.0, -6500.0, 300.0, 2.7, 32.0],
        deviation=[6.0, 1000.0, 400.0, 1000.0, 1.2, 3.2],
        baseline=[[0.1, 0.2, 0.3, 0.4, -1.0]] * 4,
        **SIZES["geot"],
    )
    awaken(network)
    return network.to(dtype)


def state(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(2)
    x = torch.randn(4, 6, 3 + CLASSES, generator=draw, dtype=torch.float64)
    mask = torch.arange(6) < COUNTS.unsqueeze(1)
    x = torch.cat((centred(x[..., :3], mask), 0.3 * x[..., 3:]), dim=2)
    return torch.where(mask.unsqueeze(2), x, 0).to(dtype), torch.tensor([0, 0.3, 0.8, 1.0]).to(
        dtype
    )


def rotation(dtype: torch.dtype, reflect: bool) -> Tensor:
    from e3nn import o3

    # e3nn draws in float32: make it orthogonal to the last digit of float64.
    left, _, right = torch.linalg.svd(o3.rand_matrix().double())
    return ((-1 if reflect else 1) * left @ right).to(dtype)


def turn(x: Tensor, matrix: Tensor) -> Tensor:
    return torch.cat((x[..., :3] @ matrix.T, x[..., 3:]), dim=2)


def parts(v: Tensor) -> tuple[Tensor, Tensor]:
    """Positions and classes apart: they live at different scales."""
    return v[..., :3], v[..., 3:]


def relative(a: Tensor, b: Tensor) -> float:
    """Largest distance of rows of a from those of b, relative to these."""
    norms = b.flatten(1).norm(dim=1).clamp_min(1e-12)
    return float(((a - b).flatten(1).norm(dim=1) / norms).max())


def close(a: Tensor, b: Tensor, tolerance: float) -> bool:
    return all(relative(x, y) <= tolerance for x, y in zip(parts(a), parts(b), strict=True))


kinds = pytest.mark.parametrize("kind", ["geot", "e3nn"])
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=str)


@kinds
@dtypes
@pytest.mark.parametrize("reflect", [False, True], ids=["rotation", "reflection"])
def test_velocity_turns_with_the_molecule(kind: str, dtype: torch.dtype, reflect: bool) -> None:
    network, (x, t) = velocity(kind, dtype), state(dtype)
    matrix = rotation(dtype, reflect)
    v = network(x, t, counts=COUNTS)
    assert bool(v[..., :3].norm() > 1)
    assert close(network(turn(x, matrix), t, counts=COUNTS), turn(v, matrix), TOLERANCE[dtype])
    # A stretch is no symmetry: the test can fail.
    stretch = torch.diag(torch.tensor([1.5, 1, 1], dtype=dtype))
    assert not close(network(turn(x, stretch), t, counts=COUNTS), turn(v, stretch), 1e-4)


@kinds
@dtypes
def test_velocity_follows_the_order_of_the_atoms(kind: str, dtype: torch.dtype) -> None:
    network, (x, t) = velocity(kind, dtype), state(dtype)
    order = torch.tensor(
        [[3, 5, 0, 1, 4, 2], [2, 0, 1, 3, 4, 5], [1, 4, 2, 3, 0, 5], [1, 0, 2, 3, 4, 5]]
    )
    index = order.unsqueeze(2).expand(-1, -1, x.shape[2])
    v = network(x, t, counts=COUNTS).gather(1, index)
    assert close(network(x.gather(1, index), t, counts=COUNTS), v, TOLERANCE[dtype])


@kinds
def test_velocity_ignores_translations_and_keeps_the_centre(kind: str) -> None:
    network, (x, t) = velocity(kind, torch.float64), state(torch.float64)
    v = network(x, t, counts=COUNTS)
    moved = torch.cat((x[..., :3] + torch.tensor([3.0, -1.0, 2.0]), x[..., 3:]), dim=2)
    assert close(network(moved, t, counts=COUNTS), v, 1e-10)
    assert float(v[..., :3].sum(1).abs().max()) < 1e-10


@kinds
def test_padding_changes_nothing(kind: str) -> None:
    network, (x, t) = velocity(kind), state()
    v = network(x, t, counts=COUNTS)
    garbage = torch.full((4, 3, x.shape[2]), torch.nan)
    padded = network(torch.cat((x, garbage), dim=1), t, counts=COUNTS)
    assert close(padded[:, :6], v, 1e-5) and not padded[:, 6:].any()
    for row, n in enumerate(COUNTS.tolist()):
        alone = network(x[row : row + 1, :n], t[row : row + 1])
        assert close(alone, v[row : row + 1, :n], 1e-5)
        assert not v[row, n:].any()


@kinds
def test_a_molecule_does_not_see_its_batch(kind: str) -> None:
    network, (x, t) = velocity(kind, torch.float64), state(torch.float64)
    x.requires_grad_()
    v = network(x, t, counts=COUNTS)
    assert close(network(x[2:], t[2:], counts=COUNTS[2:]), v[2:], 1e-12)
    grad = torch.autograd.grad(v[1].square().sum(), x)[0]
    assert grad[1].any() and not grad[[0, 2, 3]].any() and bool(grad.isfinite().all())


@kinds
def test_classes_are_known_by_bayes_rule(kind: str) -> None:
    """With a silent network the denoised classes are the posterior of a Gaussian channel."""
    network = build(
        kind, classes=CLASSES, scale=0.2, frequencies=[0.1, 0.2, 0.3, 0.4], **SIZES[kind]
    ).double()
    x, _ = state(torch.float64)
    t = torch.full((4,), 0.6, dtype=torch.float64)
    v = network(x, t)
    found = (x + 0.4 * v)[..., 3:] / 0.2
    means = 0.6 * 0.2 * torch.eye(CLASSES, dtype=torch.float64)
    logs = -(x[..., None, 3:] - means).square().sum(3) / (2 * 0.4**2)
    expected = (logs + torch.tensor([0.1, 0.2, 0.3, 0.4]).double().log()).softmax(2)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)


def test_positions_are_preconditioned() -> None:
    """With a silent network the denoised positions are the best linear guess at unit variance."""
    network = build("geot", classes=CLASSES, scale=0.2, frequencies=[0.25] * 4, **SIZES["geot"])
    x, _ = state()
    t = torch.full((4,), 0.7)
    x[..., :3] = centred(x[..., :3], torch.ones(4, 6, dtype=torch.bool))
    found = (x + 0.3 * network(x, t))[..., :3]
    torch.testing.assert_close(found, x[..., :3] * 0.7 / (0.7**2 + 0.3**2))


def test_velocity_is_smooth_to_the_end() -> None:
    network, (x, _) = velocity("geot", torch.float64), state(torch.float64)
    for time in (0.0, 0.999, 1.0):
        assert bool(network(x, torch.full((4,), time).double(), counts=COUNTS).isfinite().all())


def test_autocast_keeps_distances_exact() -> None:
    """Bond lengths differ by hundredths of an Angstrom: the state stays in float32."""
    network, (x, t) = velocity("geot"), state()
    with torch.autocast("cpu", torch.bfloat16):
        v = network(x, t, counts=COUNTS)
    assert v.dtype == torch.float32
    assert relative(v[:3, :, :3], network(x, t, counts=COUNTS)[:3, :, :3]) < 0.1


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda n, x, t: n(x[..., :6], t), r"x: expected shape \(B, N, 7\)"),
        (lambda n, x, t: n(x, t[:2]), r"t: expected shape \(4,\)"),
        (lambda n, x, t: n(x, t, counts=COUNTS[:2]), r"counts: expected shape \(4,\)"),
    ],
)
def test_wrong_shapes_are_named(
    call: Callable[[MoleculeVelocity, Tensor, Tensor], Tensor], match: str
) -> None:
    with pytest.raises(ValueError, match=match):
        call(velocity("geot"), *state())


def test_unknown_network_is_named() -> None:
    with pytest.raises(ValueError, match="network: expected one of"):
        build("egnn", classes=3)
    with pytest.raises(ValueError, match="frequencies: expected 4, got 2"):
        build("geot", classes=4, scale=0.2, frequencies=[0.5, 0.5])
    with pytest.raises(ValueError, match="heads: expected a divisor of width 16"):
        build("geot", classes=1, scale=0.2, frequencies=[1.0], width=16, heads=3)


def test_time_embedding_separates_times() -> None:
    embed = TimeEmbedding(8)
    a, b = embed(torch.tensor([0.3, 0.31]))
    assert not torch.allclose(a, b, atol=1e-4)


@dtypes
@pytest.mark.parametrize("reflect", [False, True], ids=["rotation", "reflection"])
def test_properties_are_invariant(dtype: torch.dtype, reflect: bool) -> None:
    network, (x, _) = regressor(dtype), state(dtype)
    mask, p = torch.arange(6) < COUNTS.unsqueeze(1), x[..., 3:].softmax(2)
    found = network(x[..., :3], p, mask)
    assert found.shape == (4, 6) and float(found.std(0).min()) > 1e-4
    moved = x[..., :3] @ rotation(dtype, reflect).T + 0.7
    order = torch.tensor([1, 0, 2, 3, 4, 5])
    again = network(moved[:, order], p[:, order], mask)
    deviation = network.deviation
    assert float(((again - found) / deviation).abs().max()) <= TOLERANCE[dtype]


def test_properties_ignore_padding_and_batch() -> None:
    network, (x, _) = regressor(torch.float64), state(torch.float64)
    mask, p = torch.arange(6) < COUNTS.unsqueeze(1), x[..., 3:].softmax(2)
    found = network(x[..., :3], p, mask)
    garbage = torch.full((4, 2, 7), torch.nan, dtype=torch.float64)
    padded = torch.cat((torch.cat((x[..., :3], p), dim=2), garbage), dim=1)
    longer = torch.arange(8) < COUNTS.unsqueeze(1)
    torch.testing.assert_close(network(padded[..., :3], padded[..., 3:], longer), found)
    for row, n in enumerate(COUNTS.tolist()):
        one = (x[row : row + 1, :n, :3], p[row : row + 1, :n], mask[row : row + 1, :n])
        torch.testing.assert_close(network(*one)[0], found[row])


@pytest.mark.parametrize("batch", [1, 3, 8, 13])
def test_embedded_heavy_networks_round_alike_in_every_batch(batch: int) -> None:
    """Velocities, properties and their gradients, to the last bit; sizes are ragged."""
    prior = ctrlgen.load("qm9-heavy")
    counts = 2 + torch.arange(26) % 8
    bound = fitted(prior, counts[:16])
    assert fitted(prior, counts[:1]).source.shape == bound.source.shape
    z = Atoms(*bound.source.shape, counts).sample(range(26))
    t = torch.linspace(0, 0.97, 26)
    guide = load_regressor("qm9-heavy-guide")

    def values(rows: slice) -> tuple[Tensor, ...]:
        x = z[rows].clone().requires_grad_()
        v = prior.flow.network(x, t[rows], counts[rows])
        parts = split(prior.codec.decode(x))
        mask = torch.arange(x.shape[1]) < counts[rows, None]
        p = guide(parts.positions, parts.probabilities, mask)
        (slope,) = torch.autograd.grad(v.square().sum() + (p / 1000).square().sum(), x)
        return v.detach(), p.detach(), slope

    whole = values(slice(0, 26))
    for start in (0, 5):
        rows = slice(start, start + batch)
        for part, full in zip(values(rows), whole, strict=True):
            assert torch.equal(part, full[rows])
