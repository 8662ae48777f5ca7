"""The rows of a pipeline on this machine, for builds of its models at several revisions."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from homelab.dev.local_stack import Stack
from homelab.dev.model_builds import Side, run
from homelab.dev.own_pipeline import LocalPipeline
from homelab.dev.weather_rows import last_line, load_weather
from homelab.errors import HomelabError
from homelab.model.stages import FETCH
from homelab.pipelines.build_report import failed_nodes
from homelab.progress import Progress

_HOURS = 24


@dataclass(frozen=True, slots=True)
class OwnRows:
    """The rows of a user's pipeline."""

    local: LocalPipeline

    def dbt(self, words: Sequence[str], variables: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
        """See RowSource."""
        return _run(self.local.dbt(words, variables))

    def build(self, side: Side, is_new: bool) -> None:
        """See RowSource."""
        untested = [] if is_new else ["--exclude-resource-type=test", "--exclude-resource-type=unit_test"]
        run(self.dbt, side, ["build", "--full-refresh", *untested])

    def fetch(self, progress: Progress) -> None:
        """Run the pipeline's command `fetch`, if it has one. Raises HomelabError."""
        pipeline = self.local.layout.pipeline
        if FETCH not in pipeline.scripts:
            return
        with progress.step("dev", f"{pipeline.name}.{FETCH}"):
            done = _run(self.local.command(FETCH))
        if done.returncode:
            raise HomelabError(
                f"Cannot fetch the rows of {pipeline.name}: exit status {done.returncode}",
                (done.stderr or done.stdout).strip()[-2000:],
                f"Correct the cause; `homelab dev run {pipeline.name}` runs the same script.",
            )


@dataclass(frozen=True, slots=True)
class WeatherRows:
    """The rows of the user's copy of the weather."""

    stack: Stack

    def dbt(self, words: Sequence[str], variables: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
        """See RowSource."""
        dbt = str(self.stack.installed.python.with_name("dbt"))
        environment = {**self.stack.dbt_environment(), **variables}
        return subprocess.run([dbt, *words], env=environment, capture_output=True, text=True, check=False)

    def build(self, side: Side, is_new: bool) -> None:
        """See RowSource. Its own script prepares the file for dbt, and always tests."""
        stack = replace(self.stack, weather=side.project.parent)
        folders = ("--project", str(side.project), "--profiles", str(stack.data), "--data", str(side.folder))
        done = stack.script("dbt_build.py", *folders, "--full-refresh", PIPELINE_WAREHOUSE=str(side.warehouse))
        if done.returncode:
            raise HomelabError(
                f"Cannot compare the marts: dbt failed on {side.title}",
                "\n".join(failed_nodes(last_line(done))) or done.stderr.strip()[-2000:],
                "Correct the model or the test, then run the same command again.",
            )

    def fetch(self, progress: Progress) -> None:
        """Load 24 hours of weather from the replay. Raises HomelabError."""
        load_weather(self.stack, _HOURS, progress)


def _run(command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)
