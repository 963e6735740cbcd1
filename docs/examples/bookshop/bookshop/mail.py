"""A stand-in for a mail service, which keeps its mails in a folder. In your program it is an HTTP client."""

import json
from pathlib import Path

import trio


class Mailer:
    """It refuses each new address once, and answers late as long as there is a file `slow` in its folder."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        self._folder = folder

    async def send(self, to: str, text: str, key: str) -> None:
        """Send a mail. Services ignore a second one with the same key: it is the same mail, tried again."""
        if self._add("addresses.txt", json.dumps(to)):
            raise ConnectionError(f"450 {to} is new here, try again later")
        self._add("mails.txt", json.dumps({"key": key, "to": to, "text": text}))
        while True:
            await trio.sleep(0.1)
            if not (self._folder / "slow").exists():
                return

    def _add(self, file: str, line: str) -> bool:
        """Add a line to a file; False if it is there already."""
        path = self._folder / file
        if path.exists() and line in path.read_text("utf-8").splitlines():
            return False
        with path.open("a", encoding="utf-8") as lines:
            lines.write(f"{line}\n")
        return True
