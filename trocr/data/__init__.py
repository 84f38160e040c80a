"""Lines of text and their images: sources, synthetic lines, augmentation."""
