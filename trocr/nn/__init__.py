"""Leaf modules: plain numbers in, no configuration objects.

Source: original work.
"""
