"""Guidance by gradients of the cost at the denoised state."""
