"""Measurements and checks of what was built. Each module is a command, ``python -m benchmarks.NAME``, but for what the commands
share: `commands`, `memory`, `shapes` and `timing`.
"""
