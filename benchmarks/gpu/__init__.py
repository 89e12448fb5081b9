"""Everything that needs a GPU: tests, parity over every geometry, operators and models against their peers.

``make gpu`` or ``python -m benchmarks.gpu [--out DIR] [--minutes 7.5]``. Records are written as they come: a run cut
short keeps what it has. Kernels are compiled before they are measured, in several processes.
"""
