"""
The auditor, who reads the page that the operator has made.
"""

from __future__ import annotations

import re
from pathlib import Path

from behave import given, then
from outputs import AUDIT
from scene import Scene


def page_of(context: Scene) -> str:
    return (context.folder / "report.html").read_text(encoding="utf-8")


@given('in it, "{before}" was made "{after}" by somebody')
def somebody_has_changed(context: Scene, before: str, after: str) -> None:
    log = context.folder / Path("d", AUDIT)
    log.write_bytes(log.read_bytes().replace(before.encode(), after.encode()))


@then('the report claims "{word}" of "{part}"')
def report_claims(context: Scene, word: str, part: str) -> None:
    claims = dict(re.findall(r'data-claim="(\w+)".*?class="word">(.*?)<', page_of(context)))
    assert word == claims[part], claims


@then("the report is about one run")
def report_is_about_one_run(context: Scene) -> None:
    runs = set(re.findall(r'\\"run_id\\":\\"(.*?)\\"', page_of(context)))
    assert 1 == len(runs), runs


@then('the report tells of the decision "{text}"')
def report_tells_of(context: Scene, text: str) -> None:
    decisions = page_of(context).partition('class="decisions"')[2].partition("</section>")[0]
    assert text in decisions, decisions


@then("the report permits its own style and script, and nothing else")
def report_permits(context: Scene) -> None:
    (policy,) = re.findall('http-equiv="Content-Security-Policy" content="(.*?)"', page_of(context))
    assert re.fullmatch(
        "default-src 'none'; script-src 'sha256-[^']+'; style-src 'sha256-[^']+'; "
        "base-uri 'none'; form-action 'none'",
        policy,
    ), policy
