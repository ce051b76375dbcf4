"""Guidance by the posterior of a Gaussian, for linear operators."""
