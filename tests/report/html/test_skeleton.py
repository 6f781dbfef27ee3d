"""All pages have one head, whose policy allows what the page brings along and nothing else."""

import re

from mllm_probe.report.html.skeleton import TEMPLATE, filled, script_digest

POLICY = re.compile(r'Content-Security-Policy" content="([^"]*)"')


def head_of(page: str) -> str:
    return page[: page.index("<title>")]


def test_a_page_allows_no_more_than_it_brings_along() -> None:
    still = filled("inspect.html", "inspect.css", live=False, title="<b>", articles="<script>")
    live = filled("other.html", version="1", kicker="", title="<b>", about=[], parts=[], command="")
    assert POLICY.findall(still) == ["default-src 'none'; img-src data:; style-src 'unsafe-inline'"]
    assert "<script" not in still and "<title>&lt;b&gt;</title>" in still
    (policy,) = POLICY.findall(live)
    assert policy.startswith("default-src 'none'; img-src data: blob:; style-src 'unsafe-inline'; script-src 'sha256-")
    assert script_digest((TEMPLATE / "page.js").read_bytes()) in policy
    assert POLICY.sub("", head_of(still)) == POLICY.sub("", head_of(live))
