"""The benchmarks of `python -m benchmarks.deploy`, each as rows of its table."""
