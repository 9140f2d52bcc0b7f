#!/usr/bin/env python3
"""What it costs to record a request: its metrics, its access line, the `traceparent` that the site gets.

    cargo build --release --locked --features benching && bench/recording.py

One program, told to leave something out (WXGATE_LEAVES_OUT, which no other build knows), beside itself with everything:
many short rounds in turn, so that what disturbs the machine disturbs all of them. A figure is CPU of a request, user and
system; what a recording costs is the median over the rounds of what is saved without it, of the same round. `nothing` is
the program beside itself: what it shows is the noise of the measurement.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import statistics
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

from loads import wrk
from rows import Bench, Size
from servers import Server, Street
from visitor import logged_in

LEFT_OUT = {
    "nothing": "",
    "metrics": "metrics",
    "access line": "access_log",
    "traceparent": "traceparent",
    "all three": "metrics,access_log,traceparent",
}
EVERYTHING = "everything"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-r", type=int, default=40, help="rounds (%(default)s)")
    parser.add_argument("-d", type=float, default=0.4, help="seconds a measurement (%(default)s)")
    built = Path(__file__).resolve().parent.parent / "target/release/wxgate"
    parser.add_argument("--wxgate", default=str(built), help="the program (%(default)s)")
    return parser.parse_args()


def main() -> None:
    args = arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="wxgate-bench-")))
        folder.chmod(0o755)  # nginx's worker is another user
        street = Street(folder, str(Path(args.wxgate).resolve()), stack)
        bench = Bench(street, Size(rounds=args.r, seconds=args.d), logged_in(street))
        servers: dict[str, Server] = {}
        for name, words in {EVERYTHING: "", **LEFT_OUT}.items():
            os.environ["WXGATE_LEAVES_OUT"] = words
            servers[name] = street.wxgate()
            bench.check(servers[name])
        load = bench.load()
        used: dict[str, list[float]] = {name: [] for name in servers}
        for server in servers.values():
            wrk(server, load, 0.3)
        for _ in range(args.r):
            for name in random.sample(list(servers), len(servers)):
                sample = bench.measure(servers[name], lambda: wrk(servers[name], load, args.d))
                used[name].append(sample.cpu)
    everything = used[EVERYTHING]
    whole = statistics.median(everything)
    print(f"{args.r} rounds of {args.d:g} s; a request with everything: {whole:.2f} µs of CPU\n")
    print("| left out | saved: median of the rounds | half of the rounds lie between |\n|---|--:|--:|")
    for name in LEFT_OUT:
        saved = [(all_of_it - without) / all_of_it * 100 for all_of_it, without in zip(everything, used[name])]
        low, middle, high = statistics.quantiles(saved, n=4)
        print(f"| {name} | {middle:.1f} % ({middle * whole / 100:.2f} µs) | {low:.1f} % … {high:.1f} % |")


if __name__ == "__main__":
    main()
