"""Somebody with WeChat: logs in over HTTP, asks once to see that the work is done, holds connections."""

from __future__ import annotations

import http.client
import json
import re
import socket
import ssl
import sys
import urllib.parse
from dataclasses import dataclass
from email.message import Message

from servers import HOST, SECURE_HOST, Server, Street

AGENT = "Mozilla/5.0 (iPhone; CPU iPhone OS 17_5 like Mac OS X) MicroMessenger/8.0.49"
# What every load sends: a page of a browser inside WeChat, with a forged identity in it.
HEADERS = {
    "Accept": "text/html",
    "User-Agent": AGENT,
    "Accept-Language": "zh-CN",
    "X-WeChat-OpenId": "forged",
}
# Our own certificate, on this machine.
ANYBODY = ssl.create_default_context()
ANYBODY.check_hostname, ANYBODY.verify_mode = False, ssl.CERT_NONE


def cookie_header(session: str, secure: bool = False) -> str:
    return f"theme=dark; {'__Host-' if secure else ''}wxgate={session}; lang=zh_CN"


@dataclass
class Page:
    """One answer."""

    status: int
    headers: Message
    body: bytes

    def text(self) -> str:
        return self.body.decode("utf-8", "replace")

    def location(self) -> str:
        return self.headers["Location"] or sys.exit(f"no way on from here: {self.status} {self.text()}")

    def cookies(self) -> list[str]:
        """`name=value` of each cookie that it sets."""
        return [line.partition(";")[0] for line in self.headers.get_all("Set-Cookie") or []]


class Visitor:
    """A browser with connections that it keeps."""

    def __init__(self, gateway: Server, wechat: int):
        plain = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=10)
        encrypted = http.client.HTTPSConnection("127.0.0.1", gateway.tls_port, timeout=10, context=ANYBODY)
        self.doors = {HOST: plain, SECURE_HOST: encrypted}
        self.plain, self.wechat = plain, http.client.HTTPConnection("127.0.0.1", wechat, timeout=10)

    def get(self, url: str, cookies: str = "") -> Page:
        parts = urllib.parse.urlsplit(url)
        host = parts.hostname or ""
        door = self.wechat if host == "127.0.0.1" else self.doors.get(host, self.plain)
        path = parts.path + ("?" + parts.query if parts.query else "")
        headers = {"User-Agent": AGENT, "Accept": "text/html", "Host": parts.netloc}
        if cookies:
            headers["Cookie"] = cookies
        try:
            door.request("GET", path, headers=headers)
            answer = door.getresponse()
        except http.client.RemoteDisconnected:  # kept for too long between two rows
            door.request("GET", path, headers=headers)
            answer = door.getresponse()
        return Page(answer.status, answer.headers, answer.read())

    def login(self, origin: str, scope: str = "snsapi_userinfo") -> str:
        """The value of the session cookie, as the gateway set it after a trip through WeChat."""
        asked = self.get(f"{origin}/_wx/login?rd=/&scope={scope}")
        back = self.get(asked.location())
        if back.status == 200:  # the sheet that asks for consent, the first time
            back = self.get(self._agree(asked.location(), back.text()))
        home = self.get(back.location(), "; ".join(asked.cookies()))
        for cookie in home.cookies():
            name, _, value = cookie.partition("=")
            if name.removeprefix("__Host-") == "wxgate":
                return value
        sys.exit(f"no session: {home.status} {home.text()}")

    def _agree(self, url: str, page: str) -> str:
        link = re.search(r'href="([^"]*answer=allow[^"]*)"', page)
        if link:
            return urllib.parse.urljoin(url, link.group(1).replace("&amp;", "&"))
        action = re.search(r'action="([^"]*)"', page)
        fields = dict(re.findall(r'name="([^"]*)"[^>]*value="([^"]*)"', page))
        fields["answer"] = "allow"
        clean = {name: value.replace("&amp;", "&") for name, value in fields.items()}
        path = action.group(1) if action else "/connect/oauth2/confirm"
        return urllib.parse.urljoin(url, path) + "?" + urllib.parse.urlencode(clean)

    def close(self) -> None:
        for door in [*self.doors.values(), self.wechat]:
            door.close()


def ask(
    server: Server, path: str, headers: dict[str, str], body: bytes | None = None, secure: bool = False
) -> Page:
    """One answer, over a connection of its own."""
    door: http.client.HTTPConnection
    if secure:
        door = http.client.HTTPSConnection("127.0.0.1", server.tls_port, timeout=10, context=ANYBODY)
    else:
        door = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    host = SECURE_HOST if secure else HOST
    door.request("GET" if body is None else "POST", path, body, {"Host": host, **HEADERS, **headers})
    answer = door.getresponse()
    page = Page(answer.status, answer.headers, answer.read())
    door.close()
    return page


def check(server: Server, session: str, openid: str, secure: bool = False) -> None:
    """The contender does its work: it knows the visitor, refuses a forger, and tells the site."""
    names = server.name.startswith("wxgate") or server.name == "HAProxy, JWT"
    good = {"Cookie": cookie_header(session, secure)}
    page = ask(server, "/seen", good, secure=secure)
    seen, cookies, client = page.text().split("|")
    expected = openid if names else "forged"
    kept = "wxgate=" not in cookies if names else "wxgate=" in cookies
    others = "theme=dark" in cookies and "lang=zh_CN" in cookies
    address = client == "127.0.0.1" or server.name == "TCP"
    if not (page.status == 200 and seen == expected and kept and others and address):
        sys.exit(f"{server.name} does not do the work: {page}")
    if names:
        bad = session[:-6] + ("AAAAAA" if session[-6:] != "AAAAAA" else "BBBBBB")
        page = ask(server, "/seen", {"Cookie": cookie_header(bad, secure)}, secure=secure)
        if page.status not in (302, 401):
            sys.exit(f"{server.name} takes a forged session: {page}")
    for path, size in {"/": 1 << 10, "/16k": 16 << 10, "/1m": 1 << 20}.items():
        page = ask(server, path, good, secure=secure)
        if (page.status, len(page.body)) != (200, size):
            sys.exit(f"{server.name}, {path}: {page.status}, {len(page.body)} bytes")
    page = ask(server, "/sink", good, b"x" * (1 << 20), secure=secure)
    if page.status != 200 or int(page.body) < 1 << 20:
        sys.exit(f"{server.name}, upload: {page}")


def hold(server: Server, count: int, session: str, secure: bool = False) -> list[socket.socket]:
    """So many connections that have had one answer each and now say nothing."""
    port, host = (server.tls_port, SECURE_HOST) if secure else (server.port, HOST)
    headers = {"Host": host, **HEADERS, "Cookie": cookie_header(session, secure)}
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    request = f"GET / HTTP/1.1\r\n{lines}\r\n".encode()
    held = []
    for _ in range(count):
        one = socket.create_connection(("127.0.0.1", port), timeout=10)
        if secure:
            one = ANYBODY.wrap_socket(one, server_hostname=host)
        one.sendall(request)
        said = b""
        while len(said.partition(b"\r\n\r\n")[2]) < 1024:
            said += one.recv(65536) or sys.exit(f"{server.name} hung up")
        if not said.startswith(b"HTTP/1.1 200"):
            sys.exit(f"{server.name}: {said[:200]!r}")
        held.append(one)
    return held


def logged_in(street: Street) -> tuple[Visitor, str, str, str]:
    """A visitor; their sessions at the plain and at the encrypted site; and who they are."""
    gateway = street.known("wxgate")
    visitor = Visitor(gateway, street.wechat)
    plain = visitor.login(f"http://{HOST}")
    encrypted = visitor.login(f"https://{SECURE_HOST}")
    who = ask(gateway, "/_wx/session", {"Cookie": cookie_header(plain)})
    return visitor, plain, encrypted, json.loads(who.body)["openid"]
