"""What `trocr.reader.Reader` is made of: images ahead of the model, batches, scores.

Source: original work.
"""
