"""Measurements, each `python -m benchmarks.<name>`; every figure in the README and the docs comes from here."""
