"""
Reports in Chromium.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from playwright.sync_api import expect
from tests.report.agents import HOSTILE, RUN, write_agent_log, write_hostile_log
from tests.report.conftest import Open, Opened

import harken.trail
from harken.report import html
from harken.trail import EVERYTHING, Filter

pytestmark = pytest.mark.once


def write_report(log: Path, where: Filter = EVERYTHING) -> Path:
    """
    Write the report of what is wanted of *log* beside it.
    """
    path = log.with_suffix(".html")
    with harken.trail.open(log) as trail:
        page = html(trail, where, verification=harken.trail.verify(log))
    path.write_text(page, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def agent_report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """
    The report of a run with 102 records in 64 rows.
    """
    log = tmp_path_factory.mktemp("agent") / "audit.jsonl"
    write_agent_log(log, 12, seconds=0.003)
    return write_report(log, Filter(families=(RUN,)))


@pytest.fixture(scope="module")
def demo_report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """
    The report of the first run of the demo, by the command line.
    """
    folder = tmp_path_factory.mktemp("demo")

    def call(*args: str) -> None:
        subprocess.run(
            [sys.executable, "-m", "harken", *args], cwd=folder, check=True, capture_output=True
        )

    call("demo", "--out", "demo")
    with harken.trail.open(folder / "demo" / "audit.jsonl") as trail:
        run = trail.runs()[0].run_id
    call("export", "html", "demo/audit.jsonl", "--run", run, "-O", "report.html")
    return folder / "report.html"


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [1440, 400], ids=["wide", "narrow"])
def test_demo(demo_report: Path, open_page: Open, width: int, dark: bool) -> None:
    """
    The report of a demo run opens, fits the window, and shows what vouches for it, what was decided
    and what happened.
    """
    opened = open_page(demo_report, width=width, dark=dark)

    opened.keep(f"demo-{'wide' if width > 900 else 'narrow'}-{'dark' if dark else 'light'}")
    assert "repair" == opened.text("h1")
    assert re.match("run [0-9a-f]{16}", opened.rows()[0])
    assert "tool run_command" in opened.text(".decisions")
    assert "Chain ok" in opened.text(".claims")
    wide = opened.page.evaluate("document.documentElement.scrollWidth")
    assert wide <= width


def test_search(agent_report: Path, open_page: Open) -> None:
    """
    A search leaves what has all its words, with what it is a part of, and says how many there are.
    """
    opened = open_page(agent_report)

    opened.page.fill("#search", "DISK full")
    expect(opened.page.locator("#count")).to_have_text("1 of 64 rows")

    assert ["run r-1", "tool write_file"] == opened.rows()
    opened.page.fill("#search", "nothing says this")
    expect(opened.page.locator("#count")).to_have_text("0 of 64 rows")
    assert "Nothing matches." == opened.text("#inner")
    opened.page.press("#search", "Escape")
    assert "64 rows" == opened.text("#count")


def test_why(agent_report: Path, open_page: Open) -> None:
    """
    Each step of the chain of causes can be clicked, a long one is folded, and the way back is that
    of the browser.
    """
    opened = open_page(agent_report)
    page = opened.page
    page.click("tr[data-row] >> text=apply")
    steps = page.locator(".why-chain ol > li")

    assert "tool apply" == opened.text("#detail h3")
    assert "more step" in opened.text(".why-chain .folded")
    assert 9 == steps.count()
    page.click(".why-chain .folded button")
    assert 26 == steps.count()
    opened.keep("why")

    page.locator(".why-chain .hop").nth(1).click()
    assert "tool write_file" == opened.text("#detail h3")
    assert 2 <= page.locator(".row.why").count()
    page.go_back()
    expect(page.locator("#detail h3")).to_have_text("tool apply ")


def test_answer_leads_to_its_question(agent_report: Path, open_page: Open) -> None:
    """
    Why somebody said no begins with what they were asked.
    """
    opened = open_page(agent_report)

    opened.page.click("tr[data-row] >> text=approval.denied")

    assert "which answers approval.requested terraform apply" in opened.text(".why-chain")
    assert "user:ana" in opened.text("#detail dl.facts")


def test_link(agent_report: Path, open_page: Open) -> None:
    """
    The address of an event leads to it, by its id and by its number, and nonsense to nothing.
    """
    opened = open_page(agent_report)
    opened.page.click("tr[data-row] >> text=approval.denied")
    address = opened.page.url

    assert "#event=" in address
    for name, heading in (
        (address.partition("#")[2], "approval.denied terraform apply"),
        ("event=3", "llm m-large"),
        # The first problem is what a page begins with.
        ("event=%E0%A4", "tool write_file"),
        ("event=nobody", "tool write_file"),
    ):
        assert heading == open_page(agent_report, f"#{name}").text("#detail h3")


def test_keys(agent_report: Path, open_page: Open) -> None:
    """
    Everything can be reached without a mouse.
    """
    opened = open_page(agent_report)
    page = opened.page

    def heading() -> str:
        return opened.text("#detail h3")

    page.focus("#list")
    page.keyboard.press("Home")
    assert "run r-1" == heading()
    page.keyboard.press("ArrowDown")
    assert "llm m-large" == heading()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowRight")
    assert "policy.evaluated opa" == heading()
    page.keyboard.press("ArrowLeft")
    assert "tool read_file" == heading()
    page.keyboard.press("w")
    assert "llm m-large" == heading()
    page.keyboard.press("n")
    assert "tool write_file" == heading()
    page.keyboard.press("n")
    assert "tool apply" == heading()
    page.keyboard.press("p")
    assert "tool write_file" == heading()
    page.keyboard.press("End")
    assert "approval.denied terraform apply" == heading()
    assert "row-63" == page.get_attribute("#list", "aria-activedescendant")
    page.keyboard.press("PageUp")
    page.keyboard.press("/")
    page.keyboard.type("disk full")
    page.keyboard.press("Enter")
    assert "tool write_file" == heading()
    assert "list" == page.evaluate("document.activeElement.id")
    page.keyboard.press("Escape")
    assert "64 rows" == opened.text("#count")


def test_subtrees(agent_report: Path, open_page: Open) -> None:
    """
    What is within something can be put away, one by one and all at once, and says how much it is.
    """
    opened = open_page(agent_report)
    page = opened.page

    page.click("#fold")
    assert ["run r-1"] == opened.rows()
    assert "+63" == opened.text("#row-0 .inside")
    assert "false" == page.get_attribute("#row-0", "aria-expanded")
    page.click("#row-0 .toggle")
    assert "true" == page.get_attribute("#row-0", "aria-expanded")
    assert "Expand all" == opened.text("#fold")
    assert ["run r-1", "llm m-large", "tool read_file", "tool write_file"] == opened.rows()[:4]
    page.click("#fold")
    assert ["tool read_file", "policy.evaluated opa"] == opened.rows()[2:4]
    page.focus("#list")
    page.keyboard.press("Home")
    page.keyboard.press("ArrowLeft")
    assert ["run r-1"] == opened.rows()
    page.keyboard.press("ArrowRight")
    assert "llm m-large" == opened.rows()[1]


def test_choices(agent_report: Path, open_page: Open) -> None:
    """
    Decisions alone, and problems alone, are one click away.
    """
    opened = open_page(agent_report)

    opened.page.click("[data-show=failed]")
    assert ["run r-1", "tool write_file", "tool apply", "approval.denied terraform apply"] == (
        opened.rows()
    )
    opened.page.click("[data-show=decisive]")
    assert "approval.requested terraform apply" in opened.rows()
    assert "4 of 64 rows" == opened.text("#count")
    opened.page.click("[data-show=all]")
    assert "64 rows" == opened.text("#count")


def test_zoom(agent_report: Path, open_page: Open) -> None:
    """
    The time of what was chosen can fill the axis, and all of it again.
    """
    opened = open_page(agent_report)
    whole = opened.text("#ticks")

    def share() -> float:
        width = opened.page.evaluate("document.querySelector('.row.chosen .bar').style.width")
        return float(width.removesuffix("%"))

    opened.page.click(".row >> text=m-large >> nth=2")
    before = share()
    opened.page.click("#zoom")
    assert before < 80 < share()
    assert whole != opened.text("#ticks")
    opened.page.click("#zoom")
    assert (before, whole) == (share(), opened.text("#ticks"))


def test_theme(agent_report: Path, open_page: Open) -> None:
    """
    The page is dark where the reader's machine is, or when the reader says so.
    """

    def background(opened: Opened) -> str:
        color: str = opened.page.evaluate("getComputedStyle(document.body).backgroundColor")
        return color

    light, dark = open_page(agent_report), open_page(agent_report, dark=True)
    white, black = background(light), background(dark)

    assert white != black
    light.page.click("#theme")
    assert white == background(light)
    light.page.click("#theme")
    assert black == background(light)


def test_lines_are_checked_by_the_reader(agent_report: Path, open_page: Open) -> None:
    """
    The reader's own browser tells whether the lines of the page are as they were sealed, and how
    many of them follow each other.
    """
    opened = open_page(agent_report)
    opened.page.click(".check")
    opened.page.wait_for_selector("output.good")
    changed = agent_report.with_name("changed.html")
    page = agent_report.read_text(encoding="utf-8")
    changed.write_text(page.replace("wrong workspace", "wrong_workspace"), encoding="utf-8")
    forged = open_page(changed)
    forged.page.click(".check")
    forged.page.wait_for_selector("output.bad")

    assert (
        "102 of 102 lines of this page have the hash that they carry; 101 directly follow the "
        "line before them."
    ) == opened.text("output")
    assert forged.text("output").startswith("100 of 102 lines")


@pytest.mark.parametrize("lines", [0, 1])
def test_hardly_anything(tmp_path: Path, open_page: Open, lines: int) -> None:
    """
    A log with nothing in it, and one with a single event, have their reports too.
    """
    log = tmp_path / "audit.jsonl"
    write_agent_log(log, 0)
    stored = log.read_bytes().splitlines(keepends=True)
    log.write_bytes(b"".join(line for line in stored if b'"run.started"' in line) if lines else b"")

    opened = open_page(write_report(log))

    opened.keep(f"events-{lines}")
    assert f"{lines} " in opened.text(".tiles")
    assert bool(lines) == opened.page.is_visible(".timeline")
    if lines:
        assert ["run r-1"] == opened.rows()
        assert "not ended" in opened.text("#detail")


def test_many(tmp_path: Path, open_page: Open) -> None:
    """
    20,000 events are searched and scrolled through like few: only what is seen is drawn.
    """
    log = tmp_path / "audit.jsonl"
    write_agent_log(log, 2500)
    opened = open_page(write_report(log, Filter(families=(RUN,))))
    page = opened.page

    assert "20,002 of 20,006 records" in opened.text(".claims")
    assert len(opened.rows()) < 100
    page.focus("#list")
    page.keyboard.press("End")
    assert "policy.evaluated opa" == opened.rows()[-1]
    assert len(opened.rows()) < 100
    page.fill("#search", "disk full 2489-1")
    expect(page.locator("#count")).to_have_text(re.compile("^1 of"))
    assert ["run r-1", "tool write_file"] == opened.rows()
    page.click("#row-0")
    opened.keep("many")
    assert "run r-1" == opened.text("#detail h3")


def test_hostile_text(tmp_path: Path, open_page: Open) -> None:
    """
    Markup, escape sequences and bidirectional controls from a log are text, and nothing else.
    """
    log = tmp_path / "audit.jsonl"
    write_hostile_log(log)
    opened = open_page(write_report(log))
    page = opened.page
    page.click("tr[data-row]")
    page.locator(".record summary").first.click()
    opened.keep("hostile")
    said = page.evaluate("document.body.innerText")

    assert 0 == page.locator("img").count()
    assert 2 == page.locator("script").count()
    shown = (
        "</script><img src=x onerror=alert(1)> \\x1b[31mred\\x1b[0m \\u202egnp.exe <!-- &lt; ]]>"
    )
    assert shown in opened.text(".decisions")
    assert shown in opened.text("#row-1")
    assert shown.replace("\\x", "\\u00") in opened.text("#detail")
    assert not {"\x1b", "\u202e"} & set(said)
    assert HOSTILE not in said


def test_nothing_can_be_requested(agent_report: Path, open_page: Open) -> None:
    """
    Even a script within the page could neither ask for anything nor run what it is given.
    """
    opened = open_page(agent_report)
    refused = opened.page.evaluate(
        """async () => {
            const refused = [];
            document.addEventListener("securitypolicyviolation",
                (event) => refused.push(event.effectiveDirective));
            await fetch("http://127.0.0.1:9/").catch(() => {});
            document.body.append(Object.assign(new Image(), { src: "http://127.0.0.1:9/x.png" }));
            document.body.append(Object.assign(document.createElement("script"), { text: "x = 1" }));
            await new Promise((done) => setTimeout(done, 100));
            return refused.sort();
        }"""
    )
    opened.complaints.clear()

    assert ["connect-src", "img-src", "script-src-elem"] == refused
    assert opened.page.evaluate("typeof x") == "undefined"


def test_without_scripts(agent_report: Path, open_page: Open) -> None:
    """
    Without a script, the page has its claims, its decisions, and a table of everything.
    """
    opened = open_page(agent_report, scripts=False)

    opened.keep("without-scripts")
    assert not opened.page.is_visible(".timeline")
    assert "Chain ok" in opened.text(".claims")
    assert 64 == opened.page.locator("noscript tbody tr").count()


def test_paper(agent_report: Path, open_page: Open) -> None:
    """
    On paper there is every row, and nothing to click.
    """
    opened = open_page(agent_report)
    before = len(opened.rows())
    opened.page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    opened.page.emulate_media(media="print")

    opened.keep("paper")
    assert before < 64 == len(opened.rows())
    assert not opened.page.is_visible("#search")
    assert opened.page.evaluate("document.getElementById('inner').clientHeight") >= 64 * 26
    opened.page.emulate_media(media="screen")
    opened.page.evaluate("window.dispatchEvent(new Event('afterprint'))")
    assert before == len(opened.rows())
    assert opened.page.pdf().startswith(b"%PDF")
