"""The parts of `benchmarks/accelerator.py`, one module each."""
