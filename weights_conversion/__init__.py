"""Rename tables between checkpoint dialects and this project's module names; nothing here knows the models.

Source: layouts of files on disk: Hugging Face TrOCR (transformers 4.x and 5.x), unilm/fairseq, timm.
"""
