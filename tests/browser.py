"""A page in headless Chromium, driven through Debian's chromium-driver: for the tests of report.html."""

import base64
import json
import re
import shutil
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

OPTIONS = {
    "args": ["--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"],
    "binary": shutil.which("chromium"),
}


class Browser:
    """A session of chromedriver: WebDriver's requests, as JSON."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}/session"
        asked = {"goog:chromeOptions": OPTIONS, "goog:loggingPrefs": {"browser": "ALL"}}
        opened = self.post("", {"capabilities": {"alwaysMatch": asked}})
        self.url += "/" + opened["sessionId"]

    def post(self, path: str, body: dict[str, Any]) -> Any:
        request = urllib.request.Request(
            self.url + path, json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)["value"]

    def open(self, page: Path, width: int, dark: bool) -> None:
        """Show a file as a screen of this width does, in one of the two schemes, without a network."""
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        screen = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 600}
        self.devtools("Emulation.setDeviceMetricsOverride", **screen)
        self.devtools("Emulation.setEmulatedMedia", features=scheme)
        self.devtools("Network.enable")
        offline = {"offline": True, "latency": 0, "downloadThroughput": 0, "uploadThroughput": 0}
        self.devtools("Network.emulateNetworkConditions", **offline)
        self.post("/url", {"url": page.as_uri()})

    def devtools(self, command: str, **parameters: Any) -> Any:
        return self.post("/goog/cdp/execute", {"cmd": command, "params": parameters})

    def js(self, body: str, *values: Any) -> Any:
        """What a script returns."""
        return self.post("/execute/sync", {"script": body, "args": list(values)})

    def console(self) -> list[str]:
        """What the console has said since it was last asked."""
        return [line["message"] for line in self.post("/se/log", {"type": "browser"})]

    def picture(self, file: Path) -> None:
        """The whole page as PNG."""
        shot = self.devtools("Page.captureScreenshot", captureBeyondViewport=True)
        file.write_bytes(base64.b64decode(shot["data"]))


@contextmanager
def chromium() -> Iterator[Browser]:
    """A browser of one's own, closed in the end."""
    driver = subprocess.Popen(
        ["chromedriver", "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert driver.stdout is not None
    try:
        port = next(found[1] for line in driver.stdout if (found := re.search(r"on port (\d+)\.", line)))
        browser = Browser(int(port))
        try:
            yield browser
        finally:
            request = urllib.request.Request(browser.url, method="DELETE")
            urllib.request.urlopen(request, timeout=60).close()
    finally:
        driver.terminate()
        driver.wait()
