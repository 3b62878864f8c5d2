"""A page as PDF, printed by Chromium, where it is installed."""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from side_ray.errors import UserError

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "msedge")
SECONDS = 120
_QUIET = (
    "--headless",
    "--disable-gpu",
    "--no-first-run",
    "--disable-sync",
    "--disable-background-networking",
    "--disable-quic",
)


def chromium() -> str | None:
    """The path of a Chromium or Chrome on this machine."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


def print_pdf(html: str) -> bytes:
    """A page as PDF, A4, with page numbers.

    Raises:
        UserError: there is no Chromium, or it made no PDF.
    """
    browser = chromium()
    if browser is None:
        raise UserError(
            "a PDF takes Chromium or Chrome on this machine, and there is none: install it, or print the page"
        )
    with tempfile.TemporaryDirectory(prefix="side-ray-pdf-") as directory:
        page, out = Path(directory) / "page.html", Path(directory) / "page.pdf"
        page.write_text(html, encoding="utf-8")
        # Chromium's sandbox does not start for root. The page has no network, by its own policy.
        root = ("--no-sandbox",) if os.geteuid() == 0 else ()
        profile = f"--user-data-dir={directory}/profile"
        command = [browser, *_QUIET, *root, profile, "--no-pdf-header-footer", f"--print-to-pdf={out}", page.as_uri()]
        try:
            subprocess.run(command, capture_output=True, timeout=SECONDS, check=True)
            return out.read_bytes()
        except (subprocess.SubprocessError, OSError) as error:
            raise UserError(f"{browser} could not print the page ({type(error).__name__}); print it by hand") from None
