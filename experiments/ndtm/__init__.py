"""Non-linear diffusion trajectory matching, arXiv 2502.03686."""
