"""Diffusion optimal control, arXiv 2412.16748: inverse problems and classes of digits."""
