"""Draw a report in headless Chromium, in light and dark and at several widths, for this documentation.

    python docs/screenshots.py REPORT FOLDER [--widths 1440 820 390] [--whole]

Writes report-light.png and report-dark.png (the first width), and report-light-WIDTH.png of the other widths. --whole
draws the whole page instead of its first screen.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from headless_chromium import chromium  # of this folder

HEIGHT_PX = 1080


def main() -> None:
    """Draw the page that is named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("report", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--widths", type=int, nargs="+", default=[1440], metavar="PX")
    parser.add_argument("--whole", action="store_true")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    with chromium() as browser:
        for number, width in enumerate(arguments.widths):
            for theme in ("light", "dark"):
                page = browser.new_page(viewport={"width": width, "height": HEIGHT_PX}, color_scheme=theme)
                page.goto(arguments.report.resolve().as_uri())
                page.wait_for_function("window.__ready", timeout=120_000)
                name = f"report-{theme}{f'-{width}' if number else ''}.png"
                page.screenshot(path=arguments.folder / name, full_page=arguments.whole)
                page.close()


if __name__ == "__main__":
    main()
