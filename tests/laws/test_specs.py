"""Every component is the same after its way through JSON, or says why it has none."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

import ctrlgen
from ctrlgen.methods import DFlow
from ctrlgen.methods.source.dflow import PRESETS
from ctrlgen.runs.fingerprint import fingerprint
from ctrlgen.runs.spec import SpecError, describe, rebuild, same
from ctrlgen.sampling.grids import DDPMUniform, Karras, Power, Times, Uniform
from ctrlgen.sampling.steps import DDIM, Ancestral, EDMStep, EulerStep, HeunStep, ShareStep
from ctrlgen.solvers import Midpoint

OPAQUE = {
    "codec:autoencoder": "vae: ",
    "codec:latent-audio": "network: ",
    "codec:pretrained-audio": "network: ",  # with the frames of a batch; without, by its card
    "cost:chebyshev": "costs.predict: ",
    "cost:level-set": "function: ",
    "cost:level-set-rows": "function: ",
    "cost:property": "predict: ",
    "cost:property-extreme": "predict: ",
    "cost:uncertainty": "features: ",
    "prior:conditional": "prior: ",
    "prior:pinned": "prior: ",
    "rows:judge-likelihood": "prior: ",
    "rows:judge-misfit": "prior: ",
    "rows:judge-own": "function: ",
}
"""Cases that hold a network or a lambda, and what their errors begin with."""

PARTS = [
    Uniform(7), Power(5, power=2.0), Karras(5, 0.02, 80.0), DDPMUniform(9), Times([0.0, 0.3, 1.0]),
    DDIM(0.5), Ancestral(2.0), ShareStep(0.2), EulerStep(), HeunStep(), EDMStep(churn=0.2),
]  # fmt: skip


def through_json(part: Any) -> Any:
    tensors: dict[str, torch.Tensor] = {}
    spec = describe(part, tensors)
    return rebuild(json.loads(json.dumps(spec, allow_nan=False)), tensors, trust="tests")


def test_every_component(all_cases: dict[str, Any]) -> None:
    alike, opaque = 0, {}
    for name, case in all_cases.items():
        part = case.component
        if part is None:
            continue
        try:
            again = through_json(part)
        except SpecError as error:
            opaque[name] = str(error)
            continue
        alike += 1
        assert same(again, part), name
        assert fingerprint(again) == fingerprint(part), name
    assert opaque.keys() == OPAQUE.keys()
    assert all(text.startswith(OPAQUE[name]) for name, text in opaque.items())
    assert alike > 100


@pytest.mark.parametrize("part", PARTS, ids=repr)
def test_grids_and_rules(part: Any) -> None:
    assert through_json(part) == part


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_presets(name: str) -> None:
    method = DFlow.preset(name)
    assert same(through_json(method), method)


def test_an_embedded_prior_is_its_card() -> None:
    prior = ctrlgen.load("mnist").bind(label=torch.tensor([3, 4]))
    again = through_json(prior)
    assert fingerprint(again) == fingerprint(prior)
    assert torch.equal(again.sample([1, 2], Midpoint(1)), prior.sample([1, 2], Midpoint(1)))
    half = prior.half()
    with pytest.raises(SpecError, match="prior: "):
        describe(half)


def test_one_changed_number_is_another_fingerprint(all_cases: dict[str, Any]) -> None:
    one = DFlow.preset("inpaint")
    assert fingerprint(one) != fingerprint(DFlow.preset("inpaint", target=-44.0))
    prior = ctrlgen.load("mnist")
    before = fingerprint(prior)
    with torch.no_grad():
        next(prior.flow.network.parameters()).flatten()[0] += 1e-6  # type: ignore[attr-defined]
    assert fingerprint(prior) != before


def test_numbers_keep_their_bits() -> None:
    odd = torch.tensor([0.1, -0.0, float("nan"), float("inf"), 1e-42], dtype=torch.float32)
    again = rebuild(json.loads(json.dumps(describe({"a": odd, 2: (float("-inf"), range(3))}))))
    assert again[2] == (float("-inf"), range(3))
    assert torch.equal(again["a"].view(torch.int32), odd.view(torch.int32))


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"type": "os:system"}, "nothing was imported"),
        ({"type": "ctrlgen.priors.documents:write_whole"}, "registered builder"),
        ({"function": "ctrlgen.priors.documents:write_whole"}, "registered builder"),
        ({"function": "posix:system"}, "nothing was imported"),
        ({"type": "ctrlgen.methods.source.dflow:DFlow", "solvr": 3}, "solvr"),
        ({"type": "ctrlgen.sampling.grids:Uniform", "steps": -3}, "steps"),
        ({"dtype": "load"}, "expected a dtype"),
        ({"unheard": 3}, "unheard"),
        ({"tensor": "none"}, "none"),
    ],
)
def test_hostile_and_wrong_specs(spec: Any, words: str) -> None:
    with pytest.raises(SpecError, match=words):
        rebuild(spec)
