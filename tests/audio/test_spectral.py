"""The spectral codec: its linear part, its frames, padding, chunks and gradients."""

from __future__ import annotations

import pytest
import torch

from ctrlgen.domains.audio.mdct import mdct, mdct_inverse
from ctrlgen.domains.audio.spectral import SpecCodec, principal_axes


def draw(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def codec(**options: int) -> SpecCodec:
    """A small codec whose network is not zero, float64."""
    torch.manual_seed(0)
    made = SpecCodec(**{"hop": 16, "size": 6, "width": 12, "depth": 2, "kernel": 3, **options})
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    made.double().requires_grad_(False).eval()
    correlated = torch.randn(16, 16, dtype=torch.float64, generator=draw(1))
    made.fit(correlated @ correlated.T)
    return made


def test_principal_axes_are_those_of_the_decomposition() -> None:
    root = torch.randn(5, 5, dtype=torch.float64, generator=draw(0))
    covariance = root @ root.T
    values, vectors = principal_axes(covariance, 2)
    torch.testing.assert_close(covariance @ vectors, vectors * values)
    assert float(values[0]) == pytest.approx(float(torch.linalg.eigvalsh(covariance)[-1]))
    with pytest.raises(ValueError, match="size"):
        principal_axes(covariance, 6)


def test_untrained_codec_is_the_projection_on_the_axes_with_unit_variance() -> None:
    made = SpecCodec(hop=8, size=3, width=8, depth=1, kernel=3).double()
    x = torch.randn(4, 1, 8 * 5000, dtype=torch.float64, generator=draw(2)).cumsum(2) / 30
    c = mdct(x.squeeze(1), 8)
    covariance = torch.einsum("bti,btj->ij", c, c) / (c.shape[0] * c.shape[1])
    made.fit(covariance)
    with torch.no_grad():
        z = made.encode(x)
        back = made.decode(z, x.shape[2])
    torch.testing.assert_close(z.square().mean((0, 1)), torch.ones(3, dtype=torch.float64))
    _, vectors = principal_axes(covariance, 3)
    projected = mdct_inverse(c @ vectors @ vectors.T, x.shape[2]).unsqueeze(1)
    torch.testing.assert_close(back, projected)
    # All but the two frames at the ends lose exactly what lies off the axes.
    lost = (c - c @ vectors @ vectors.T).square().sum()
    assert float((x - back).square().sum() / lost) == pytest.approx(1, abs=0.02)


def test_a_codec_of_all_axes_loses_nothing() -> None:
    made = codec(size=16)
    for tower in (made.encoder, made.decoder):
        torch.nn.init.zeros_(tower.head.weight)
        torch.nn.init.zeros_(tower.head.bias)
    x = torch.randn(2, 1, 100, dtype=torch.float64, generator=draw(3))
    torch.testing.assert_close(made.decode(made.encode(x), 100), x)


@pytest.mark.parametrize("chunk", [1, 3, 50])
def test_chunks_equal_the_whole(chunk: int) -> None:
    made = codec()
    z = torch.randn(2, 21, 6, dtype=torch.float64, generator=draw(4))
    torch.testing.assert_close(made.decode_chunked(z, chunk, 300), made.decode(z, 300))


def test_padding_and_batch_mates_change_nothing() -> None:
    made = codec()
    x = torch.randn(1, 1, 16 * 6, dtype=torch.float64, generator=draw(5))
    alone = made.encode(x)
    padded = torch.cat((x, torch.zeros(1, 1, 16 * 5, dtype=torch.float64)), dim=2)
    mate = torch.randn(1, 1, 16 * 11, dtype=torch.float64, generator=draw(6))
    frames = torch.tensor([made.frames(16 * 6), made.frames(16 * 11)])
    together = made.encode(torch.cat((padded, mate)), frames)
    torch.testing.assert_close(together[:1, :7], alone, rtol=0, atol=1e-12)
    assert not together[0, 7:].any()
    dirty = together.clone()
    dirty[0, 7:] = torch.nan
    decoded = made.decode(dirty, 16 * 11, frames)
    torch.testing.assert_close(decoded[:1, :, : 16 * 6], made.decode(alone), rtol=0, atol=1e-12)


def test_decode_has_gradients_of_first_and_second_order() -> None:
    made = codec()
    z = torch.randn(1, 4, 6, dtype=torch.float64, generator=draw(7), requires_grad=True)
    assert torch.autograd.gradcheck(lambda v: made.decode(v), (z,))
    assert torch.autograd.gradgradcheck(lambda v: made.decode(v), (z,))


@pytest.mark.parametrize(
    ("call", "argument"),
    [
        (lambda c: c.encode(torch.zeros(2, 2, 64).double()), "x"),
        (lambda c: c.encode(torch.zeros(64).double()), "x"),
        (lambda c: c.decode(torch.zeros(2, 5, 7).double()), "z"),
        (lambda c: c.decode(torch.zeros(2, 5, 6).double(), 65), "length"),
        (lambda c: c.decode(torch.zeros(2, 5, 6).double(), None, torch.tensor([1])), "frames"),
        (lambda c: SpecCodec(kernel=4), "kernel"),
        (lambda c: SpecCodec(hop=8, size=9), "size"),
    ],
)
def test_bad_input_is_named(call: object, argument: str) -> None:
    with pytest.raises(ValueError, match=argument):
        call(codec())  # type: ignore[operator]


def test_a_knee_changes_latents_and_not_the_signal() -> None:
    plain, bent = SpecCodec(32, 32, depth=0), SpecCodec(32, 32, depth=0, knee=0.2)
    x = torch.randn(2, 1, 320, generator=torch.Generator().manual_seed(0))
    z = plain.encode(x)
    torch.testing.assert_close(bent.encode(x), (z / 0.2).asinh())
    torch.testing.assert_close(bent.decode(bent.encode(x)), x, atol=1e-5, rtol=0)
    wild = torch.full((1, 3, 32), 200.0, requires_grad=True)
    bent.decode(wild).sum().backward()
    assert wild.grad is not None and bool(wild.grad.isfinite().all())
    with pytest.raises(ValueError, match="knee"):
        SpecCodec(32, 32, knee=0.0)


def test_without_depth_there_is_no_network() -> None:
    codec = SpecCodec(32, 8, depth=0)
    assert not list(codec.parameters()) and codec.reach == 0
