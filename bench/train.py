#!/usr/bin/env python3
"""The work that wxgate is optimised for: bench/train.py PROGRAM

PROGRAM was built to count what it does, and writes the counts when it ends (bench/release.sh). It does here what a
gateway does: mostly pages for visitors it knows, over HTTP/1.1 and HTTP/2, with TLS and without; and first visits, logins,
uploads, long answers, new connections. The compiler then lays out what happened often to be fast, and the rest to be
small: whatever is asked a lot in production and not here would be slower for it.
"""

from __future__ import annotations

import signal
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from loads import each_in_turn, multiplexed, strangers, wrk
from rows import Bench, Size
from servers import HOST, Server, Street
from visitor import ask, logged_in

# Seconds of each kind of work: the shares matter, hardly the length.
PAGES, OFTEN, SOME = 3, 2, 0.5


def work(bench: Bench, gateway: Server) -> None:
    load, folder = bench.load, bench.street.folder
    sessions = [bench.visitor.login(f"http://{HOST}") for _ in range(500)]
    several = [
        (PAGES, load()),
        (OFTEN, load(session="", script=each_in_turn(folder, sessions))),
        (OFTEN, load(secure=True)),
        (SOME, load(session="")),
        (SOME, load("/news/", session="")),
        (SOME, load(more={"Connection": "close"})),
        (SOME, load("/16k")),
        (SOME, load("/1m", connections=16)),
        (SOME, load("/1m", connections=16, secure=True)),
        (SOME, load("/sink", script=folder / "upload-16k.lua")),
        (SOME, load("/sink", script=folder / "upload-1m.lua", connections=16)),
    ]
    for seconds, kind in several:
        wrk(gateway, kind, seconds)
    multiplexed(gateway, load(secure=True), OFTEN, bench.log)
    strangers(gateway, load(secure=True), SOME, bench.log)


def speak_http2(street: Street, gateway: Server) -> None:
    """To the site, from now on."""
    path = gateway.config or sys.exit("no configuration")
    before = path.read_text()
    path.write_text(before.replace(f':{street.upstream}"]', f':{street.upstream_http2}"]\nupstream_http = "2"'))
    gateway.process.send_signal(signal.SIGHUP)
    for _ in range(500):
        if ask(gateway, "/static/protocol", {}).text() == "HTTP/2.0":
            return
        time.sleep(0.01)
    sys.exit("the gateway does not speak HTTP/2 to the site")


def main() -> None:
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        sys.exit(__doc__)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="wxgate-train-")))
        folder.chmod(0o755)  # nginx's worker is another user
        street = Street(folder, str(Path(sys.argv[1]).resolve()), stack)
        bench = Bench(street, Size(), logged_in(street))
        gateway = street.known("wxgate")
        bench.check(gateway)
        work(bench, gateway)
        speak_http2(street, gateway)
        wrk(gateway, bench.load(), OFTEN)


if __name__ == "__main__":
    main()
