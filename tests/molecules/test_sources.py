"""States, signals and noise of molecules of different sizes in one batch."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from ctrlgen.domains.molecules.states import AtomCodec, Atoms, join, split

COUNTS = torch.tensor([5, 2, 4])


@pytest.fixture
def source() -> Atoms:
    return Atoms(5, 7).given({"counts": COUNTS})


def test_noise_lives_on_the_atoms_that_exist(source: Atoms) -> None:
    x = source.sample([1, 2, 3], dtype=torch.float64)
    assert x.shape == (3, 5, 7)
    for row, n in enumerate(COUNTS.tolist()):
        assert not x[row, n:].any() and x[row, :n].all()
        assert float(x[row, :, :3].sum(0).abs().max()) < 1e-12
    torch.testing.assert_close(source.project(x), x)


def test_degrees_of_freedom_are_those_of_each_molecule(source: Atoms) -> None:
    x = source.sample([1, 2, 3], dtype=torch.float64)
    assert source.degrees_of_freedom(x).tolist() == [5 * 7 - 3, 2 * 7 - 3, 4 * 7 - 3]
    many = Atoms(5, 7).given({"counts": torch.full((4000,), 4)})
    square = many.radius(many.sample(range(4000))).square()
    assert float(square.mean()) == pytest.approx(25, abs=4 * math.sqrt(50 / 4000))
    assert float(square.var()) == pytest.approx(50, rel=0.15)


def test_a_molecule_keeps_its_noise_in_any_batch(source: Atoms) -> None:
    x = source.sample([1, 2, 3])
    alone = source.take(torch.tensor([2])).sample([3])
    assert torch.equal(alone[0], x[2])
    assert source.take(torch.tensor([0, 2])).counts.tolist() == [5, 4]


def test_unbound_molecules_are_full() -> None:
    source = Atoms(4, 7)
    x = source.sample([1, 2])
    assert x.all() and source.degrees_of_freedom(x).tolist() == [25, 25]
    assert source.take(torch.tensor([0])).counts is None
    assert Atoms(**source.config()).shape == (4, 7)
    with pytest.raises(ValueError, match="places, features: expected at least 2 and 4"):
        Atoms(1, 3)


def test_seeds_must_match_the_counts(source: Atoms) -> None:
    with pytest.raises(ValueError, match="seeds: expected 3"):
        source.sample([1, 2])


def molecule() -> tuple[Tensor, Tensor]:
    positions = torch.tensor([[[0.0, 0, 0], [1.4, 0, 0]], [[0, 0, 0], [0, 0, 2.8]]])
    return positions, torch.tensor([[0, 3], [2, -1]])


def test_signals_are_joined_and_split() -> None:
    positions, classes = molecule()
    signal = join(positions, classes, 4)
    parts = split(signal)
    torch.testing.assert_close(parts.positions[0], torch.tensor([[-0.7, 0, 0], [0.7, 0, 0]]))
    assert parts.mask.tolist() == [[True, True], [True, False]]
    assert parts.counts.tolist() == [2, 1] and torch.equal(parts.hard, classes)
    assert not signal[1, 1].any()


def test_types_are_straight_through() -> None:
    classes = torch.tensor([[[0.9, 0.3, -0.2, 0.0]]]).requires_grad_()
    parts = split(torch.cat((torch.zeros(1, 1, 3), classes), dim=2))
    torch.testing.assert_close(parts.probabilities, torch.tensor([[[0.75, 0.25, 0.0, 0.0]]]))
    assert torch.equal(parts.straight_through.detach(), torch.tensor([[[1.0, 0, 0, 0]]]))
    weights = torch.tensor([1.0, 2.0, 5.0, 0.0])
    (hard,) = torch.autograd.grad((parts.straight_through * weights).sum(), classes)
    (soft,) = torch.autograd.grad((parts.probabilities * weights).sum(), classes)
    torch.testing.assert_close(hard, soft)
    # d/dp of p1/(p1 + p2) and 2 p2/(p1 + p2); a class clipped at zero feels nothing.
    torch.testing.assert_close(soft[0, 0, :3], torch.tensor([-0.3, 0.9, 0.0]) / 1.44)


def test_codec_scales_and_returns() -> None:
    codec, signal = AtomCodec(1.4, 0.2), join(*molecule(), 4)
    state = codec.encode(signal)
    torch.testing.assert_close(state[0, 1], torch.tensor([0.5, 0, 0, 0, 0, 0, 0.2]))
    torch.testing.assert_close(codec.decode(state), signal)
    assert AtomCodec(**codec.config()).one_hot == 0.2
    with pytest.raises(ValueError, match="one_hot: expected a positive number, got 0"):
        AtomCodec(1.4, 0)


def test_codec_knows_its_volume() -> None:
    """Against the Jacobian on the subspace of zero mean, for two atoms of four classes."""
    codec = AtomCodec(1.4, 0.2)
    expected = 3 * math.log(1.4) + 2 * 4 * math.log(5)
    state = codec.encode(join(*molecule(), 4))[:1] + 1e-9
    assert float(codec.log_det(state)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("positions", "classes", "match"),
    [
        (torch.zeros(1, 2, 3), torch.tensor([[0, 4]]), r"classes: expected -1..3, got 0..4"),
        (torch.zeros(1, 3, 3), torch.tensor([[0, 1]]), r"positions: expected shape \(1, 2, 3\)"),
        (torch.full((1, 1, 3), math.nan), torch.tensor([[0]]), "positions: expected finite"),
    ],
)
def test_broken_molecules_are_named(positions: Tensor, classes: Tensor, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        join(positions, classes, 4)


def test_broken_signals_are_named() -> None:
    with pytest.raises(ValueError, match=r"signal: expected shape \(B, N, 3 \+ K\)"):
        split(torch.zeros(2, 3))


def test_noise_is_matched_to_molecules_as_in_the_training(source: Atoms) -> None:
    """Atoms and turns of the best fit; none where the flow learned from noise as it came."""
    noise, data = (source.sample([1, 2, 3], stream, dtype=torch.float64) for stream in (0, 1))
    near = source.coupled(noise, data)
    apart = [(x - data)[..., :3].square().sum((1, 2)) for x in (noise, near)]
    assert (apart[1] < apart[0]).all() and torch.equal(near[..., 3:], noise[..., 3:])
    turned = near[..., :3].square().sum(2).sort(1).values  # the same points, elsewhere
    torch.testing.assert_close(turned, noise[..., :3].square().sum(2).sort(1).values)
    data[1] = torch.nan  # a molecule that is lost harms no other
    torch.testing.assert_close(source.coupled(noise, data)[[0, 2]], near[[0, 2]])
    plain = Atoms(5, 7, aligned=False).given({"counts": COUNTS})
    assert torch.equal(plain.coupled(noise, data), noise)
    assert plain.config() == {"places": 5, "features": 7, "aligned": False}
