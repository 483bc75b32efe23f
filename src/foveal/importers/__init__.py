"""Other people's checkpoints become runs of ours."""
