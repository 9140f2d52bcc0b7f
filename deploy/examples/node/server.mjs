// A page that knows its visitor. `node server.mjs 8000`: nothing to install.
import { createServer } from 'node:http';

const port = Number(process.argv[2] ?? process.env.PORT ?? 8000);

// Percent-encoded UTF-8, because a header is ASCII.
function decode(value) {
  try {
    return value === undefined ? null : decodeURIComponent(value);
  } catch {
    return value; // not what the gateway writes; show it as it came
  }
}

function visitor(headers) { // Node gives every header's name in lower case
  return {
    openid: headers['x-wechat-openid'] ?? null,
    nickname: decode(headers['x-wechat-nickname']),
    scope: headers['x-wechat-scope'] ?? null,
  };
}

const html = (text) => text.replace(/[&<>"']/g, (c) => `&#${c.charCodeAt(0)};`);

const page = ({ openid, nickname, scope }) => `<!doctype html>
<html lang="zh-CN"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>whoami</title>
<h1>你好，${html(nickname ?? '朋友')}</h1>
<p>openid: <code>${html(openid ?? '(none)')}</code></p>
<p>scope: <code>${html(scope ?? '(none)')}</code></p>
<p><a href="/_wx/logout">退出 / log out</a></p>
`;

createServer((request, response) => {
  const who = visitor(request.headers);
  const [path] = request.url.split('?');
  const [type, body] = path === '/whoami'
    ? ['application/json; charset=utf-8', `${JSON.stringify(who)}\n`]
    : ['text/html; charset=utf-8', page(who)];
  response.writeHead(200, { 'Content-Type': type });
  response.end(body);
}).listen(port, '127.0.0.1', () => console.error(`http://127.0.0.1:${port}/`));
