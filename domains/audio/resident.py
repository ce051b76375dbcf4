r"""Music that lies on a card as a whole: clips are cut there, and no step waits for the host.

An hour at 16 kHz is 115 MB of int16. A clip that starts at a share of the music is that of
`Music.clips`, number for number.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ctrlgen.domains.audio.data import Music, starts_of

__all__ = ["Resident", "resident"]


class Resident:
    """The pieces of one split as one tensor on a device.

    Args:
        music: the pieces.
        device: where they go.
    """

    def __init__(self, music: Music, device: torch.device | str) -> None:
        self.device, self.rate = torch.device(device), music.rate
        self.sizes = np.array([len(piece) for piece in music.pieces])
        self.samples = torch.from_numpy(np.concatenate(music.pieces)).to(device)
        self._tables: dict[int, tuple[int, Tensor, Tensor, Tensor]] = {}

    def clips(self, places: Tensor, length: int) -> Tensor:
        """Clips that start at shares of the whole, shape (B, length), float32 in [-1, 1).

        Args:
            places: in [0, 1), shape (B,): every start that leaves a whole clip is as likely.
            length: samples of a clip.

        Raises:
            ValueError: no piece is as long as a clip.
        """
        count, ends, offsets, within = self._table(length)
        places = places.to(self.device, non_blocking=True).double()
        chosen = (places * count).long().clamp_max(count - 1)
        owners = torch.searchsorted(ends, chosen, right=True)
        rows = (chosen + offsets[owners]).unsqueeze(1) + within
        return self.samples[rows].float() / 32768

    def _table(self, length: int) -> tuple[int, Tensor, Tensor, Tensor]:
        """Number of starts, their sums over pieces, from a start to its sample, 0..length - 1."""
        if length not in self._tables:
            starts = starts_of(self.sizes, length)
            ends = starts.cumsum()
            offsets = (self.sizes.cumsum() - self.sizes) - (ends - starts)
            sums, shifts = (torch.from_numpy(part).to(self.device) for part in (ends, offsets))
            within = torch.arange(length, device=self.device)
            self._tables[length] = (int(ends[-1]), sums, shifts, within)
        return self._tables[length]


def resident(music: Music, device: torch.device | str) -> Music | Resident:
    """The music on a card; on any other device it stays where it lies, on disk."""
    return Resident(music, device) if torch.device(device).type == "cuda" else music
