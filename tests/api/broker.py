"""Holds the broker's OpenAPI document against a real broker, with schemathesis.

usage: broker.py BROKER WECHAT CLIENT_SECRET TICKET_SECRET

BROKER is the address of the broker's paths, WECHAT that of the emulated WeChat. First come answers that
take a real login to get: each must be in the document, and look as it says. Then schemathesis makes up
requests, right and wrong ones, with a client's secret and without.
"""

import subprocess
import sys
from html import unescape
from pathlib import Path
from urllib.parse import parse_qs, urljoin, urlsplit

import requests
import schemathesis
from schemathesis.specs.openapi import checks

broker, wechat, secret, ticket_secret = sys.argv[1:]
CONFORMANCE = [
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
]
schema = schemathesis.openapi.from_url(f"{broker}/openapi.json")
seen = set()

PHONE = {
    "user-agent": "Mozilla/5.0 (iPhone) MicroMessenger/8.0.50 Language/zh_CN",
    "accept": "text/html",
}


def ask(path, expected, session=None, method="GET", headers=None, **fields):
    """One request; its answer has to be a documented one of this status."""
    case = schema[path][method].Case(**fields)
    response = case.call(base_url=broker, session=session, headers=headers, allow_redirects=False)
    assert response.status_code == expected, f"{method} {path}: {response.status_code} {response.text}"
    case.validate_response(response, checks=CONFORMANCE)
    seen.add((path, expected))
    return response


def bearer(text):
    return {"authorization": f"Bearer {text}"}


def phone():
    session = requests.Session()
    session.headers.update(PHONE)
    return session


def fault(**fields):
    requests.post(f"{wechat}/_emulator/faults", json=fields, timeout=5).raise_for_status()


def allowed(session, response):
    """Says yes to WeChat, should it ask."""
    while response.status_code == 200:
        link = response.text.split('id="allow"')[1].split('href="')[1].split('"')[0]
        url = urljoin(response.url, unescape(link))
        response = session.get(url, allow_redirects=False, timeout=5)
    return response.headers["location"]


def go(session, url, scope):
    """Out over /auth; what WeChat sends back."""
    away = ask("/auth", 302, session, query={"url": url, "scope": scope})
    page = session.get(away.headers["location"][0], allow_redirects=False, timeout=5)
    back = parse_qs(urlsplit(allowed(session, page)).query)
    return {name: back[name][0] for name in ("code", "state")}


def code(scope):
    """A code as the client's own front end gets one."""
    session = phone()
    fields = f"appid=wx1&redirect_uri=http%3A%2F%2Fshop.example.com%2F&response_type=code&scope={scope}"
    url = f"{wechat}/connect/oauth2/authorize?{fields}&state=x"
    page = session.get(url, allow_redirects=False, timeout=5)
    return parse_qs(urlsplit(allowed(session, page)).query)["code"][0]


def visitors():
    shop, news = "https://shop.example.com/cart?x=1#/y", "https://news.example.com/app/"
    ways = [("snsapi_base", "/getOpenId"), ("snsapi_userinfo", "/getWxUserInfo"), ("snsapi_userinfo", "/getUserInfo")]
    for scope, path in ways:
        session = phone()
        back = go(session, shop, scope)
        home = ask(path, 302, session, query=back)
        assert "openid=o" in home.headers["location"][0], home.headers
        fault(at="access_token", errcode=40226, times=1)
        ask(path, 403, session, query=go(session, shop, scope))
        fault(at="access_token", errcode=40125, times=1)
        ask(path, 502, session, query=go(session, shop, scope))
        fault(at="access_token", errcode=45011, times=1)
        ask(path, 503, session, query=go(session, shop, scope))
        fault(at="authorize", snapshot=True, times=1)
        ask(path, 200, session, query=go(session, shop, scope))
        ask(path, 400, session, query={"code": "x", "state": "y"})
    ask("/auth", 403, query={"url": news}, headers={"accept": "text/html", "user-agent": "Chrome"})
    ask("/auth", 401, query={"url": shop}, headers={"accept": "application/json"})
    ask("/auth", 400, phone(), query={"url": "https://evil.example/"})
    session = phone()
    back = go(session, news, "snsapi_userinfo")
    home = ask("/getWxUserInfo", 302, session, query=back).headers["location"][0]
    return parse_qs(urlsplit(home).query)["ticket"][0]


def servers(ticket):
    ask("/getOpenId", 200, query={"code": code("snsapi_base")}, headers=bearer(secret))
    for path in ("/getWxUserInfo", "/getUserInfo"):
        ask(path, 200, query={"code": code("snsapi_userinfo")}, headers=bearer(secret))
        ask(path, 403, query={"code": code("snsapi_base")}, headers=bearer(secret))
        ask(path, 400, query={"code": "x"}, headers=bearer(secret))
        ask(path, 401, query={"code": "x"}, headers=bearer("wrong"))
    fault(at="access_token", errcode=45011, times=1)
    ask("/getOpenId", 503, query={"code": code("snsapi_base")}, headers=bearer(secret))
    ask("/getOpenId", 401, query={"code": "x"}, headers=bearer("wrong"))
    redeem = {"method": "POST", "body": {"ticket": ticket}}
    for media_type in ("application/json", "application/x-www-form-urlencoded"):
        form = {**redeem, "media_type": media_type}
        ask("/redeem", 401, headers=bearer("wrong"), **form)
        ask("/redeem", 400, headers=bearer(secret), **form)
    ask("/redeem", 200, headers=bearer(ticket_secret), **form)
    ask("/redeem", 400, headers=bearer(ticket_secret), **form)


def pages():
    shop = {"url": "https://shop.example.com/cart"}
    ask("/jssdk", 200, query=shop)
    ask("/jssdk", 400, query={"url": "https://evil.example/"})
    keys = ask("/jwks.json", 200)
    ask("/jwks.json", 304, headers={"if-none-match": keys.headers["etag"][0]})
    ask("/openapi.json", 200)


def made_up(*headers):
    """Whether an address is a client's, and a code a good one, is no matter of schemas."""
    program = Path(sys.executable).with_name("schemathesis")
    command = [program, "run", f"{broker}/openapi.json", "--url", broker, "--max-redirects", "0"]
    command += ["--exclude-checks", "positive_data_acceptance", "--max-examples", "60"]
    command += ["--seed", "20261124", "--no-color", "--warnings", "off", "--continue-on-failure"]
    for header in headers:
        command += ["--header", header]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    generated = int(done.stdout.split(" generated")[0].split()[-1])
    assert generated > 300, done.stdout
    return generated


servers(visitors())
pages()
made = made_up() + made_up(f"Authorization: Bearer {secret}")
print(f"{len(seen)} documented answers of real logins, {made} made-up requests")
