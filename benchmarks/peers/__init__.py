"""Foveal against torchvision, each in a process of its own, in turns: `python -m benchmarks.peers`."""
