"""Experiments: one module per table of the papers."""
