"""EnCodec by transformers, small and with random weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from ctrlgen.domains.audio.encodec import EnCodec
from ctrlgen.domains.audio.states import LatentCodec

transformers = pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def model() -> Any:
    torch.manual_seed(0)
    config = transformers.EncodecConfig(
        sampling_rate=8000,
        audio_channels=1,
        num_filters=4,
        hidden_size=8,
        codebook_dim=8,
        codebook_size=4,
        num_residual_layers=1,
        upsampling_ratios=[4, 2],
        num_lstm_layers=1,
        target_bandwidths=[1.0],
        normalize=False,
        use_causal_conv=False,
    )
    return transformers.EncodecModel(config).eval()


@pytest.fixture(scope="module")
def codec(model: Any) -> EnCodec:
    return EnCodec(model)


def test_latents_are_those_of_the_model_and_weights_are_plain(model: Any, codec: EnCodec) -> None:
    x = torch.randn(2, 1, 160, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(codec.encode(x), model.encoder(x).transpose(1, 2))
    assert (codec.rate, codec.hop, codec.size) == (8000, 8, 8)
    assert not any("parametrizations" in name for name in codec.state_dict())
    assert not any(parameter.requires_grad for parameter in codec.parameters())


def test_any_length_comes_back(codec: EnCodec) -> None:
    for length in (159, 160, 161):
        x = torch.randn(1, 1, length, generator=torch.Generator().manual_seed(length))
        z = codec.encode(x)
        assert z.shape == (1, -(-length // 8), 8) and codec.frames(length) == z.shape[1]
        assert codec.decode(z, length).shape == (1, 1, length)
    with pytest.raises(ValueError, match="length"):
        codec.decode(z, 200)
    with pytest.raises(ValueError, match="frames: EnCodec hears whole clips"):
        codec.encode(torch.randn(2, 1, 160), torch.tensor([20, 10]))


def test_the_gradient_of_decoding(codec: EnCodec) -> None:
    double = codec.double()
    z = torch.randn(1, 3, 8, generator=torch.Generator().manual_seed(0)).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda z: double.decode(z).sum(), (z,))
    codec.float()


def test_lstms_alone_are_in_training_mode(codec: EnCodec) -> None:
    codec.train()
    training = [m for m in codec.modules() if m.training]
    assert training and all(isinstance(m, torch.nn.LSTM) for m in training)


def test_autocast_leaves_lstms_in_their_precision(codec: EnCodec) -> None:
    (lstm,) = (m for m in codec.decoder.modules() if isinstance(m, torch.nn.LSTM))
    x = torch.randn(3, 2, lstm.input_size, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", torch.bfloat16):
        out = lstm(x.bfloat16())[0]
    assert out.dtype == torch.float32
    torch.testing.assert_close(out, lstm(x.bfloat16().float())[0], rtol=0, atol=0)


def test_a_card_has_no_lengths_to_wait_for(codec: EnCodec) -> None:
    assert {name for name, _ in codec.named_buffers()} == {"mean", "std"}


def test_chunks_agree_with_the_whole_away_from_their_edges(codec: EnCodec) -> None:
    z = torch.randn(1, 60, 8, generator=torch.Generator().manual_seed(0))
    whole = codec.decode(z)
    torch.testing.assert_close(codec.decode_chunked(z, 20, 30), whole, atol=1e-3, rtol=0)
    assert float((codec.decode_chunked(z, 20, 0) - whole).abs().max()) > 1e-3


def test_statistics_standardise(codec: EnCodec) -> None:
    clips = [torch.randn(4, 1, 400, generator=torch.Generator().manual_seed(i)) for i in range(3)]
    codec.estimate(clips)
    z = LatentCodec(codec, codec.mean, codec.std).encode(torch.cat(clips))
    torch.testing.assert_close(z.mean((0, 1)), torch.zeros(8), atol=1e-4, rtol=0)
    torch.testing.assert_close(z.std((0, 1)), torch.ones(8), atol=1e-2, rtol=0)
    with pytest.raises(ValueError, match="clips"):
        codec.estimate([])


def test_a_folder_is_read_and_has_a_fingerprint(model: Any, tmp_path: Path) -> None:
    torch.manual_seed(0)
    fresh = transformers.EncodecModel(model.config)
    fresh.save_pretrained(tmp_path)
    one, two = EnCodec.from_pretrained(str(tmp_path)), EnCodec(fresh)
    assert one.fingerprint() == two.fingerprint()
    with pytest.raises(TypeError, match="model: expected EncodecModel"):
        EnCodec(torch.nn.Linear(2, 2))
