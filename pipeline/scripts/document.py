"""Make the dbt project's documentation: one page that stands alone, data/docs.html; its path is printed.

Made anew only when the project has changed since. It waits for a build that is going on.
Exit status: 0 the page is there, 1 it could not be made.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

import tested
from transform import ROOT, Layout, only_one


def page(layout: Layout, patience: float) -> Path:
    """The page, made if need be. Raises TimeoutError, and CalledProcessError when dbt fails."""
    made = layout.data / "docs.html"
    code = layout.data / "docs.code"
    present = tested.code(layout.project, "")
    if made.exists() and code.exists() and code.read_text() == present:
        return made
    folder = layout.data / "target-docs"  # another one, so that builds need not parse again
    with only_one(layout.data / "transform.lock", patience):
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
                "DBT_TARGET_PATH": str(folder),
                "DBT_LOG_PATH": str(layout.data / "logs"),
                "DBT_SEND_ANONYMOUS_USAGE_STATS": "false",
            },
        )
    os.replace(folder / "static_index.html", made)
    code.write_text(present)
    return made


def main() -> int:
    """Run once; see the top of the file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition(":")[0])
    parser.add_argument("--project", type=Path, default=ROOT / "dbt" / "analytics_project")
    parser.add_argument("--profiles", type=Path, default=ROOT / "dbt")
    parser.add_argument("--data", type=Path, default=ROOT / "data")
    parser.add_argument("--wait", type=float, default=600, help="seconds to wait for a build")
    options = parser.parse_args()
    layout = Layout(options.project.resolve(), options.profiles.resolve(), options.data.resolve())
    try:
        print(page(layout, options.wait))
    except (TimeoutError, subprocess.CalledProcessError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
