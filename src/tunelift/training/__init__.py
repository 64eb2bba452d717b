"""The training loop, its step, its batches and its listeners."""
