"""What a benchmark raises.

Source: original work.
"""


class BenchmarkError(ValueError):
    """A benchmark cannot be run as it was asked for."""


class CandidateError(BenchmarkError):
    """A candidate is not there, or cannot do what a suite asks of it; the others run without it."""
