"""Generate the dbt project's documentation as one self-contained page, data/docs.html, and print its path.

The page is generated only if the project has changed. It waits for a running build.
Exit status: 0 the page exists, 1 it could not be generated.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

import test_state
from contract import EXIT
from dbt_build import ROOT, Layout, exclusive


def generate(layout: Layout, timeout: float) -> Path:
    """Return the up-to-date page. Raises TimeoutError, and CalledProcessError when dbt fails."""
    page, built_from = layout.data / "docs.html", layout.data / "docs.fingerprint"
    fingerprint = test_state.fingerprint(layout.project, "")
    if page.exists() and built_from.exists() and built_from.read_text() == fingerprint:
        return page
    target = layout.data / "target-docs"  # separate, so that builds keep their parsed state
    with exclusive(layout.lock, timeout):
        subprocess.run(
            [
                str(Path(sys.executable).with_name("dbt")),
                "--no-use-colors",
                "docs",
                "generate",
                "--static",
                "--project-dir",
                str(layout.project),
                "--profiles-dir",
                str(layout.profiles),
            ],
            cwd=layout.data,
            stdout=sys.stderr,
            check=True,
            env={
                **os.environ,
                "DBT_TARGET_PATH": str(target),
                "DBT_LOG_PATH": str(layout.data / "logs"),
                "DBT_SEND_ANONYMOUS_USAGE_STATS": "false",
            },
        )
    os.replace(target / "static_index.html", page)
    built_from.write_text(fingerprint)
    return page


def main() -> int:
    """Parse the options and run; see the module's docstring."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--project", type=Path, default=ROOT / "dbt" / "analytics_project")
    parser.add_argument("--profiles", type=Path, default=ROOT / "dbt", help="folder of profiles.yml")
    parser.add_argument("--data", type=Path, default=ROOT / "data", help="folder of the page")
    parser.add_argument("--wait", type=float, default=600, help="seconds to wait for a build")
    options = parser.parse_args()
    layout = Layout(options.project.resolve(), options.profiles.resolve(), options.data.resolve())
    try:
        print(generate(layout, options.wait))
    except (TimeoutError, subprocess.CalledProcessError) as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT.failed
    return EXIT.success


if __name__ == "__main__":
    sys.exit(main())
