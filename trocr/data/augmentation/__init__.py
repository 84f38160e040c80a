"""Augmentation: images changed at random, the same way for the same random numbers."""

from trocr.data.augmentation.pipeline import PRESETS, AugmentationError, build_augmentation

__all__ = ["PRESETS", "AugmentationError", "build_augmentation"]
