"""Measuring speed and memory against what a user would pick instead; `scripts/benchmark.py` is the door.

Source: original work.
"""
