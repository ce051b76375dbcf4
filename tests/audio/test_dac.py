"""The Descript audio codec by transformers, small and with random weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from ctrlgen.domains.audio.dac import DAC
from ctrlgen.domains.audio.states import LatentCodec

transformers = pytest.importorskip("transformers")


def model(ratios: tuple[int, ...] = (2, 4)) -> Any:
    torch.manual_seed(0)
    config = transformers.DacConfig(
        encoder_hidden_size=4,
        downsampling_ratios=list(ratios),
        decoder_hidden_size=16,
        n_codebooks=2,
        codebook_size=4,
        codebook_dim=2,
        sampling_rate=8000,
    )
    return transformers.DacModel(config).eval()


@pytest.fixture(scope="module")
def codec() -> DAC:
    return DAC(model())


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def test_latents_are_those_before_quantisation(codec: DAC) -> None:
    x, whole = noise(2, 1, 160), model()
    torch.testing.assert_close(codec.encode(x), whole.encoder(x).transpose(1, 2))
    assert (codec.rate, codec.hop, codec.size) == (8000, 8, 16)
    z = codec.encode(x)
    torch.testing.assert_close(codec.decode(z), whole.decoder(z.transpose(1, 2)))
    assert not any(parameter.requires_grad for parameter in codec.parameters())
    assert not codec.train().training


def test_weight_normalisation_is_folded_into_the_weights(codec: DAC) -> None:
    normed, x = model(), noise(1, 1, 80)
    normed.apply_weight_norm()
    made = DAC(normed)
    assert not any("parametrizations" in name for name in made.state_dict())
    torch.testing.assert_close(made.encode(x), codec.encode(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("ratios", [(2, 4), (3, 5, 2)])
def test_any_length_comes_back_whatever_the_ratios(ratios: tuple[int, ...]) -> None:
    made = DAC(model(ratios))
    for length in (4 * made.hop - 1, 4 * made.hop, 4 * made.hop + 1):
        z = made.encode(noise(1, 1, length))
        assert z.shape == (1, -(-length // made.hop), made.size)
        assert made.decode(z, length).shape == (1, 1, length)
    with pytest.raises(ValueError, match="frames: DAC hears whole clips"):
        made.encode(noise(2, 1, 4 * made.hop), torch.tensor([4, 2]))


def test_decoding_is_differentiable_and_chunks_are_exact_past_its_reach(codec: DAC) -> None:
    double, z = DAC(model()).double(), noise(1, 3, 16).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda z: double.decode(z).sum(), (z,))
    # Dilations 1, 3, 9 of kernel 7 in both stages reach 42 frames.
    z = noise(1, 120, 16)
    torch.testing.assert_close(codec.decode_chunked(z, 40, 45), codec.decode(z), atol=1e-5, rtol=0)


def test_statistics_standardise_and_a_folder_is_read(codec: DAC, tmp_path: Path) -> None:
    codec.estimate([noise(4, 1, 400)])
    z = LatentCodec(codec, codec.mean, codec.std).encode(noise(4, 1, 400))
    torch.testing.assert_close(z.mean((0, 1)), torch.zeros(16), atol=1e-4, rtol=0)
    model().save_pretrained(tmp_path)
    read = DAC.from_pretrained(str(tmp_path))
    assert read.fingerprint() == DAC(model()).fingerprint()
    with pytest.raises(TypeError, match="model: expected DacModel"):
        DAC(torch.nn.Linear(2, 2))
