"""The velocity on frames: padding, conditions, precision, derivatives; source and codec with it."""

from __future__ import annotations

import math

import pytest
import torch

from ctrlgen.domains.audio.networks import FrameVelocity, build
from ctrlgen.domains.audio.spectral import SpecCodec
from ctrlgen.domains.audio.states import Frames, LatentCodec


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=generator)


def network(**options: int) -> FrameVelocity:
    torch.manual_seed(0)
    made = build(**{"features": 5, "width": 16, "depth": 2, "heads": 2, **options})
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return made.double().eval()


TIMES = torch.tensor([0.2, 0.7], dtype=torch.float64)


def test_untrained_velocity_is_that_of_unit_gaussian_data() -> None:
    made = build(features=5, width=16, depth=1, heads=2).double()
    x = draw(2, 4, 5)
    # For N(0, 1) data and noise E[x_1 - x_0 | x_t] = (2t - 1) x_t / (t² + (1 - t)²).
    time = TIMES[:, None, None]
    expected = (2 * time - 1) * x / (time**2 + (1 - time) ** 2)
    torch.testing.assert_close(made(x, TIMES), expected)


def test_padding_and_mates_change_nothing() -> None:
    made = network()
    x = draw(2, 9, 5)
    x[0, 6:] = math.nan
    together = made(x, TIMES, frames=torch.tensor([6, 9]))
    alone = made(x[:1, :6], TIMES[:1])
    torch.testing.assert_close(together[:1, :6], alone, rtol=0, atol=1e-12)
    assert not together[0, 6:].any()


def test_time_of_frames_matters_and_labels_do() -> None:
    made = network(classes=3)
    x = draw(1, 6, 5)
    t = TIMES[:1]
    assert not torch.allclose(made(x.flip(1), t).flip(1), made(x, t))
    null = made(x, t, label=torch.tensor([3]))
    torch.testing.assert_close(made(x, t), null, rtol=0, atol=0)
    assert not torch.allclose(made(x, t, label=torch.tensor([1])), null)


def test_first_second_and_forward_derivatives() -> None:
    made = network(depth=1, width=8)
    x = draw(1, 3, 5).requires_grad_()

    def velocity(x: torch.Tensor) -> torch.Tensor:
        return made(x, TIMES[:1])

    assert torch.autograd.gradcheck(velocity, (x,), check_forward_ad=True)
    assert torch.autograd.gradgradcheck(velocity, (x,))


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"x": draw(2, 4, 6), "t": TIMES}, "x"),
        ({"x": draw(2, 4, 5), "t": TIMES[:1]}, "t"),
        ({"x": draw(2, 4, 5), "t": TIMES, "frames": torch.tensor([3])}, "frames"),
        ({"x": draw(2, 4, 5), "t": TIMES, "label": torch.tensor([3])}, "label"),
    ],
)
def test_bad_shapes_are_named(arguments: dict[str, torch.Tensor], name: str) -> None:
    with pytest.raises(ValueError, match=f"{name}:"):
        network()(**arguments)
    with pytest.raises(ValueError, match="width"):
        build(features=5, width=10, heads=4)


def test_source_draws_for_the_frames_that_exist_whatever_the_padding() -> None:
    source = Frames(8, 5).given({"frames": torch.tensor([3, 8])})
    x = source.sample([7, 8], dtype=torch.float64)
    assert not x[0, 3:].any()
    short = Frames(3, 5).sample([7], dtype=torch.float64)
    torch.testing.assert_close(x[:1, :3], short, rtol=0, atol=0)
    assert source.degrees_of_freedom(x).tolist() == [15, 40]
    rows = source.take(torch.tensor([1]))
    assert rows.degrees_of_freedom(x[1:]).tolist() == [40]
    with pytest.raises(ValueError, match="places"):
        Frames(1, 5)


def test_codec_standardises_and_is_inverted_by_its_decoder() -> None:
    net = SpecCodec(hop=8, size=8, width=8, depth=1, kernel=3).double()
    mean, std = draw(8, seed=1), draw(8, seed=2).abs() + 0.5
    frames = torch.tensor([3, 6])
    codec = LatentCodec(net, mean, std, 40, frames)
    x = draw(2, 1, 40, seed=3)
    x[0, 0, 16:] = 0
    with torch.no_grad():
        z = codec.encode(x)
        torch.testing.assert_close(codec.decode(z), x)
        raw = net.encode(x, frames)
        torch.testing.assert_close(z[1], (raw[1] - mean) / std)
        assert not z[0, 3:].any()
        torch.testing.assert_close(codec.take(torch.tensor([1])).encode(x[1:]), z[1:])
    with pytest.raises(ValueError, match="std"):
        LatentCodec(net, mean, -std)
    with pytest.raises(ValueError, match="mean"):
        LatentCodec(net, mean[:3], std)
