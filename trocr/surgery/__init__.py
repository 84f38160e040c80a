"""Change a trained TrOCR and still trust it: each operation is one function that reports what it did.

Source: original work; the operations name theirs.
"""
