"""The generator of Grafana's dashboards: `python -m dashboards` writes them to templates/grafana/dashboards."""
