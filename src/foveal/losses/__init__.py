"""Losses on logits and offsets; usable on any tensor, without a detector."""
