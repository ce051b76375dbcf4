r"""EnCodec as a codec of continuous latents (Défossez et al., arXiv 2210.13438), by transformers.

    from ctrlgen.domains.audio.encodec import EnCodec, build
    network = EnCodec.from_pretrained("facebook/encodec_32khz")     # or a local folder
    network = build(num_filters=32, hidden_size=64)                 # untrained, to train

What it does and what it can't is said in `convolutional`. Its LSTMs hear the whole clip: parts that
are decoded one by one must overlap by a second. On CUDA an LSTM has no backward pass in evaluation
mode; the LSTMs alone (they have no dropout) stay in training mode. They keep the precision of their
weights under autocast, which would have them in float16, whose gradients overflow.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from ctrlgen.domains.audio.convolutional import ConvolutionalCodec
from ctrlgen.extras import require

__all__ = ["EnCodec", "build"]


class Recurrent(nn.LSTM):
    """An LSTM in the precision of its weights, whatever autocast says."""

    def forward(self, input: Tensor, hx: Any = None) -> Any:  # type: ignore[override]
        with torch.autocast(input.device.type, enabled=False):
            return super().forward(input.to(next(self.parameters()).dtype), hx)


class EnCodec(ConvolutionalCodec):
    """Encoder and decoder of transformers' `EncodecModel`, see `ConvolutionalCodec`."""

    kind: ClassVar[str] = "EncodecModel"

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        for module in self.modules():
            if type(module) is nn.LSTM:
                module.__class__ = Recurrent

    def train(self, mode: bool = True) -> Self:
        """Evaluation mode, whatever is asked for; the LSTMs alone in training mode."""
        super().train(False)
        for module in self.modules():
            if isinstance(module, nn.LSTM):
                module.train()
        return self


def build(
    *,
    sampling_rate: int = 16000,
    hidden_size: int = 64,
    num_filters: int = 32,
    upsampling_ratios: Sequence[int] = (8, 5, 4, 2),
    num_residual_layers: int = 1,
    num_lstm_layers: int = 2,
    use_conv_shortcut: bool = False,
    pad_mode: str = "constant",
) -> EnCodec:
    """An untrained codec from a plain, JSON-able configuration, not causal, of one channel.

    Args:
        sampling_rate: in Hz.
        hidden_size: D, numbers of a frame.
        num_filters: channels at the rate of samples; each ratio doubles them.
        upsampling_ratios: of the decoder; their product is the hop.
        num_residual_layers: blocks before each ratio.
        num_lstm_layers: layers of either LSTM.
        use_conv_shortcut: blocks have a convolution beside them, not the identity.
        pad_mode: of the convolutions, "constant" (zeros) or "reflect".

    Raises:
        MissingExtra: transformers is not installed.
    """
    transformers: Any = require("transformers", "hub")
    config = transformers.EncodecConfig(
        sampling_rate=sampling_rate,
        hidden_size=hidden_size,
        num_filters=num_filters,
        upsampling_ratios=list(upsampling_ratios),
        num_residual_layers=num_residual_layers,
        num_lstm_layers=num_lstm_layers,
        use_conv_shortcut=use_conv_shortcut,
        pad_mode=pad_mode,
        use_causal_conv=False,
        audio_channels=1,
        # The quantiser is left out; the smallest is made.
        codebook_size=2,
        codebook_dim=hidden_size,
        target_bandwidths=[sampling_rate / 1e6],
    )
    return EnCodec(transformers.EncodecModel(config))
