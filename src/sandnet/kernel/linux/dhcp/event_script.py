"""The script that udhcpc starts at each event, with the event's name; it leaves a report in the current directory.

It runs as the client's user and with the client's few rights, by any Python 3 of the machine, so it imports nothing of
sandnet. What the server stated is in the environment. Nothing of it is interpreted here: the daemon reads the report as
a stranger's message.
"""

import json
import os
import sys
import time

REPORT = "report"
VALUES = ("ip", "subnet", "router", "dns", "domain", "serverid", "lease")
LONGEST = 1024
"""Bytes of a value."""


def main(event: str) -> None:
    """Leave a report of an event; those that change nothing are not reported."""
    if event in ("bound", "renew"):
        _leave(event, {name: _text(name) for name in VALUES if name in os.environ})
    elif event == "deconfig" and os.path.exists(REPORT):  # else the client has just been started
        _leave(event, {})


def _text(name: str) -> str:
    return os.environb[name.encode()][:LONGEST].decode("latin-1")


def _leave(event: str, values: dict[str, str]) -> None:
    content = json.dumps({"event": event, "at": time.time(), "values": values})
    with open(REPORT + ".new", "w", encoding="ascii") as file:
        file.write(content)
    os.rename(REPORT + ".new", REPORT)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "")
