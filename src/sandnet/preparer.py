"""The program that fills the pool of prepared sandboxes: ``python -m sandnet.preparer DESCRIPTOR [ADDRESS PORT]``.

The daemon starts it with one end of a pair of sockets. For each request it prepares one sandbox and passes the
descriptors to the daemon. It keeps none, and ends when the daemon ends or closes its end.

It runs with a low priority and imports little. Of root's capabilities it keeps those that making a namespace, a
link in it and a socket on port 53 requires.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from ipaddress import ip_address
from typing import Final

from sandnet.kernel.capabilities import (
    CAP_NET_ADMIN,
    CAP_NET_BIND_SERVICE,
    CAP_SYS_ADMIN,
    die_with_parent,
    keep_capabilities,
    raise_oom_score,
)
from sandnet.kernel.linux.pool.messages import send_prepared, send_refusal
from sandnet.kernel.linux.pool.preparation import Listen, close_sandbox, prepare_sandbox

PRIORITY: Final = 5
"""Nice value (setpriority(2)): a third of the weight of a normal process. The lowest, 19, gets a seventieth of a
processor that sandboxes keep busy, and could hold the kernel's lock of links (``rtnl_mutex``) for a fifth of a second
while requests wait for it."""
_CAPABILITIES: Final = (CAP_NET_BIND_SERVICE, CAP_NET_ADMIN, CAP_SYS_ADMIN)


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until the daemon closes its end, and return the exit code."""
    descriptor, *where = sys.argv[1:] if arguments is None else arguments
    listen = Listen(ip_address(where[0]), int(where[1])) if where else None
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the daemon decides
    die_with_parent()
    _lower_priority()
    raise_oom_score()
    keep_capabilities(_CAPABILITIES)
    with socket.socket(fileno=int(descriptor)) as control:
        control.set_inheritable(False)
        # by its main thread a process counts as one inside a namespace, and none may be inside one that is prepared
        serving = threading.Thread(target=_serve, args=(control, listen))
        serving.start()
        serving.join()
    return 0


def _lower_priority() -> None:
    """Lower the priority; one that the daemon lowered further stays, as only ``CAP_SYS_NICE`` may raise it."""
    os.setpriority(os.PRIO_PROCESS, 0, max(PRIORITY, os.getpriority(os.PRIO_PROCESS, 0)))


def _serve(control: socket.socket, listen: Listen | None) -> None:
    with suppress(ConnectionError):
        while control.recv(1):
            _answer(control, listen)


def _answer(control: socket.socket, listen: Listen | None) -> None:
    try:
        prepared = prepare_sandbox(listen)
    except OSError as failure:
        send_refusal(control, failure)
        return
    try:
        send_prepared(control, prepared)
    finally:
        close_sandbox(prepared)


if __name__ == "__main__":
    sys.exit(main())
