r"""EnCodec as a codec of continuous latents (Défossez et al., arXiv 2210.13438), by transformers.

    from ctrlgen.domains.audio.encodec import EnCodec
    network = EnCodec.from_pretrained("facebook/encodec_32khz")     # or a local folder

What it does and what it can't is said in `convolutional`. Its LSTMs hear the whole clip: parts that
are decoded one by one must overlap by a second. On CUDA an LSTM has no backward pass in evaluation
mode; the LSTMs alone (they have no dropout) stay in training mode.
"""

from __future__ import annotations

from typing import ClassVar, Self

from torch import nn

from ctrlgen.domains.audio.convolutional import ConvolutionalCodec

__all__ = ["EnCodec"]


class EnCodec(ConvolutionalCodec):
    """Encoder and decoder of transformers' `EncodecModel`, see `ConvolutionalCodec`."""

    kind: ClassVar[str] = "EncodecModel"

    def train(self, mode: bool = True) -> Self:
        """Evaluation mode, whatever is asked for; the LSTMs alone in training mode."""
        super().train(False)
        for module in self.modules():
            if isinstance(module, nn.LSTM):
                module.train()
        return self
