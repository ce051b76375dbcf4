"""Codecs: round trips, volume changes, units per channel."""

from __future__ import annotations

import math

import pytest
import torch
from torch.func import jacrev, vmap

from ctrlgen.priors.codecs import Codec, Identity, Scaled
from ctrlgen.rows.seeds import normal

CODECS: dict[str, Codec] = {
    "identity": Identity(),
    "one scale": Scaled(2.5, -0.3),
    "negative": Scaled(-0.5, 1.0),
    "per channel": Scaled([1.0, -2.0, 0.25], [0.0, 3.0, -1.0]),
    "shift per channel": Scaled(4.0, [0.1, 0.2, 0.3]),
}


@pytest.fixture(params=list(CODECS.values()), ids=list(CODECS))
def codec(request) -> Codec:
    return request.param


@pytest.mark.parametrize("shape", [(3,), (3, 5), (3, 2, 4)])
def test_round_trip(codec, shape):
    z = normal(range(4), shape, dtype=torch.float64)
    torch.testing.assert_close(codec.encode(codec.decode(z)), z, rtol=1e-13, atol=1e-14)
    torch.testing.assert_close(codec.decode(codec.encode(z)), z, rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("shape", [(3,), (3, 5), (3, 2, 4)])
def test_log_det_is_that_of_the_jacobian(codec, shape):
    z = normal(range(4), shape, dtype=torch.float64)
    jacobian = vmap(jacrev(lambda row: codec.decode(row.unsqueeze(0)).flatten()))(z).flatten(2)
    expected = torch.linalg.slogdet(jacobian).logabsdet
    torch.testing.assert_close(codec.log_det(z), expected, rtol=1e-12, atol=1e-12)


def test_scale_and_shift_by_hand():
    z = torch.tensor([[[1.0, 2.0], [3.0, 4.0]]])
    x = Scaled([10.0, 100.0], [1.0, 2.0]).decode(z)
    assert x.tolist() == [[[11, 21], [302, 402]]]
    assert Scaled(0.5, 0.5).encode(torch.tensor([[0.0, 0.5, 1.0]])).tolist() == [[-1, 0, 1]]
    assert float(Scaled(2.0).log_det(torch.zeros(1, 3))) == pytest.approx(3 * math.log(2))


def test_gradient_passes(codec):
    z = normal([0], (3, 2), dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(codec.decode, z)
    assert torch.autograd.gradcheck(codec.encode, z)


def test_dtype_and_device(codec, dtype, device):
    z = torch.ones(2, 3, 4, dtype=dtype, device=device)
    for value in (codec.encode(z), codec.decode(z), codec.log_det(z)):
        assert value.dtype == dtype and value.device.type == device.type
    assert codec.log_det(z).shape == (2,)


def test_config_rebuilds_the_codec(codec):
    z = normal(range(4), (3, 2), dtype=torch.float64)
    assert torch.equal(type(codec)(**codec.config()).decode(z), codec.decode(z))


def test_an_unknown_volume_is_said():
    class Lossy(Codec):
        def encode(self, x: torch.Tensor) -> torch.Tensor:
            return x

        def decode(self, z: torch.Tensor) -> torch.Tensor:
            return z

    with pytest.raises(NotImplementedError, match="Lossy has no volume change"):
        Lossy().log_det(torch.ones(1, 2))


@pytest.mark.parametrize(
    ("build", "argument"),
    [
        (lambda: Scaled(0.0), "scale"),
        (lambda: Scaled([1.0, 0.0]), "scale"),
        (lambda: Scaled(math.inf), "scale"),
        (lambda: Scaled(1.0, math.nan), "shift"),
        (lambda: Scaled(torch.ones(2, 2)), "scale"),
        (lambda: Scaled([1.0, 2.0]).decode(torch.ones(1, 3)), "x: expected 2 channels"),
    ],
)
def test_bad_arguments_are_named(build, argument):
    with pytest.raises(ValueError, match=argument):
        build()
