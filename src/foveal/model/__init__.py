"""The network: pictures in, logits and offsets of every level out."""
