"""A page that knows its visitor. `python3 wsgi_app.py 8000`: nothing to install."""

import json
import os
import sys
from html import escape
from socketserver import ThreadingMixIn
from urllib.parse import unquote
from wsgiref.simple_server import WSGIServer, make_server

PAGE = """<!doctype html>
<html lang="zh-CN"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>whoami</title>
<h1>你好，{nickname}</h1>
<p>openid: <code>{openid}</code></p>
<p>scope: <code>{scope}</code></p>
<p><a href="/_wx/logout">退出 / log out</a></p>
"""


def visitor(environ):
    """Who the gateway says is asking."""
    nickname = environ.get("HTTP_X_WECHAT_NICKNAME")
    return {
        "openid": environ.get("HTTP_X_WECHAT_OPENID"),
        # Percent-encoded UTF-8, because a header is ASCII. Not unquote_plus(): that one turns
        # + into a space.
        "nickname": None if nickname is None else unquote(nickname),
        "scope": environ.get("HTTP_X_WECHAT_SCOPE"),
    }


def app(environ, start_response):
    """Any WSGI server runs this: gunicorn, uWSGI, mod_wsgi."""
    who = visitor(environ)
    if environ["PATH_INFO"] == "/whoami":
        kind = "application/json; charset=utf-8"
        body = json.dumps(who, ensure_ascii=False, separators=(",", ":")) + "\n"
    else:
        kind = "text/html; charset=utf-8"
        shown = {"openid": "(none)", "nickname": "朋友", "scope": "(none)"}
        shown.update((name, escape(value)) for name, value in who.items() if value is not None)
        body = PAGE.format(**shown)
    body = body.encode()
    start_response("200 OK", [("Content-Type", kind), ("Content-Length", str(len(body)))])
    return [body]


class Server(ThreadingMixIn, WSGIServer):
    """One thread per connection, so that an idle one holds nobody up."""

    daemon_threads = True


if __name__ == "__main__":
    port = int(sys.argv[1] if len(sys.argv) > 1 else os.environ.get("PORT", "8000"))
    make_server("127.0.0.1", port, app, Server).serve_forever()
