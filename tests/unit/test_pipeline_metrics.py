"""The metrics of a pipeline: its own file cannot contain those of another one."""

from __future__ import annotations

from pathlib import Path

from homelab.pipelines.pipeline_metrics import labelled
from tests.support import LocalHost

WRITTEN = """# TYPE homelab_pipeline_rows gauge
homelab_pipeline_issues 3
homelab_pipeline_issues 4
homelab_pipeline_rows{table="prices_daily"} 2.5e+06
homelab_pipeline_rows{pipeline="weather",table="x"} 1
homelab_pipeline_issues{table="x"} 1 # {}
homelab_security_updates_pending 0
homelab_pipeline_seconds 1.2.3
homelab_pipeline_seconds e+
homelab_pipeline_seconds 1e999
up 1
"""


def test_metrics_of_a_pipeline_get_its_name_and_others_are_dropped(tmp_path: Path) -> None:
    (tmp_path / "metrics.prom").write_text(WRITTEN)
    assert LocalHost().run(labelled("prices", f"cat {tmp_path}/metrics.prom")).text.splitlines() == [
        'homelab_pipeline_issues{pipeline="prices",table=""} 3',
        'homelab_pipeline_rows{pipeline="prices",table="prices_daily"} 2.5e+06',
    ]


def test_error_message_of_a_build_is_kept_if_it_is_plain(tmp_path: Path) -> None:
    lines = ["test.x: Got 1 result, it's [1]", 'a"} 1', "a\\b", "caf\u00e9", "x" * 501]
    text = "".join(f'homelab_pipeline_last_error_info{{message="{line}"}} 1\n' for line in lines)
    (tmp_path / "metrics.prom").write_text(text)
    assert LocalHost().run(labelled("prices", f"cat {tmp_path}/metrics.prom")).text.splitlines() == [
        'homelab_pipeline_last_error_info{pipeline="prices",message="test.x: Got 1 result, it\'s [1]"} 1'
    ]


def test_missing_metrics_are_no_metrics() -> None:
    assert LocalHost().run(labelled("prices", "cat /missing 2>/dev/null")).stdout == b""
