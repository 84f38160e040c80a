"""Rename tables between checkpoint dialects and this project's module names.

The tables map names and shapes and know no model; only the command line (`commands`) uses the library.

Source: layouts of files on disk: Hugging Face TrOCR (transformers 4.x and 5.x), unilm/fairseq, timm.
"""
