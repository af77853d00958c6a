"""The node's page in a real browser: two windows, one change, seen in both.

Needs Playwright for Python and a `chromium` on the path (Debian: ``apt install chromium``);
skipped with a message without them.  The node is the real one, in a process of its own.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from nuntwist.demo import NODE, ThrowAwayNode
from tests.ports import free_ports

playwright = pytest.importorskip(
    "playwright.sync_api", reason="Playwright for Python is not installed"
)
CHROMIUM = shutil.which("chromium")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium is installed"),
]

BROWSER_OPTIONS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
SECONDS = 60
"""For all that a page waits for; nothing takes that long on a healthy machine."""
FIELD = "Type a value"
Open = Callable[..., Any]
Page = Any


@pytest.fixture(scope="module")
def node() -> Iterator[ThrowAwayNode]:
    with ThrowAwayNode(free_ports(3), NODE) as node:
        yield node


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright.expect.set_options(timeout=SECONDS * 1000)
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=BROWSER_OPTIONS)
        yield browser
        browser.close()


@pytest.fixture
def complaints() -> list[str]:
    """What the browser complains of: script errors, console errors, policy violations."""
    return []


@pytest.fixture
def open_page(browser: Any, node: ThrowAwayNode, complaints: list[str]) -> Iterator[Open]:
    """Opens windows of one browser on the node's page, connected unless told otherwise.

    At the end the browser must have complained of nothing the test did not take note of.
    """
    context = browser.new_context()
    context.set_default_timeout(SECONDS * 1000)

    def open_page(key: str = "board", address: str | None = None, online: bool = True) -> Page:
        page = context.new_page()
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on(
            "console",
            lambda message: complaints.append(message.text) if message.type == "error" else None,
        )
        page.goto(address or node.page(key))
        if online:
            expect(page.locator("#status")).to_have_text("Connected to demo")
        return page

    yield open_page
    context.close()
    assert complaints == []


def expect(locator: Any) -> Any:
    return playwright.expect(locator)


def value(page: Page) -> Any:
    return page.locator("#value")


def row(page: Page, number: int = 0) -> list[str]:
    """The cells of a line of the list of changes, the newest first."""
    return list(page.locator("#rows tr").nth(number).locator("td").all_inner_texts())


def test_what_is_set_in_one_window_is_seen_in_the_other(
    open_page: Open, node: ThrowAwayNode
) -> None:
    node.run(["set board hello"])
    left, right = open_page(), open_page()
    expect(value(left)).to_have_text("hello")
    expect(value(right)).to_have_text("hello")
    left.get_by_label("Send each letter").uncheck()
    left.get_by_label(FIELD).fill("good morning")
    expect(value(left)).to_have_text("hello")
    left.get_by_role("button", name="Set", exact=True).click()
    for page in (left, right):
        expect(value(page)).to_have_text("good morning")
        expect(page.get_by_label(FIELD)).to_have_value("good morning")
    for page, sender in ((left, "this window"), (right, "other window")):
        # The sender of a change may be known a moment after the change itself.
        expect(page.locator("#rows tr").first).to_contain_text(sender)
        arrived, shown, _version, _sender, took = row(page)
        assert re.fullmatch(r"\d\d:\d\d:\d\d\.\d{3}", arrived)
        assert shown == "good morning"
        assert re.fullmatch(r"[\d.]+ ms", took)
    assert node.run(["get board"]) == "value good morning\n"


def test_typing_arrives_letter_by_letter(open_page: Open, node: ThrowAwayNode) -> None:
    left, right = open_page("letters"), open_page("letters")
    expect(value(right)).to_have_text("nothing stored")
    left.get_by_label(FIELD).press_sequentially("abc d", delay=30)
    expect(value(right)).to_have_text("abc d")
    assert [row(right, n)[1] for n in range(5)] == ["abc d", "abc ", "abc", "ab", "a"]


def test_the_slider_moves_in_both_windows(open_page: Open) -> None:
    left, right = open_page("level"), open_page("level")
    left.get_by_label("between 0 and 100").fill("73")
    expect(value(right)).to_have_text("73")
    expect(right.get_by_label("between 0 and 100")).to_have_value("73")


def test_a_change_from_another_program_is_told_as_such(
    open_page: Open, node: ThrowAwayNode
) -> None:
    page = open_page()
    node.run(["set board from a program"])
    expect(value(page)).to_have_text("from a program")
    assert row(page)[3:] == ["elsewhere", "\u2013"]
    node.run(["remove board"])
    expect(value(page)).to_have_text("nothing stored")
    assert row(page)[1] == "removed"


def test_markup_in_a_value_or_a_key_is_shown_as_text(open_page: Open, node: ThrowAwayNode) -> None:
    text = "<script>window.hurt = 1</script><img src=x onerror=window.hurt=1>"
    key = "<b>key</b>"
    page = open_page()
    node.run([f"set board {text}", f"set {key} 1"])
    expect(value(page)).to_have_text(text)
    assert row(page)[1] == text
    page.get_by_role("button", name="List keys").click()
    expect(page.get_by_role("button", name=key)).to_be_visible()
    assert page.evaluate("window.hurt") is None
    node.run([f"remove {key}"])


def test_keys_are_listed_and_one_click_watches_another(
    open_page: Open, node: ThrowAwayNode
) -> None:
    node.run(["set menu/today soup", "set menu/tomorrow fish", "set board x"])
    page = open_page()
    page.get_by_role("textbox", name="Part of the name").fill("menu/*")
    page.get_by_role("button", name="List keys").click()
    expect(page.locator("#keys button")).to_have_text(["menu/today", "menu/tomorrow"])
    expect(page.locator("#count")).to_have_text("2 keys")
    page.get_by_role("button", name="menu/tomorrow").click()
    expect(value(page)).to_have_text("fish")
    node.run(["set board unseen", "set menu/tomorrow pasta"])
    expect(value(page)).to_have_text("pasta")
    assert page.locator("#rows tr").count() == 1


def test_the_number_of_connections_is_shown(open_page: Open) -> None:
    page = open_page()
    expect(page.locator("#connections")).to_contain_text("1 connection")
    other = open_page()
    expect(page.locator("#connections")).to_contain_text("2 connections")
    other.close()
    expect(page.locator("#connections")).to_contain_text("1 connection")


def test_what_cannot_be_a_value_is_told_and_not_sent(open_page: Open, node: ThrowAwayNode) -> None:
    page = open_page()
    page.get_by_label(FIELD).fill("one")
    expect(value(page)).to_have_text("one")
    page.get_by_label(FIELD).fill("one; remove board")
    expect(page.get_by_role("alert")).to_contain_text("semicolon")
    assert node.run(["get board"]) == "value one\n"


@pytest.mark.parametrize(
    ("database", "token", "words"),
    [("demo", "wrong", "token is not the one"), ("nowhere", None, "no database of this name")],
)
def test_a_refusal_is_told_in_plain_words(
    open_page: Open, node: ThrowAwayNode, database: str, token: str | None, words: str
) -> None:
    address = f"{node.address}/#db={database}&token={token or node.token}&key=board"
    page = open_page(address=address, online=False)
    expect(page.get_by_role("alert")).to_contain_text(words)
    expect(page.locator("#status")).to_have_text("Not connected.")
    expect(page.get_by_label("Token")).to_be_visible()


def test_a_token_typed_in_stays_out_of_the_address(open_page: Open, node: ThrowAwayNode) -> None:
    page = open_page(address=node.address, online=False)
    page.get_by_label("Database").fill(node.database)
    page.get_by_label("Token").fill(node.token)
    page.get_by_role("textbox", name="Key", exact=True).fill("board")
    page.get_by_role("button", name="Connect").click()
    expect(page.locator("#status")).to_have_text("Connected to demo")
    assert "key=board" in page.url
    assert node.token not in page.url


def test_it_connects_again_after_the_node_was_restarted(
    open_page: Open, node: ThrowAwayNode, complaints: list[str]
) -> None:
    page = open_page()
    page.get_by_label(FIELD).fill("kept")
    expect(value(page)).to_have_text("kept")
    node.stop()
    expect(page.locator("#status")).to_contain_text("Trying again")
    expect(page.get_by_label(FIELD)).to_be_disabled()
    node.start()
    expect(page.locator("#status")).to_have_text("Connected to demo")
    expect(value(page)).to_have_text("kept")
    node.run(["set board after"])
    expect(value(page)).to_have_text("after")
    # While the node was down the browser reports each attempt.
    complaints[:] = [text for text in complaints if "WebSocket connection to" not in text]


def test_the_policy_holds(open_page: Open, node: ThrowAwayNode, complaints: list[str]) -> None:
    page = open_page()
    page.evaluate(
        """() => { const script = document.createElement("script");
        script.textContent = "window.hurt = 1"; document.body.append(script); }"""
    )
    assert page.evaluate("window.hurt") is None
    tried = page.evaluate("url => fetch(url).then(() => 'sent', () => 'blocked')", node.address)
    assert tried == "blocked"
    assert len(complaints) >= 2
    assert all("Content Security Policy" in text for text in complaints)
    complaints.clear()
