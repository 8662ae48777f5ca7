"""The pipelines in the containers: their layout, their steps, their DAGs and their status."""
