"""Takes page.png: two windows of the node's page side by side, on a node that runs.

``python docs/images/take_page.py [FILE]``; needs what tests/integration/test_browser.py needs.
Nothing in the picture is drawn by hand: one window types, the other moves the slider, both
are photographed, then put into two frames by a page of their own.
"""

from __future__ import annotations

import base64
import shutil
import sys
from pathlib import Path

from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

from nuntwist.demo import ThrowAwayNode

OPTIONS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
WIDTH, HEIGHT = 600, 790
SENTENCE = "at once"
FRAME = """<!DOCTYPE html><style>
body { margin: 0; width: 1320px; padding: 36px 40px; box-sizing: border-box; display: flex;
  gap: 40px; background: linear-gradient(135deg, #dcdcff, #e9f5ef); }
figure { margin: 0; border-radius: 14px; overflow: hidden; box-shadow: 0 14px 40px #1b192733,
  0 0 0 1px #1b192722; }
figcaption { height: 34px; background: #fff; display: flex; gap: 8px; align-items: center;
  padding: 0 14px; border-bottom: 1px solid #e2e0ec; font: 13px "Liberation Sans", sans-serif;
  color: #615d76; }
i { width: 11px; height: 11px; border-radius: 50%; background: #d5d2e3; }
span { margin-left: 12px; }
img { display: block; width: 600px; }
</style>"""


def window(context: BrowserContext, node: ThrowAwayNode) -> Page:
    """Open the page and wait until it is connected."""
    page = context.new_page()
    page.goto(node.page("board"))
    page.wait_for_selector("#status[data-state=on]")
    return page


def take(browser: Browser, node: ThrowAwayNode) -> list[bytes]:
    """Use two windows, and photograph them."""
    context = browser.new_context(
        viewport={"width": WIDTH, "height": HEIGHT}, device_scale_factor=1.5
    )
    left, right = window(context, node), window(context, node)
    # A first round to warm up, on the page as a person finds it after a moment of playing.
    for step in range(20, 60, 2):
        right.get_by_label("between 0 and 100").fill(str(step))
        right.wait_for_timeout(30)
    left.get_by_label("Type a value").fill("")
    left.get_by_label("Type a value").press_sequentially(SENTENCE, delay=90)
    right.get_by_text(SENTENCE, exact=True).first.wait_for()
    right.wait_for_timeout(1000)
    for page in (left, right):
        page.evaluate("document.activeElement.blur(), scrollTo(0, 0)")
    return [page.screenshot() for page in (left, right)]


def compose(browser: Browser, pictures: list[bytes]) -> bytes:
    """Put the pictures into frames, side by side."""
    page = browser.new_page(viewport={"width": 1320, "height": 900}, device_scale_factor=1.5)
    figures = "".join(
        f'<figure><figcaption><i></i><i></i><i></i><span>{name}</span></figcaption><img src="'
        f'data:image/png;base64,{base64.b64encode(picture).decode()}"></figure>'
        for name, picture in zip(("one window", "another window"), pictures, strict=True)
    )
    page.set_content(FRAME + figures)
    return page.screenshot(full_page=True)


def main() -> None:
    """Write the picture."""
    target = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).with_name("page.png"))
    with ThrowAwayNode(values=[("board", "hello")]) as node, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=OPTIONS)
        target.write_bytes(compose(browser, take(browser, node)))
        browser.close()


if __name__ == "__main__":
    main()
