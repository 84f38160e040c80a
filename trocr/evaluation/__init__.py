"""Evaluation: readings compared with what the lines say, by every convention in use."""
