"""What `python -m benchmarks.deploy` measures, each as rows of its table."""
