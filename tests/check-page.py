"""Checks pages in a real Chromium. Started by tests/check-page."""

import argparse
import os
import shutil
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

# Name, width and height of the window, colours.
LOOKS = [("light", 1280, 900, "light"), ("dark", 1280, 900, "dark"), ("phone", 390, 844, "light")]

# What the page is asked. A chart shows if its lines have a size and a colour that is not the drawing's
# own, which has no green and no blue.
SIZES = """() => ({
    page: [document.documentElement.scrollWidth, window.innerWidth],
    charts: [...document.querySelectorAll('figure svg')].map(svg => svg.getBoundingClientRect().height),
    undrawn: [...document.querySelectorAll('svg [stroke^="#"], svg [fill^="#"]')].filter(shape => {
        const style = getComputedStyle(shape);
        return [style.stroke, style.fill].some(colour => /^rgba?\\(\\d+, 0, 0\\b/.test(colour)
            && !/^rgba?\\(0, 0, 0/.test(colour));
    }).length,
    outside: [...document.querySelectorAll('table, svg')].filter(wide => !wide.closest('.wide')).length,
})"""


def chromium():
    found = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    return found or sys.exit("check-page: no chromium on the PATH; apt install chromium, or set CHROMIUM")


def check(browser, page_path, look, shots):
    """What is wrong with a page in one look."""
    name, width, height, colours = look
    window = browser.new_page(viewport={"width": width, "height": height}, color_scheme=colours)
    wrong = []
    window.on("console", lambda said: wrong.append(f"console: {said.text}") if said.type in ("error", "warning") else None)
    window.on("pageerror", lambda error: wrong.append(f"error: {error}"))
    window.on("request", lambda asked: None if asked.url.startswith("file:") else wrong.append(f"asks for {asked.url}"))
    window.goto(page_path.resolve().as_uri(), wait_until="load")
    seen = window.evaluate(SIZES)
    if seen["page"][0] > seen["page"][1]:
        wrong.append(f"{seen['page'][0]} pixels wide in a window of {seen['page'][1]}")
    if not seen["charts"] or min(seen["charts"]) < 100:
        wrong.append(f"charts of these heights: {seen['charts']}")
    if seen["undrawn"] or seen["outside"]:
        wrong.append(f"{seen['undrawn']} shapes without a colour, {seen['outside']} wide things without a box")
    if shots:
        window.screenshot(path=shots / f"{page_path.stem}-{name}.png", full_page=True)
        if name == "light":
            window.pdf(path=shots / f"{page_path.stem}.pdf", format="A4", margin=dict.fromkeys(("top", "bottom", "left", "right"), "15mm"))
    window.close()
    return [f"{page_path} ({name}): {one}" for one in wrong]


def main():
    parser = argparse.ArgumentParser(prog="tests/check-page")
    parser.add_argument("--shots", type=Path, metavar="DIR", help="where screenshots and a PDF go")
    parser.add_argument("pages", nargs="+", type=Path, metavar="PAGE.html")
    typed = parser.parse_args()
    if typed.shots:
        typed.shots.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as driver:
        # Its own sandbox needs what a container or root does not have; the page is ours.
        browser = driver.chromium.launch(executable_path=chromium(), args=["--no-sandbox"])
        wrong = [line for page in typed.pages for look in LOOKS for line in check(browser, page, look, typed.shots)]
        browser.close()
    print("\n".join(wrong) or f"{len(typed.pages)} pages, {len(LOOKS)} looks each: nothing wrong")
    sys.exit(1 if wrong else 0)


main()
