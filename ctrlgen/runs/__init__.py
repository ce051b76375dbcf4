"""Runs: what is written, and how a run ends."""
