"""What homelab costs, measured in one run beside a peer or a floor: `python -m benchmarks`."""
