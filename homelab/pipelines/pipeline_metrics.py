"""The metrics that a build of a pipeline writes, with the name of the pipeline."""

from __future__ import annotations

from shlex import quote

_WORDS = r'^homelab_pipeline_last_error_info\{message="([] !#-[^-~]{1,500})"\} 1$'
_LINE = r'^(homelab_pipeline_[a-z_]+)(\{table="([A-Za-z0-9_]+)"\})? ([0-9]+(\.[0-9]+)?(e\+?[0-9]{1,2})?)$'


def labelled(name: str, command: str) -> str:
    """Return shell text that adds the label `pipeline` to the metrics that a command prints, and drops other lines.

    A pipeline's code writes the file: it cannot give metrics of another pipeline, or of anything else.
    """
    script = rf's/{_LINE}/\1{{pipeline="{name}",table="\3"}} \4/p'
    words = rf's/{_WORDS}/homelab_pipeline_last_error_info{{pipeline="{name}",message="\1"}} 1/p'
    return f"{command} | LC_ALL=C sed -nE {quote(script)}';'{quote(words)} | sort -u -k1,1"
