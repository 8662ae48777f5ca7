"""Benchmarks of homelab, each compared with a peer or a lower bound in the same run: `python -m benchmarks`."""
