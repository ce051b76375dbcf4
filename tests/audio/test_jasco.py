"""The adapter of JASCO against a stand-in with audiocraft's signatures."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ctrlgen.costs import NegativePSNR
from ctrlgen.domains.audio.jasco import from_jasco
from ctrlgen.domains.audio.operators import TimeMask
from ctrlgen.methods import DFlow
from ctrlgen.optimizers import LBFGS

FRAMES, FEATURES, HOP = 10, 4, 8


class Provider:
    """A condition provider: attributes to one vector of text, one of chords."""

    def tokenize(self, attributes: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return attributes

    def __call__(self, tokens: list[dict[str, Any]]) -> dict[str, tuple[Tensor, Tensor]]:
        text = torch.tensor([[[float(len(row["text"] or ""))]] for row in tokens])
        chords = torch.ones(len(tokens), FRAMES, 1)
        mask = torch.ones(len(tokens), 1)
        return {"description": (text, mask), "chords": (chords, mask)}


class Network(nn.Module):
    """audiocraft's FlowMatchingModel as far as the adapter sees it."""

    def __init__(self) -> None:
        super().__init__()
        self.flow_dim, self.condition_provider = FEATURES, Provider()
        self.emb = nn.Linear(FEATURES + 1, FEATURES)

    def forward(
        self,
        latents: Tensor,
        t: Tensor,
        conditions: list[Any],
        condition_tensors: dict[str, tuple[Tensor, Tensor]] | None = None,
    ) -> Tensor:
        assert condition_tensors is not None and not conditions
        chords, text = condition_tensors["chords"][0], condition_tensors["description"][0]
        assert len(chords) == len(text) == len(latents)
        x = self.emb(torch.concat((latents, chords), dim=-1))
        return x + t.flatten()[:, None, None] * (1 + text)

    def _multi_source_cfg_preprocess(
        self,
        conditions: list[Any],
        cfg_coef_all: float,
        cfg_coef_txt: float,
        min_weight: float = 1e-6,
    ) -> tuple[Any, list[Any]]:
        null = [{**row, "text": None} for row in conditions]
        terms = [SimpleNamespace(conditions=conditions), SimpleNamespace(conditions=null)]
        return {}, terms


class Jasco:
    """audiocraft's JASCO as far as the adapter sees it; its own generation has no gradient."""

    def __init__(self, channels: int = 1) -> None:
        torch.manual_seed(0)
        self.lm, self.duration = Network().half(), 0.1
        encoder = nn.Conv1d(1, FEATURES, HOP, stride=HOP)
        decoder = nn.ConvTranspose1d(FEATURES, 1, HOP, stride=HOP)
        nn.utils.weight_norm(encoder)
        model = SimpleNamespace(encoder=encoder, decoder=decoder)
        self.compression_model = SimpleNamespace(
            model=model, sample_rate=800, frame_rate=100.0, channels=channels
        )
        self.cfg = SimpleNamespace(
            compression_model_latent_mean=-0.5, compression_model_latent_std=2.0
        )

    def _prepare_tokens_and_attributes(
        self, descriptions: list[str], prompt: Tensor | None
    ) -> tuple[list[dict[str, Any]], None]:
        return [{"text": text} for text in descriptions], None

    def _prepare_temporal_conditions(
        self,
        attributes: list[dict[str, Any]],
        expected_length: int,
        chords: Any,
        drums_wav: Any,
        salience_matrix: Any,
        melody_bins: int = 53,
    ) -> list[dict[str, Any]]:
        assert expected_length == FRAMES
        return attributes


def test_states_velocity_and_codec_are_those_of_the_model() -> None:
    model = Jasco()
    weight = model.compression_model.model.encoder.weight.clone()
    prior = from_jasco(model)
    assert prior.source.shape == (FRAMES, FEATURES)
    x, t = torch.randn(3, FRAMES, FEATURES), torch.tensor([0.1, 0.5, 0.9])
    chords = torch.ones(3, FRAMES, 1)
    expected = model.lm.emb(torch.cat((x, chords), -1)) + t[:, None, None]
    torch.testing.assert_close(prior.velocity(x, t), expected)
    signal = torch.randn(2, 1, FRAMES * HOP)
    z = prior.codec.encode(signal)
    latents = nn.functional.conv1d(
        signal, weight, model.compression_model.model.encoder.bias, stride=HOP
    )
    torch.testing.assert_close(z, (latents.mT + 0.5) / 2)
    decoded = model.compression_model.model.decoder((2 * z - 0.5).mT)
    torch.testing.assert_close(prior.codec.decode(z), decoded)
    assert all(p.dtype == torch.float32 and not p.requires_grad for p in model.lm.parameters())


def test_a_text_is_heard_and_rows_do_not_meet() -> None:
    x, t = torch.randn(2, FRAMES, FEATURES), torch.tensor([0.5, 0.5])
    plain, told = from_jasco(Jasco()), from_jasco(Jasco(), text="four")
    difference = told.velocity(x, t) - plain.velocity(x, t)
    torch.testing.assert_close(difference, torch.full_like(x, 0.5 * 4))
    torch.testing.assert_close(told.velocity(x[:1], t[:1]), told.velocity(x, t)[:1])


def test_dflow_runs_through_it() -> None:
    prior = from_jasco(Jasco())
    known = torch.ones(FRAMES * HOP, dtype=torch.bool)
    known[30:50] = False
    mask = TimeMask(known)
    y = mask(0.1 * torch.randn(2, 1, FRAMES * HOP, generator=torch.Generator().manual_seed(0)))
    cost = NegativePSNR(mask, y, peak=1.0)
    method = DFlow(optimizer=LBFGS(max_iterations=10))
    before = cost(prior.sample([0, 1], prior.solver(3)))
    result = method(prior, cost, seeds=[0, 1])
    assert bool((result.costs < before - 3).all())


def test_what_is_no_jasco_is_named() -> None:
    with pytest.raises(TypeError, match="SimpleNamespace has no lm"):
        from_jasco(SimpleNamespace())
    with pytest.raises(ValueError, match="model: expected one channel, got 2"):
        from_jasco(Jasco(channels=2))
