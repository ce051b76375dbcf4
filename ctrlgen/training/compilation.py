"""Compiling a network by its blocks, which share their code: two blocks' time for eight.

Whole networks of the same blocks take torch.compile minutes on a card and ten on a processor; what
is between the blocks is little.
"""

from __future__ import annotations

from torch import nn

__all__ = ["blocks_of", "compile_blocks"]


def blocks_of(network: nn.Module) -> list[nn.Module]:
    """The composed modules in a network's lists of modules; the network itself where none is."""
    lists = [part for part in network.modules() if isinstance(part, nn.ModuleList)]
    members = [module for part in lists for module in part if not isinstance(module, nn.ModuleList)]
    return [module for module in members if [*module.children()]] or [network]


def compile_blocks(network: nn.Module, dynamic: bool | None = None) -> None:
    """Compile the blocks of a network in place; its weights and their names stay.

    Args:
        network: whose calls go through compiled code from now on.
        dynamic: shapes are variables from the first call on, as of `torch.compile`.
    """
    for block in blocks_of(network):
        block.compile(dynamic=dynamic)
