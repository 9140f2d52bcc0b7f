"""What is measured: one function per row of the goals, each of which gives figures."""

from __future__ import annotations

import os
import signal
import statistics
import sys
import threading
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Iterator

from loads import Answered, Load, each_in_turn, multiplexed, steady, strangers, wrk
from servers import CORES, HOST, Server, Street
from table import Figure, Sample, median, ratio, spread
from visitor import HEADERS, Visitor, ask, check, hold


@dataclass
class Size:
    """How much of everything."""

    rounds: int = 5
    seconds: float = 1.5
    connections: int = 64
    sessions: int = 20_000
    quiet: int = 1_000
    crowd: int = 10_000
    sites: int = 1_000
    starts: int = 7


# Values of `verified_cache`, the default first.
CACHES = ["64MiB", "32MiB", "8MiB", "1MiB", "0"]

Send = Callable[[Server, Load, float], Answered]


class Bench:
    """Everything the rows need."""

    def __init__(self, street: Street, size: Size, who: tuple[Visitor, str, str, str]):
        self.street, self.size = street, size
        self.visitor, self.session, self.secure_session, self.openid = who
        self.log = street.folder / "h2load.log"

    def contenders(self, *names: str, secure: bool = False) -> dict[str, Server]:
        servers = {name: self.street.known(name) for name in names}
        for server in servers.values():
            self.check(server, secure)
        return servers

    def check(self, server: Server, secure: bool = False) -> None:
        check(server, self.secure_session if secure else self.session, self.openid, secure)

    def load(self, path: str = "/", **more) -> Load:
        session = self.secure_session if more.get("secure") else self.session
        return Load(**{"path": path, "session": session, "connections": self.size.connections, **more})

    def measure(self, server: Server, load: Callable[[], Answered]) -> Sample:
        before = server.cpu()
        answered = load()
        used = server.cpu() - before
        return Sample(used / answered.requests * 1e6, answered.requests / answered.seconds, answered.p99)

    def rounds(self, runs: dict[str, tuple[Server, Load]], send: Send = wrk) -> dict[str, list[Sample]]:
        """Everybody in turn, round after round, so that what disturbs the machine disturbs all."""
        seconds = self.size.seconds
        samples: dict[str, list[Sample]] = {name: [] for name in runs}
        for server, load in runs.values():
            send(server, load, min(seconds, 0.3))
        for _ in range(self.size.rounds):
            for name, (server, load) in runs.items():
                samples[name].append(self.measure(server, lambda: send(server, load, seconds)))
        return samples

    def same_work(self, load: Load, *names: str) -> dict[str, list[Sample]]:
        servers = self.contenders(*names, secure=load.secure)
        return self.rounds({name: (server, load) for name, server in servers.items()})

    @contextmanager
    def own(self, make: Callable[[], Server]) -> Iterator[Server]:
        """A contender of this row's own, which has served nobody yet."""
        server = make()
        try:
            yield server
        finally:
            server.stop()


def keepalive(bench: Bench) -> list[Figure]:
    """1 KiB, keep-alive, a session on each request"""
    names = ["wxgate", "HAProxy, JWT", "nginx", "HAProxy", "TCP"]
    all_of_them = bench.same_work(bench.load(), *names)
    ours = all_of_them["wxgate"]
    against = lambda what, name, words, limit: Figure(
        what, spread(ours), f"{words} {spread(all_of_them[name])}", ratio(ours, all_of_them[name]), limit
    )
    figures = [
        against("1 KiB with a session", "HAProxy, JWT", "HAProxy, JWT", 0.64),
        against("the same, by nginx", "nginx", "nginx, no login", 0.90),
        against("the same, by HAProxy", "HAProxy", "HAProxy, no login", None),
        against("the same, by two sockets (a further wish)", "TCP", "two sockets, no HTTP", 1.15),
    ]
    p99 = {name: statistics.median(it.p99 for it in samples) for name, samples in all_of_them.items()}
    rate = statistics.median(it.rate for it in ours)
    figures.append(Figure("the same as fast as it goes, p99", f"{p99['wxgate']:.1f} ms at {rate:,.0f}/s", f"nginx {p99['nginx']:.1f} ms"))
    return figures


def first_visit(bench: Bench) -> list[Figure]:
    """a visitor without a session: 302 to WeChat"""
    servers = bench.contenders("wxgate", "nginx")
    paths = {"wxgate": "/", "nginx": "/first"}
    for name, server in servers.items():
        page = ask(server, paths[name], {})
        if page.status != 302 or "/connect/oauth2/authorize?" not in page.location():
            sys.exit(f"{name} sends nobody to WeChat: {page}")
    none = {name: bench.load(paths[name], session="") for name in servers}
    all_of_them = bench.rounds({name: (server, none[name]) for name, server in servers.items()})
    ours, theirs = all_of_them["wxgate"], all_of_them["nginx"]
    return [Figure("first visit: 302 to WeChat", spread(ours), f"nginx `return 302` {spread(theirs)}", ratio(ours, theirs), 1.3)]


def _better(what: str, bench: Bench, load: Load, limit: float | None) -> list[Figure]:
    """Beside nginx without a login or HAProxy with JWT, whichever is better."""
    gateway = bench.street.known("wxgate")
    all_of_them = bench.same_work(load, "wxgate", "HAProxy, JWT", "nginx")
    ours = all_of_them["wxgate"]
    best = min(["HAProxy, JWT", "nginx"], key=lambda name: statistics.median(it.cpu for it in all_of_them[name]))
    other = "nginx" if best == "HAProxy, JWT" else "HAProxy, JWT"
    beside = f"{best} {spread(all_of_them[best])}; {other} {median(all_of_them[other])}"
    held = f"; {gateway.memory('Rss:') / 1024:.0f} MiB RSS after it"
    return [Figure(what, spread(ours) + held, beside, ratio(ours, all_of_them[best]), limit)]


def answers_16k(bench: Bench) -> list[Figure]:
    """answers of 16 KiB"""
    return _better("16 KiB answers", bench, bench.load("/16k"), 0.90)


def answers_1m(bench: Bench) -> list[Figure]:
    """answers of 1 MiB"""
    return _better("1 MiB answers", bench, bench.load("/1m", connections=16), 0.50)


def uploads_16k(bench: Bench) -> list[Figure]:
    """uploads of 16 KiB"""
    load = bench.load("/sink", script=bench.street.folder / "upload-16k.lua")
    return _better("16 KiB uploads", bench, load, 0.45)


def uploads_1m(bench: Bench) -> list[Figure]:
    """uploads of 1 MiB"""
    load = bench.load("/sink", script=bench.street.folder / "upload-1m.lua", connections=16)
    return _better("1 MiB uploads", bench, load, None)


def connect(bench: Bench) -> list[Figure]:
    """a new connection for each request"""
    all_of_them = bench.same_work(bench.load(more={"Connection": "close"}), "wxgate", "nginx")
    ours, theirs = all_of_them["wxgate"], all_of_them["nginx"]
    return [Figure("a new connection for each request", spread(ours), f"nginx {spread(theirs)}", ratio(ours, theirs), 1.1)]


def tls(bench: Bench) -> list[Figure]:
    """TLS 1.3, keep-alive"""
    all_of_them = bench.same_work(bench.load(secure=True), "wxgate", "nginx")
    ours, theirs = all_of_them["wxgate"], all_of_them["nginx"]
    return [Figure("TLS 1.3, keep-alive", spread(ours), f"nginx, OpenSSL {spread(theirs)}", ratio(ours, theirs), 0.78)]


def handshake(bench: Bench) -> list[Figure]:
    """TLS 1.3, a full handshake for each request"""
    servers, load = bench.contenders("wxgate", "nginx", secure=True), bench.load(secure=True)
    runs = {name: (server, load) for name, server in servers.items()}
    all_of_them = bench.rounds(runs, lambda server, load, seconds: strangers(server, load, seconds, bench.log))
    ours, theirs = all_of_them["wxgate"], all_of_them["nginx"]
    return [Figure("TLS 1.3, full handshakes", spread(ours), f"nginx, OpenSSL {spread(theirs)}", ratio(ours, theirs), 0.70)]


def http2(bench: Bench) -> list[Figure]:
    """TLS 1.3, HTTP/2, eight requests at once on each connection"""
    servers, load = bench.contenders("wxgate", "nginx", secure=True), bench.load(secure=True)
    runs = {name: (server, load) for name, server in servers.items()}
    all_of_them = bench.rounds(runs, lambda server, load, seconds: multiplexed(server, load, seconds, bench.log))
    ours, theirs = all_of_them["wxgate"], all_of_them["nginx"]
    return [Figure("HTTP/2 over TLS 1.3, eight at once", spread(ours), f"nginx, OpenSSL {spread(theirs)}", ratio(ours, theirs))]


def open_loop(bench: Bench) -> list[Figure]:
    """p99 at 70 % of what both can do"""
    servers, load = bench.contenders("wxgate", "nginx"), bench.load()
    seconds = bench.size.seconds
    most = [wrk(server, load, seconds) for server in servers.values()]
    rate = 0.7 * min(answered.requests / answered.seconds for answered in most)
    seen: dict[str, list[float]] = {name: [] for name in servers}
    for _ in range(bench.size.rounds):
        for name, server in servers.items():
            answered = steady(server, load, seconds, bench.log, rate)
            if answered.seconds > 1.1 * seconds + 0.1:
                sys.exit(f"{name}: {rate:.0f}/s for {seconds} s took {answered.seconds:.2f} s: the rate was not held")
            seen[name].append(answered.p99)
    ours, theirs = statistics.median(seen["wxgate"]), statistics.median(seen["nginx"])
    all_of_it = lambda name: f"({min(seen[name]):.2f} … {max(seen[name]):.2f})"
    figure = Figure(f"p99 at {rate:,.0f}/s, 70 % of what both can do", f"{ours:.2f} ms {all_of_it('wxgate')}", f"nginx {theirs:.2f} ms {all_of_it('nginx')}", ours / theirs, 1.0)
    return [figure]


def cores(bench: Bench) -> list[Figure]:
    """one thread and two"""
    both = set(CORES[-2:])
    with bench.own(lambda: bench.street.wxgate(2, both)) as two:
        bench.check(two)
        one, load = bench.contenders("wxgate")["wxgate"], bench.load()
        all_of_them = bench.rounds({"one": (one, load), "two": (two, load)})
    alone, together = all_of_them["one"], all_of_them["two"]
    shared = ", which share a core with the load" if len(CORES) < 3 else ""
    beside = f"one thread {spread(alone)}"
    what = f"requests per CPU second, two threads{shared}, by one thread's half"
    return [Figure(what, spread(together), beside, 2 / ratio(together, alone), 1.9, at_least=True)]


def memory(bench: Bench) -> list[Figure]:
    """at rest, and for connections that say nothing"""
    street, size, figures = bench.street, bench.size, []
    with bench.own(street.wxgate) as gateway:
        at_rest = gateway.memory("Rss:") / 1024
        figures.append(Figure("memory at rest (RSS)", f"{at_rest:.1f} MiB, {gateway.memory() / 1024:.1f} of them its own", "", at_rest, 15, unit="MiB"))
    rows = [
        (f"a quiet connection, of {size.quiet:,}", size.quiet, False, 8),
        (f"a quiet connection, of {size.crowd:,}", size.crowd, False, 8),
        (f"a quiet TLS connection, of {size.quiet:,}", size.quiet, True, 20),
    ]
    for what, count, secure, limit in rows:
        seen = {}
        for name, make in [("wxgate", street.wxgate), ("nginx", street.nginx)]:
            with bench.own(make) as server:
                session = bench.secure_session if secure else bench.session
                one = hold(server, 1, session, secure)
                before = server.memory()
                held = hold(server, count, session, secure)
                seen[name] = (server.memory() - before) / count
                for connection in one + held:
                    connection.close()
        figures.append(Figure(what, f"{seen['wxgate']:.1f} KiB", f"nginx {seen['nginx']:.1f} KiB", seen["wxgate"], limit, unit="KiB"))
    return figures


def crowd(bench: Bench) -> list[Figure]:
    """64 busy connections among many quiet ones"""
    count = bench.size.crowd
    with bench.own(bench.street.wxgate) as crowded:
        bench.check(crowded)
        held = hold(crowded, count, bench.session)
        alone, load = bench.contenders("wxgate")["wxgate"], bench.load()
        all_of_them = bench.rounds({"crowded": (crowded, load), "alone": (alone, load)})
        held[0].setblocking(False)
        try:
            gone = held[0].recv(1) == b""
        except BlockingIOError:
            gone = False
        for connection in held:
            connection.close()
    if gone:
        sys.exit("the quiet connections were not held")
    ours, theirs = all_of_them["crowded"], all_of_them["alone"]
    return [Figure(f"64 busy among {count:,} quiet", spread(ours), f"64 alone {spread(theirs)}", ratio(ours, theirs), 1.05)]


def sessions(bench: Bench) -> list[Figure]:
    """as many different sessions in turn"""
    count = bench.size.sessions
    all_of_them = [bench.visitor.login(f"http://{HOST}") for _ in range(count)]
    if len(set(all_of_them)) != count:
        sys.exit("sessions came twice")
    script = each_in_turn(bench.street.folder, all_of_them)
    load = bench.load(session="", script=script)
    servers = bench.contenders("wxgate", "HAProxy, JWT")
    seen = bench.rounds({name: (server, load) for name, server in servers.items()})
    ours, theirs = seen["wxgate"], seen["HAProxy, JWT"]
    return [Figure(f"{count:,} different sessions in turn", spread(ours), f"HAProxy, JWT {spread(theirs)}", ratio(ours, theirs), 0.75)]


def cache(bench: Bench) -> list[Figure]:
    """the same sessions with a smaller `verified_cache`, and the memory that it takes"""
    count, figures = bench.size.sessions, []
    script = each_in_turn(bench.street.folder, [bench.visitor.login(f"http://{HOST}") for _ in range(count)])
    load = bench.load(session="", script=script)
    for threads, cores in [(1, CORES[-1:]), (2, CORES[-2:])]:
        with ExitStack() as stack:
            servers, empty = {}, {}
            for size in CACHES:
                make = lambda: bench.street.wxgate(threads, set(cores), session=f'verified_cache = "{size}"')
                servers[size] = stack.enter_context(bench.own(make))
                bench.check(servers[size])
                # The same connections and buffers, one session.
                wrk(servers[size], bench.load(), min(bench.size.seconds, 0.5))
                empty[size] = servers[size].memory("Rss:")
            seen = bench.rounds({size: (server, load) for size, server in servers.items()})
            for size, server in servers.items():
                grown = (server.memory("Rss:") - empty[size]) / 1024
                what = f"{count:,} sessions in turn, `verified_cache = \"{size}\"`, {threads} thread{'s'[: threads - 1]}"
                ours = f"{spread(seen[size])}; RSS + {grown:.1f} MiB"
                figures.append(Figure(what, ours, f"64MiB {spread(seen['64MiB'])}", ratio(seen[size], seen["64MiB"])))
    return figures


def sites(bench: Bench) -> list[Figure]:
    """many sites: looked up, and read anew under load"""
    count, street = bench.size.sites, bench.street
    with bench.own(lambda: street.wxgate(sites=count)) as many:
        bench.check(many)
        few, load = bench.contenders("wxgate")["wxgate"], bench.load()
        seen = bench.rounds({"many": (many, load), "few": (few, load)})
    what = f"one of {count:,} sites × 20 routes"
    ours, theirs = seen["many"], seen["few"]
    looked_up = Figure(what, spread(ours), f"one of two sites {spread(theirs)}", ratio(ours, theirs), 1.05)
    return [looked_up, *_reload(bench)]


def _reload(bench: Bench) -> list[Figure]:
    """On all cores, as it is in production: the file is read beside the threads that serve."""
    count, street = bench.size.sites, bench.street
    took, slowest, without = [], [], []
    with bench.own(lambda: street.wxgate(0, set(CORES), count)) as server:
        path = server.config or Path()
        whole, last = path.read_text(), street.site(count - 1)
        visitor = Visitor(server, street.wechat)
        for number in range(bench.size.rounds):
            seconds, rate, load = max(bench.size.seconds, 0.5), 2_000, bench.load(connections=16)
            without.append(steady(server, load, seconds, bench.log, rate).slowest)
            new = f"new-{number}.example.com"
            changed = path.with_suffix(".new")
            changed.write_text(whole.replace(last, street.site(count - 1, new)))
            took_one = [0.0]

            def change() -> None:
                time.sleep(seconds / 3)
                began = time.monotonic()
                os.replace(changed, path)
                server.process.send_signal(signal.SIGHUP)
                while visitor.get(f"http://{new}/part-1/a").status == 421:
                    if time.monotonic() - began > 10:
                        return
                took_one[0] = time.monotonic() - began

            beside = threading.Thread(target=change)
            beside.start()
            slowest.append(steady(server, load, seconds, bench.log, rate).slowest)
            beside.join()
            if not took_one[0]:
                sys.exit("the new configuration was not taken")
            took.append(took_one[0] * 1000)
        visitor.close()
    what = f"a reload of {count:,} sites × 20 routes"
    ms = lambda all_of_them: f"{statistics.median(all_of_them):.1f} ms ({min(all_of_them):.1f} … {max(all_of_them):.1f})"
    return [
        Figure(what, ms(took), "", statistics.median(took), 100, unit="ms"),
        Figure("the slowest of 2,000 requests/s during it", ms(slowest), f"without a reload {ms(without)}", statistics.median(slowest), 20, unit="ms"),
    ]


def start(bench: Bench) -> list[Figure]:
    """from the command to the first answer"""
    took = []
    for _ in range(bench.size.starts):
        server = bench.street.starting()
        try:
            while True:
                try:
                    page = ask(server, "/", HEADERS)
                    break
                except ConnectionRefusedError:
                    if server.process.poll() is not None:
                        server.ready()
            took.append((time.monotonic() - server.began) * 1000)
            if page.status != 302:
                sys.exit(f"a wrong first answer: {page}")
        finally:
            server.stop()
    each = f"{statistics.median(took):.1f} ms ({min(took):.1f} … {max(took):.1f})"
    return [Figure("from the command to the first answer", each, "", statistics.median(took), 50, unit="ms")]


ROWS: dict[str, Callable[[Bench], list[Figure]]] = {
    "keepalive": keepalive,
    "first-visit": first_visit,
    "16k": answers_16k,
    "1m": answers_1m,
    "16k-upload": uploads_16k,
    "1m-upload": uploads_1m,
    "connect": connect,
    "tls": tls,
    "handshake": handshake,
    "http2": http2,
    "open-loop": open_loop,
    "cores": cores,
    "memory": memory,
    "crowd": crowd,
    "sessions": sessions,
    "cache": cache,
    "sites": sites,
    "start": start,
}
