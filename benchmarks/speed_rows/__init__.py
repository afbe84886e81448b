"""The rows of ``benchmarks.speed``: one function each, registered by name."""
