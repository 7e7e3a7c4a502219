"""Servers to measure beside ours, each with the same model, in a process of its own."""
