"""Laws 1 and 6 on clips of several lengths: the methods on a prior of latent frames of sound.

The parts are those of the embedded prior (transformer over frames, MDCT codec, source of frames),
with few weights. A clip of three frames, two hops of samples with one sample in five hidden, is
steered alone, without padding, and among longer ones. What comes out of it is the same.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from ctrlgen.costs import FunctionCost, NegativePSNR, SquaredError
from ctrlgen.domains.audio.networks import FrameVelocity
from ctrlgen.domains.audio.operators import TimeMask
from ctrlgen.domains.audio.spectral import SpecCodec
from ctrlgen.domains.audio.starts import Projected
from ctrlgen.domains.audio.states import Frames, LatentCodec
from ctrlgen.methods import DFlow
from ctrlgen.methods.base import CostLike
from ctrlgen.methods.result import Result
from ctrlgen.methods.starts import Blend, Refined
from ctrlgen.optimizers import LBFGS
from ctrlgen.priors.flows import Flow
from ctrlgen.priors.paths import CondOT
from ctrlgen.priors.prior import Prior
from ctrlgen.rows.seeds import normal
from tests.laws.test_ragged import COUNTED, METHODS

DOUBLE = torch.float64
SEEDS = torch.tensor([7, 3, 11, 2])
COUNTS = torch.tensor([3, 7, 4, 5])
HOP, ROW = 4, 0


def parts() -> tuple[FrameVelocity, SpecCodec]:
    """The network and the codec, of fixed weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = FrameVelocity(HOP, width=8, depth=1, heads=2, ratio=1, curved=True)
        for parameter in network.parameters():
            nn.init.normal_(parameter, std=0.15)
        codec = SpecCodec(HOP, HOP, width=4, depth=1, kernel=3, knee=2.0)
        for parameter in codec.parameters():
            nn.init.normal_(parameter, std=0.2)
    return network.double().requires_grad_(False), codec.double().requires_grad_(False)


class Batch:
    """The clips of some rows, padded to the longest of them."""

    def __init__(self, rows: list[int]) -> None:
        self.seeds, self.frames = SEEDS[rows], COUNTS[rows]
        self.longest = int(self.frames.max())
        place = torch.arange(HOP * (self.longest - 1))
        self.there = place < HOP * (self.frames.unsqueeze(1) - 1)
        self.kept = self.there & (place % 5 != 2)
        draws = normal(self.seeds, (1, len(place)), 40, dtype=DOUBLE)
        self.y = draws * self.kept.unsqueeze(1)

    def prior(self) -> Prior:
        network, codec = parts()
        latents = LatentCodec(codec, torch.zeros(HOP), torch.linspace(0.5, 1, HOP))
        source = Frames(self.longest, HOP)
        return Prior(Flow(network, CondOT()), source, latents).bind(frames=self.frames)

    def function(self) -> CostLike:
        def distance(x: Tensor, y: Tensor, kept: Tensor) -> Tensor:
            return 0.02 * ((x - y) * kept.unsqueeze(1)).square().sum((1, 2))

        return FunctionCost(distance, {"y": self.y, "kept": self.kept})

    def squared(self) -> CostLike:
        return SquaredError(TimeMask(self.kept), self.y, 0.1)

    def decibels(self) -> CostLike:
        return NegativePSNR(TimeMask(self.kept), self.y, 0.1)


ON_SOUND = {
    "dflow-blend": (
        DFlow(optimizer=LBFGS(max_iterations=2), initializer=Blend(0.3)), Batch.squared,
    ),
    "dflow-refined": (
        DFlow(optimizer=LBFGS(max_iterations=2), initializer=Refined(Projected(3), 2)),
        Batch.squared,
    ),
}  # fmt: skip
ONCE = ("dflow-adaptive", "dflow-probes", "optimal-control-dense", "optimal-control-adam")
"""Further settings of a method that is here already."""

CASES = {name: case for name, case in {**METHODS, **ON_SOUND}.items() if name not in ONCE}

NOT_MET = {
    "dflow-guided": "GuidedStart needs a codec that scales states",
    "ddrm": "DDRM needs a codec that scales all of a state alike",
    **dict.fromkeys(
        ("pigdm", "pigdm-ancestral", "cpigdm", "cpigfm", "otode"),
        "codec: needs one that scales every entry alike, got LatentCodec; heuristic=True",
    ),
}
"""What needs more than latents of sound have, and what it says."""


def run(name: str, rows: list[int]) -> Result:
    method, cost = CASES[name]
    grid = (
        {"grid": replace(method.grid, steps=min(3, method.grid.steps))}
        if hasattr(method, "grid")
        else {}
    )
    batch = Batch(rows)
    method = replace(method, dtype=DOUBLE, **grid)
    result: Result = method(batch.prior(), getattr(batch, cost.__name__)(), seeds=batch.seeds)
    return result.take(torch.tensor([rows.index(ROW)]))


@pytest.mark.parametrize("name", [name for name in CASES if name not in NOT_MET])
def test_a_clip_does_not_see_its_padding(name: str) -> None:
    alone, among = run(name, [ROW]), run(name, [1, ROW, 2, 3])
    length = HOP * (int(COUNTS[ROW]) - 1)
    scale = float(alone.samples.abs().max())
    assert alone.samples.shape[2] == length and 0 < scale < 1e12
    error = (among.samples[..., :length] - alone.samples).abs().max()
    assert float(error) <= 1e-9 * scale
    assert float(among.samples[..., length:].abs().max()) == 0
    assert torch.allclose(among.costs, alone.costs, rtol=1e-8, atol=1e-9)
    for field in COUNTED:
        assert torch.equal(getattr(among, field), getattr(alone, field)), field


def test_every_method_is_tried() -> None:
    assert {type(method) for method, _ in CASES.values()} == {
        type(method) for method, _ in METHODS.values()
    }


@pytest.mark.parametrize("name", NOT_MET)
def test_what_is_not_met_is_said(name: str) -> None:
    with pytest.raises(ValueError, match=NOT_MET[name]):
        run(name, [ROW])
