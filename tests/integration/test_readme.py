"""The first session of the README and the examples, as a reader pastes them."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.harness import LIMIT, PASSWORD, USER, Process, clean_environment

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
CHROMIUM = shutil.which("chromium")
PORTS = {"3012": "WebSocket", "3013": "HTTP", "3014": "TCP"}
SESSION = README.partition("## A first session")[2].partition("\n## ")[0]


def session_lines() -> list[str]:
    found = re.findall(r"^```sh\n(.*?)^```", SESSION, re.MULTILINE | re.DOTALL)
    return [line for block in found for line in block.splitlines()]


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    with Process(tmp_path_factory.mktemp("readme")) as node:
        yield node


class Background:
    """A program that goes on until the test ends."""

    def __init__(self, command: list[str]) -> None:
        self.child = subprocess.Popen(
            command,
            cwd=ROOT,
            env=clean_environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
        )

    def line(self) -> str:
        assert self.child.stdout is not None
        return self.child.stdout.readline()

    def __enter__(self) -> Background:
        return self

    def __exit__(self, *_: object) -> None:
        self.child.kill()
        self.child.communicate()


def here(line: str, node: Process) -> list[str]:
    """A line of the README, for the node of this test and this environment."""
    words = shlex.split(line.removesuffix(" &"))
    if words[0] == ".venv/bin/nun-db":
        host = "http://127.0.0.1:3013"
        words[:1] = [sys.executable, "-m", "nuntwist.cli", "-h", host, "-u", USER, "-p", PASSWORD]
    elif words[0] == ".venv/bin/python":
        words[0] = sys.executable
        words += ["--url", "ws://127.0.0.1:3012"] if "watch.py" in line else ["--port", "3014"]
    for port, what in PORTS.items():
        words = [re.sub(rf"\b{port}\b", str(node.address(what)[1]), word) for word in words]
    return words


def run(line: str, node: Process) -> str:
    done = subprocess.run(
        here(line, node),
        cwd=ROOT,
        env=clean_environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=LIMIT,
    )
    assert done.returncode == 0, done
    return done.stdout


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_first_session(node: Process) -> None:
    create, watch, vote, commands, explain, presence = session_lines()
    assert "create-db success" in run(create, node)
    with Background(here(watch, node)) as watcher:
        assert watcher.line() == "value <Empty>\n"
        assert run(vote, node) == "empty;empty;value 1\n"
        assert watcher.line() == "changed votes 1\n"
        assert "value 42" in run(commands, node)
        assert watcher.line() == "changed votes 41\n"
        assert watcher.line() == "changed votes 42\n"
    assert "watch KEY" in run(explain, node)
    with Background(here(presence, node)) as counter:
        assert counter.line() in ("here: 1\n", "here: 2\n")
        node.post("use-db poll poll-token")
        assert counter.line().startswith("here: ")
    for said in ("value <Empty>", "empty;empty;value 1", "changed votes 1"):
        assert f"`{said}`" in SESSION


def test_an_example_says_why_it_was_refused(node: Process) -> None:
    for example in ("watch.py poll wrong key", "presence.py poll wrong"):
        done = subprocess.run(
            here(f".venv/bin/python examples/{example}", node),
            cwd=ROOT,
            env=clean_environment(),
            capture_output=True,
            text=True,
            timeout=LIMIT,
        )
        assert "the node refused: " in done.stderr
        assert "Traceback" not in done.stderr


@pytest.fixture
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api")
    if CHROMIUM is None:
        pytest.skip("no chromium is installed")
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=options)
        yield browser
        browser.close()


@pytest.mark.browser
def test_the_lines_for_a_browser(node: Process, browser: Any) -> None:
    node.admin("create-db poll poll-token")
    (script,) = re.findall(r"^```js\n(.*?)^```", SESSION, re.MULTILINE | re.DOTALL)
    address = f"127.0.0.1:{node.address('WebSocket')[1]}"
    page = browser.new_page()
    page.goto(f"http://127.0.0.1:{node.address('HTTP')[1]}/")
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text.rstrip()))
    page.evaluate(f"() => {{ {script.replace('127.0.0.1:3012', address)} }}")
    for _ in range(6_000):
        if said.count("ok") == 3:
            break
        page.wait_for_timeout(10)
    assert said[:3] == ["ok", "ok", "changed votes 43"]


@pytest.mark.browser
def test_the_poll_is_live_in_two_windows(node: Process, browser: Any) -> None:
    node.admin("create-db ballot ballot-token")
    address = f"ws://127.0.0.1:{node.address('WebSocket')[1]}"
    path = f"file://{ROOT}/examples/poll.html?ws={address}#ballot:ballot-token"
    left, right = browser.new_page(), browser.new_page()
    for page in (left, right):
        page.goto(path)
        page.get_by_text("live").wait_for()
    left.get_by_role("button", name="Tabs").click()
    right.locator("#tabs", has_text="1").wait_for()
    right.get_by_role("button", name="Tabs").click()
    right.get_by_role("button", name="Spaces").click()
    left.locator("#tabs", has_text="2").wait_for()
    left.locator("#spaces", has_text="1").wait_for()
    later = browser.new_page()
    later.goto(path)
    later.locator("#tabs", has_text="2").wait_for()
