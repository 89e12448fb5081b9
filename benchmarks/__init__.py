"""Measurements and checks of what was built; each module is a command, ``python -m benchmarks.NAME``."""
