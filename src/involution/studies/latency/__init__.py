"""Nets in every engine that runs them on a CPU: time and memory, measured in turn."""
