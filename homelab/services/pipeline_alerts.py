"""The alert rules of Prometheus for the pipelines, and the texts that they share with others."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping

from homelab.model import Inventory
from homelab.services.alert import TIMER, Alert
from homelab.services.late_limits import late_limits, stream_limits

AGE = "{{ $value | humanizeDuration }}"
SHARE = "{{ $value | humanizePercentage }}"
_OF_PIPELINE = "of the pipeline {{ $labels.pipeline }}"
_STATUS = "homelab pipeline status {{ $labels.pipeline }}"


def pipeline_alerts(inventory: Inventory) -> Iterator[Alert]:
    """Yield the alert rules of the pipelines."""
    limits = late_limits(inventory)

    # A stream reports its newest row itself: its builds are rarer than its rows.
    streams = stream_limits(inventory)
    newest = {(name, "newest_row"): limit for name, limit in limits.items() if name not in streams}
    newest |= {(name, "stream_newest_row"): limit for name, limit in streams.items()}

    def older(times: Mapping[tuple[str, str], float]) -> str:
        """Return the condition that a time of a pipeline is older than its limit plus a run of the metrics' timer."""
        return " or ".join(
            f'time() - homelab_pipeline_{metric}_timestamp_seconds{{pipeline="{name}"}} > {limit + TIMER:.0f}'
            for (name, metric), limit in times.items()
        )

    yield Alert(
        "PipelineFailed",
        "homelab_pipeline_last_build_success == 0",
        "0m",
        "critical",
        f"The last build {_OF_PIPELINE} failed",
        "pipeline-failed",
        _STATUS,
        details("homelab_pipeline_last_error_info{pipeline=%q}", "pipeline", "message"),
    )
    if limits:
        yield Alert(
            "PipelineLate",
            older({(name, "published"): limit for name, limit in limits.items()}),
            "1m",
            "critical",
            f"The data {_OF_PIPELINE} is {AGE} old",
            "pipeline-late",
            _STATUS,
        )
        yield Alert(
            "DataStale",
            older(newest),
            "1m",
            "warning",
            f"The newest row {_OF_PIPELINE} arrived {AGE} ago",
            "data-stale",
            _STATUS,
        )
    yield Alert(
        "CompletenessLow",
        "homelab_pipeline_completeness_ratio < 0.9",
        "1h",
        "warning",
        f"Only {SHARE} of the expected observations {_OF_PIPELINE} arrived",
        "completeness-low",
        _STATUS,
    )
    yield Alert(
        "CopyOutdated",
        "homelab_published_copy_timestamp_seconds != on (pipeline) group_left () "
        "max by (pipeline) (homelab_pipeline_published_timestamp_seconds)",
        "15m",
        "warning",
        f"The copy on {{{{ $labels.reader }}}} is not the newest publication {_OF_PIPELINE}",
        "copy-outdated",
        "homelab logs {{ $labels.container }} --grep {{ $labels.reader }}",
    )


def details(series: str, label: str, *names: str) -> str:
    """Return the template of the labels `names` of series, chosen by a label of the alert."""
    query = f"query (printf {json.dumps(series)} $labels.{label})"
    texts = ": ".join(f"{{{{ .Labels.{each} }}}}" for each in names)
    return f"{{{{ range {query} }}}}{texts} {{{{ end }}}}"
