"""Audio: codecs of continuous latents, operators on the waveform, metrics, data."""
