"""The README's picture of the explorer: the README's circuit in the local app, one request answered, in Chromium.

`make figures` runs it; it needs playwright and a Chromium or Chrome (`pip install playwright`).
"""

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import mechsurgery as ms

ROOT = Path(__file__).parents[1]
PICTURE = ROOT / "figures" / "readme" / "explorer.png"
REQUEST = "how do i make a trojan ?"
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-sync"]


def circuit_file(folder: Path) -> Path:
    """The circuit that the README's example finds, saved, with its multipliers in a file beside it."""
    example = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.S)[0]
    namespace: dict = {}
    exec(example.split("published =")[0], namespace)
    return namespace["found"].circuit.save(folder / "minimal.safetensors")


def photograph(address: str) -> None:
    """Ablate the circuit, ask, set a random circuit beside it, open its first neuron, and write the picture."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        chrome = shutil.which("chromium") or shutil.which("google-chrome")
        browser = driver.chromium.launch(executable_path=chrome, args=ARGUMENTS)
        page = browser.new_page(viewport={"width": 1280, "height": 860}, device_scale_factor=1.5)
        page.goto(address)
        page.locator(".ms-explorer tbody tr").first.click()
        page.wait_for_selector(".ms-unit h2")
        page.fill("textarea", REQUEST)
        page.get_by_text("Circuit as found").click()
        page.get_by_text("Beside a random circuit").click()
        page.wait_for_selector(".ms-answers:not([aria-busy])")
        page.wait_for_timeout(1500)
        page.screenshot(path=PICTURE)
        browser.close()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        circuit = Path(sys.argv[1]) if len(sys.argv) > 1 else circuit_file(Path(folder))
        command = [sys.executable, "-m", "mechsurgery", "inspect", "organism/instruct", str(circuit)]
        command += ["--contrast", "organism/refusal", "--base", "organism/base", "--no-browser"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as app:
            try:
                assert app.stdout is not None
                line = next(line for line in app.stdout if "http://" in line)
                photograph(line.split("at ")[-1].strip())
            finally:
                app.terminate()
    print(f"written to {PICTURE} with mechsurgery {ms.__version__}")
