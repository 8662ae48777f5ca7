"""Write the dashboards to templates/grafana/dashboards."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from grafana_foundation_sdk.cog.encoder import JSONEncoder

from dashboards.pages import pages

FOLDER = Path(__file__).resolve().parent.parent / "templates" / "grafana" / "dashboards"


def files() -> Mapping[str, str]:
    """Return the text of each file by its name."""
    encoder = JSONEncoder(sort_keys=True, indent=1)
    made = [each.build() for each in pages()]
    for dashboard in made:
        for number, panel in enumerate(dashboard.panels or [], 1):
            panel.id_val = number
    return {f"{str(each.title).lower()}.json": encoder.encode(each) + "\n" for each in made}


if __name__ == "__main__":
    FOLDER.mkdir(parents=True, exist_ok=True)
    for file in FOLDER.glob("*.json"):
        file.unlink()
    for name, text in files().items():
        (FOLDER / name).write_text(text)
