"""Lines of text and their images: sources, synthetic lines, augmentation. Nothing here imports torch on its own."""
