"""Runs: a method over many samples, in a folder that survives whatever ends the process."""
