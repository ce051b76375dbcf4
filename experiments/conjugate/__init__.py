"""Conjugate integrators, arXiv 2405.17673."""
