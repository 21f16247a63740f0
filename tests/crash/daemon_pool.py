"""A process that has all the daemon needs, and forks one on request.

Python takes half a second to start and to import the daemon, and a tenth of one to put its routes together; a fork
takes 10 ms. What changes nothing on the host is therefore done once, before: the routes, and the look at what the
kernel can (in namespaces of its own, which are gone when it ends). One request a line on stdin, one answer a line on
stdout, both JSON.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import cast

import uvicorn.lifespan.off
import uvicorn.loops.uvloop
import uvicorn.protocols.http.httptools_impl
import uvicorn.protocols.websockets.auto  # noqa: F401 - all of these are imported to be there already

from sandnet import daemon, preparer, statefile
from sandnet.api.app import create_app
from sandnet.api.middleware.normalization import RequestNormalizer
from sandnet.config import Config, load
from sandnet.core.controller import Controller
from sandnet.core.reconcile import drift_watcher
from sandnet.core.recovery import garbage_collector
from sandnet.errors import Error
from sandnet.kernel.linux import feature_probe, host
from sandnet.kernel.linux.pool.preparer_process import PreparerProcess
from sandnet.prerequisites import installed_release
from sandnet.serving import http_server
from sandnet.stores.sqlite import backups
from tests.crash.steps import Recorder, install

PUT_OFF = 3600.0
"""Seconds until the daemon looks for changes by others, collects garbage, and copies its state, by itself."""


class Later(Controller):
    """Stands for the controller that a forked daemon will have; then it is that."""

    def __init__(self) -> None:
        """Nothing yet."""


def prepare() -> Recorder:
    """Do what is the same for every daemon; return what records the steps of this process."""
    later = Later()
    app = create_app(later, version="0")
    missing = feature_probe.missing_features()

    def ready_made(controller: Controller, **_: object) -> RequestNormalizer:
        vars(later).update(vars(controller))
        return app

    http_server.create_app = ready_made  # type: ignore[attr-defined]
    host.missing_features = lambda: dict(missing)  # type: ignore[attr-defined]
    # what comes by the clock would come during anything: repairs and copies have scenarios of their own
    drift_watcher.POLL_INTERVAL = drift_watcher.LONGEST_PAUSE = drift_watcher.FIRST_SCAN_DELAY = PUT_OFF
    garbage_collector.INTERVAL = PUT_OFF  # type: ignore[misc]
    backups.Backups.__init__.__defaults__ = (PUT_OFF, PUT_OFF)
    installed_release()
    recorder = Recorder()
    install(recorder)
    return recorder


def main() -> None:
    """Serve requests until stdin ends."""
    recorder = prepare()
    gc.freeze()
    for line in sys.stdin:
        request = json.loads(line)
        if request["do"] == "wait":
            _, status = os.waitpid(request["pid"], 0)
            answer = os.waitstatus_to_exitcode(status)
        else:
            folder, config = Path(request["folder"]), request["config"]
            answer = start(recorder, request["do"], folder, config, request["overrides"])
        print(json.dumps(answer), flush=True)


def start(recorder: Recorder, what: str, folder: Path, config: str, overrides: dict[str, str]) -> int:
    """The process id of a new daemon, of a ``down``, or of an import of the document in the folder."""
    pid = os.fork()
    if pid:
        return pid
    status = 70
    try:
        log = os.open(folder / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        null = os.open(os.devnull, os.O_RDONLY)
        for source, target in ((null, 0), (log, 1), (log, 2)):
            os.dup2(source, target)
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        if what == "daemon":
            fork_preparer()
        recorder.open(folder / "control", folder / "trace")
        status = live(what, folder, load(config, overrides))
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


class ForkedPreparer:
    """Stands for the ``Popen`` of a process that prepares sandboxes: it has been forked, and gets its arguments now."""

    def __init__(self, pid: int) -> None:
        self.pid = pid

    def kill(self) -> None:
        """End it."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)

    def wait(self, timeout: float) -> None:
        """Wait for its end."""
        os.waitpid(self.pid, 0)


def fork_preparer() -> None:
    """Fork the process that the daemon will start to prepare sandboxes: a Python of its own takes 0.1 s of a processor.

    It waits for its arguments. It notes no steps, and ends with the daemon. Further processes are started as usual.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    pid = os.fork()
    if not pid:
        ours.close()
        where, descriptors, _, _ = socket.recv_fds(theirs, 4096, 1)
        os._exit(preparer.main([str(descriptors[0]), *json.loads(where)]) if descriptors else 0)
    theirs.close()
    forked = [ForkedPreparer(pid)]
    run = PreparerProcess._run

    def start_forked(self: PreparerProcess) -> tuple[subprocess.Popen[bytes], socket.socket]:
        if not forked:
            return run(self)
        control, its_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        control.setblocking(False)
        with its_end:
            socket.send_fds(ours, [json.dumps(self._where).encode()], [its_end.fileno()])
        return cast("subprocess.Popen[bytes]", forked.pop()), control

    PreparerProcess._run = start_forked  # type: ignore[method-assign]


def live(what: str, folder: Path, config: Config) -> int:
    """The whole life of the child; its exit status."""
    try:
        if what == "import":
            statefile.import_state(config, str(folder / "document"), replace=True)
            return 0
        return daemon.run(config) if what == "daemon" else daemon.down(config)
    except Error as failure:
        print(f"sandnet: {failure}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    main()
