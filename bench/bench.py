#!/usr/bin/env python3
"""The gateway beside nginx and HAProxy from the distribution, in interleaved rounds on this machine.

    make bench                        every row, beside its goal, in six minutes, behind a `make release`
    bench/bench.py keepalive 16k      these rows
    bench/bench.py -r 9 -d 3 tls      more rounds, longer ones

wxgate does everything it does in production: verifies the session, which a visitor got by logging in with the
emulated WeChat; strips forged identity headers, sets ours, removes its cookie, rebuilds the forwarded headers, counts,
holds to its limits, and writes its access log into a pipe. HAProxy checks the same cookie with the same key; the other
rows of the table check nothing. Load and upstream run on one core, the proxy on another. CPU per request (user and
system, of the proxy's processes) is the figure to trust: requests per second move with the machine.
"""

from __future__ import annotations

import argparse
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from rows import ROWS, Bench, Size
from servers import CORES, Street
from table import HEAD, Figure, summary
from visitor import logged_in

# One short round of each row, which tells nothing but that the row runs and everybody does the work.
SMOKE = Size(rounds=1, seconds=0.3, connections=8, sessions=20, quiet=20, crowd=50, sites=20, starts=1)
TOOLS = {
    "wrk": "wrk",
    "h2load": "nghttp2-client",
    "nginx": "nginx-light",
    "haproxy": "haproxy",
    "openssl": "openssl",
}


def arguments() -> argparse.Namespace:
    rows = "\n".join(f"    {name:<12} {row.__doc__}" for name, row in ROWS.items())
    parser = argparse.ArgumentParser(
        description=f"{__doc__}\nrows:\n{rows}", formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("rows", nargs="*", metavar="ROW", help="which rows; all of them if none is named")
    parser.add_argument("-r", type=int, default=Size.rounds, help="rounds (%(default)s)")
    parser.add_argument("-d", type=float, default=Size.seconds, help="seconds a measurement (%(default)s)")
    parser.add_argument("-c", type=int, default=Size.connections, help="connections (%(default)s)")
    built = Path(__file__).resolve().parent.parent / "target/shipped/wxgate"
    parser.add_argument("--wxgate", default=str(built), help="the program (%(default)s)")
    parser.add_argument("--smoke", action="store_true", help="whether every row runs, in half a minute; no figures")
    args = parser.parse_args()
    for row in args.rows:
        if row not in ROWS:
            parser.error(f"no row is called {row}: {', '.join(ROWS)}")
    return args


def prepared(args: argparse.Namespace) -> Size:
    """Says at once, and all together, what is missing."""
    missing = [package for tool, package in TOOLS.items() if not shutil.which(tool)]
    if missing:
        sys.exit(f"missing: apt-get install {' '.join(missing)}")
    if not os.access(args.wxgate, os.X_OK):
        sys.exit(f"there is no {args.wxgate}: make release")
    if len(CORES) < 2 and not args.smoke:
        sys.exit("needs two cores: one for the load, one for what is measured")
    size = SMOKE if args.smoke else Size(rounds=args.r, seconds=args.d, connections=args.c)
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    wanted = size.crowd + 4_000
    if most != resource.RLIM_INFINITY and most < wanted:
        sys.exit(f"needs {wanted} open files: ulimit -n says {most} at most")
    # Whoever is started has what we have.
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(most, 20_000), most) if most > 0 else (20_000, most))
    return size


def versions(program: str) -> str:
    said = lambda *command: subprocess.run(command, capture_output=True, text=True).stdout
    nginx = subprocess.run(["nginx", "-v"], capture_output=True, text=True).stderr.strip().rpartition("/")[2]
    haproxy = re.search(r"version (\S+)", said("haproxy", "-v"))
    openssl = said("openssl", "version").split()[1]
    wrk = said("wrk", "-v").split(" ")[1]
    h2load = said("h2load", "--version").strip().rpartition("/")[2]
    model = re.search(r"model name\s*:\s*(.*)", Path("/proc/cpuinfo").read_text())
    machine = f"{len(CORES)} cores of {model.group(1) if model else os.uname().machine}, Linux {os.uname().release}"
    return (
        f"{said(program, '--version').strip()}; nginx {nginx}, HAProxy {haproxy and haproxy.group(1)}, "
        f"OpenSSL {openssl}; wrk {wrk}, h2load {h2load}; {machine}"
    )


def main() -> None:
    args = arguments()
    size = prepared(args)
    # Told to end, it ends as after Ctrl-C: everything that was started is stopped.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))
    names, figures, began = args.rows or list(ROWS), [], time.monotonic()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="wxgate-bench-")))
        folder.chmod(0o755)  # nginx's worker is another user
        street = Street(folder, str(Path(args.wxgate).resolve()), stack)
        bench = Bench(street, size, logged_in(street))
        if not args.smoke:
            print(f"{time.strftime('%Y-%m-%d')}: {versions(args.wxgate)}")
            print(f"{size.rounds} rounds of {size.seconds:g} s, {size.connections} connections\n\n{HEAD}", flush=True)
        for name in names:
            of_row: list[Figure] = ROWS[name](bench)
            figures += of_row
            for figure in of_row:
                print(f"{name}: ran" if args.smoke else figure.line(), flush=True)
    took = time.monotonic() - began
    if args.smoke:
        print(f"{len(names)} rows run, in {took:.0f} s")
    else:
        print(f"\n{summary(figures)} {took:.0f} s.")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
