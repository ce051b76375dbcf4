r"""The Descript audio codec as one of continuous latents (Kumar et al., arXiv 2306.06546).

    from ctrlgen.domains.audio.dac import DAC
    network = DAC.from_pretrained("descript/dac_16khz")             # or a local folder

By transformers' `DacModel`; see `convolutional`. Latents are 1024 numbers at 50 to 86 frames a
second: a flow on them is large. There is no LSTM, so decoding in parts is exact as soon as they
overlap by the reach of the decoder. Of the models whose ratios hold an odd factor (24 kHz) the
decoder leaves out the last samples of a clip, which are zeros here.
"""

from __future__ import annotations

from typing import ClassVar, Self

from ctrlgen.domains.audio.convolutional import ConvolutionalCodec

__all__ = ["DAC"]


class DAC(ConvolutionalCodec):
    """Encoder and decoder of transformers' `DacModel`, see `ConvolutionalCodec`."""

    kind: ClassVar[str] = "DacModel"

    def train(self, mode: bool = True) -> Self:
        """Evaluation mode, whatever is asked for."""
        return super().train(False)
