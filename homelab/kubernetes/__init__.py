"""The export to Kubernetes: a model of workloads from the inventory, and its rendering as manifests and images."""
