"""Adapters: other libraries' networks and operators on equal terms with ours.

    from_callable   any fn(x, t) or fn(t, x)                  -> Flow
    from_diffusers  a UNet2DModel with its scheduler config   -> Prior
    from_latent     an autoencoder with a UNet or transformer -> Prior
    from_adm        weights of a guided-diffusion UNet        -> Prior
    from_azula      an azula denoiser with its schedule       -> Flow
    from_deepinv    a deepinv physics                         -> Operator

Each lives in a module of its own, imported when it is first asked for.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ctrlgen.adapters.adm import from_adm
    from ctrlgen.adapters.azula import from_azula
    from ctrlgen.adapters.callables import from_callable
    from ctrlgen.adapters.deepinv import from_deepinv
    from ctrlgen.adapters.diffusers import from_diffusers
    from ctrlgen.adapters.latent import from_latent

__all__ = [
    "from_adm",
    "from_azula",
    "from_callable",
    "from_deepinv",
    "from_diffusers",
    "from_latent",
]

_HOMES = {name: f"{__name__}.{name.removeprefix('from_')}" for name in __all__}
_HOMES["from_callable"] = f"{__name__}.callables"


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
