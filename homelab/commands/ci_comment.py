"""`homelab ci comment`: one comment on the pull request of a running workflow, replaced by each run."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from homelab.errors import HomelabError, InputError

_MARK = "<!-- homelab {title} -->"
_MAX = 60_000  # characters; GitHub accepts 65,536
_TIMEOUT = 30  # seconds


@dataclass(frozen=True, slots=True)
class Target:
    """The comments of a pull request: the address of the list, that of one comment, and the token's header."""

    comments: str
    comment: str
    update: str  # the HTTP method
    headers: Mapping[str, str]


def write_comment(path: Path, text: str) -> None:
    """Write the text of a comment. Raises InputError if the path cannot be written."""
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InputError(f"Cannot write {path}: {error.strerror}", "", "Choose another path.") from None


def post_comment(path: Path, title: str) -> str:
    """Post a file as the comment, or replace the earlier one with this title; return "posted" or "replaced".

    Raises InputError outside of a workflow of a pull request, HomelabError if the forge refuses the comment.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"Cannot read {path}: {error}", "", "Write it: `homelab diff REV --markdown FILE`") from None
    mark = _MARK.format(title=re.sub(r"[^\w.-]", "-", title))
    target, body = _target(os.environ), {"body": f"{mark}\n{text[:_MAX]}"}
    found = _request(target, "GET", f"{target.comments}?per_page=100&limit=100")
    earlier = [each["id"] for each in found if str(each.get("body")).startswith(mark)]
    if earlier:
        _request(target, target.update, f"{target.comment}/{earlier[0]}", body)
        return "replaced"
    _request(target, "POST", target.comments, body)
    return "posted"


def _target(variables: Mapping[str, str]) -> Target:
    """Return the comments of the pull request that the variables of a workflow name. Raises InputError."""
    try:
        if "GITLAB_CI" in variables:
            project = quote(variables["CI_PROJECT_ID"], safe="")
            notes = f"{variables['CI_API_V4_URL']}/projects/{project}/merge_requests/{_request_id(variables)}/notes"
            return Target(notes, notes, "PUT", {"PRIVATE-TOKEN": variables["GITLAB_TOKEN"]})
        event = json.loads(Path(variables["GITHUB_EVENT_PATH"]).read_text(encoding="utf-8"))
        issues = f"{variables['GITHUB_API_URL']}/repos/{variables['GITHUB_REPOSITORY']}/issues"
        number = int(event["pull_request"]["number"])
        # Gitea knows this form of the header, too.
        headers = {"Authorization": f"token {variables['GITHUB_TOKEN']}"}
        return Target(f"{issues}/{number}/comments", f"{issues}/comments", "PATCH", headers)
    except (KeyError, TypeError, ValueError, OSError) as error:
        raise InputError(
            "Cannot post a comment: this is no workflow of a pull request",
            f"Missing or invalid: {error}",
            "Run it in the workflow that `homelab ci init` writes; GitLab needs the CI/CD variable GITLAB_TOKEN.",
        ) from None


def _request_id(variables: Mapping[str, str]) -> int:
    return int(variables["CI_MERGE_REQUEST_IID"])


def _request(target: Target, method: str, url: str, body: Mapping[str, str] | None = None) -> Any:
    """Return the forge's answer. Raises HomelabError that contains no token."""
    import requests

    try:
        answer = requests.request(
            method, url, json=body, headers=target.headers, timeout=_TIMEOUT, allow_redirects=False
        )
        if answer.ok:
            return answer.json()
        reason = f"{answer.status_code} {answer.text[:300]}"
    except (requests.RequestException, ValueError) as error:
        reason = type(error).__name__
    raise HomelabError(
        "Cannot post a comment: the forge refuses it",
        f"{method} {url.partition('?')[0]}: {reason}",
        "The token needs the right to write comments of pull requests.",
    )
