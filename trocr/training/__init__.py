"""Training: options, batches, losses and the generator of optimizer steps."""
