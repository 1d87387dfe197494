"""A real browser without a window, driven through the pipe of its DevTools protocol: chromium of Debian's packages.

Nothing but the standard library: requests and events are JSON texts that end in NUL.
"""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import time
from pathlib import Path

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
    "--no-first-run",
)
SILENT = ("--disable-background-networking", "--disable-component-update", "--disable-sync", "--remote-debugging-pipe")
PATIENCE = 120  # seconds; the machine may be busy


class Browser:
    """One page, with what it logs and asks the network for."""

    def __init__(self, profile: Path):
        to_browser, ours = os.pipe()
        theirs, from_browser = os.pipe()
        command = [CHROMIUM, *FLAGS, *SILENT, f"--user-data-dir={profile}", "about:blank"]
        # The protocol is spoken over the descriptors 3 and 4.
        script = f'exec "$@" 3<&{to_browser} 4>&{from_browser}'
        self.process = subprocess.Popen(
            ["bash", "-c", script, "bash", *command],
            pass_fds=(to_browser, from_browser),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(to_browser), os.close(from_browser)
        self.out, self.into = ours, theirs
        self.number, self.rest, self.session = 0, b"", None
        self.events: list[dict] = []
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.ask(f"{domain}.enable")

    def close(self) -> None:
        os.close(self.out)  # it ends with its pipe
        try:
            self.process.wait(PATIENCE)
        finally:
            self.process.kill()
            os.close(self.into)

    def receive(self) -> dict:
        """The next answer or event. Raises TimeoutError, and EOFError if the browser has gone."""
        end = time.monotonic() + PATIENCE
        while b"\0" not in self.rest:
            if not select.select([self.into], [], [], max(0, end - time.monotonic()))[0]:
                raise TimeoutError("the browser does not answer")
            more = os.read(self.into, 1 << 20)
            if not more:
                raise EOFError("the browser has gone")
            self.rest += more
        message, self.rest = self.rest.split(b"\0", 1)
        return json.loads(message)

    def ask(self, method: str, **parameters) -> dict:
        """A command's result. Raises ValueError with what the browser says if it refuses."""
        self.number += 1
        message = {"id": self.number, "method": method, "params": parameters}
        message |= {"sessionId": self.session} if self.session else {}
        text = json.dumps(message).encode() + b"\0"
        while text:
            text = text[os.write(self.out, text) :]
        while (answer := self.receive()).get("id") != self.number:
            self.events.append(answer)
        if "error" in answer:
            raise ValueError(f"{method}: {answer['error']['message']}")
        return answer["result"]

    def wait(self, event: str) -> None:
        while not any(seen["method"] == event for seen in self.events):
            self.events.append(self.receive())

    def open(self, file: Path, width: int, height: int = 800, dark: bool = False, script: bool = True) -> None:
        """Load a file on a screen of `width` CSS pixels, a phone's if it is narrow, and wait until all is drawn."""
        self.events.clear()
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.ask("Emulation.setDeviceMetricsOverride", **size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.ask("Emulation.setEmulatedMedia", features=[scheme])
        self.ask("Emulation.setScriptExecutionDisabled", value=not script)
        self.ask("Page.navigate", url=file.absolute().as_uri())
        self.wait("Page.loadEventFired")

    def evaluate(self, script: str):
        """The value of a JavaScript expression in the page. Raises ValueError if it throws."""
        found = self.ask("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in found:
            raise ValueError(found["exceptionDetails"]["exception"].get("description", "the script threw"))
        return found["result"].get("value")

    def move(self, x: float, y: float) -> None:
        """The mouse pointer to a place of the window."""
        self.ask("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def complaints(self) -> list[str]:
        """What the page has written to the console, thrown, or been refused."""
        found = []
        for event in self.events:
            details = event.get("params", {})
            if event["method"] == "Runtime.exceptionThrown":
                found.append(details["exceptionDetails"]["text"])
            elif event["method"] == "Runtime.consoleAPICalled":
                found.append(f"console.{details['type']}")
            elif event["method"] == "Log.entryAdded":
                found.append(details["entry"]["text"])
        return found

    def requested(self) -> list[str]:
        """The addresses that the page asked for, but for what it holds itself (data:)."""
        asked = [e["params"]["request"]["url"] for e in self.events if e["method"] == "Network.requestWillBeSent"]
        return [url for url in asked if not url.startswith("data:")]

    def screenshot(self, file: Path, whole: bool = False) -> None:
        picture = self.ask("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        file.write_bytes(base64.b64decode(picture["data"]))
