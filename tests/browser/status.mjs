// The status page in a real Chromium, and an incident: WeChat fails, a server dies, a key is rotated
// wrongly, Redis leaves. Each time a reader who has only this page finds the cause.
//
// usage: node status.mjs PATH_OF_WXGATE FOLDER_FOR_SCREENSHOTS

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { mkdtempSync, writeFileSync } from 'node:fs';
import { createServer, request } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { DESK, WECHAT, artifacts, finish, freePort, start, story, text } from './harness.mjs';

const KEYS = { old: '0'.repeat(31) + 'a', new: '1'.repeat(31) + 'b', secret: 's'.repeat(32) };
const folder = mkdtempSync(join(tmpdir(), 'wxgate-'));
const ports = {};
for (const name of ['gateway', 'admin', 'wechat', 'site', 'second', 'redis']) ports[name] = await freePort();
const url = `http://127.0.0.1:${ports.gateway}/`;
const admin = `http://127.0.0.1:${ports.admin}/`;
const wechat = `http://127.0.0.1:${ports.wechat}`;

/** Two servers of one site; the second can die and come back. */
const answer = (request, response) => {
  if (request.url.startsWith('/open/hang')) return;
  response.setHeader('content-type', 'text/html');
  response.end(`<!doctype html><link rel="icon" href="data:,"><p>${request.headers['x-wechat-openid'] ?? 'nobody'}</p>`);
};
const listening = (port) => new Promise((done) => { const server = createServer({ keepAliveTimeout: 100 }, answer); server.listen(port, '127.0.0.1', () => done(server)); });
const closed = (server) => new Promise((done) => { server.close(done); server.closeAllConnections(); });
const site = await listening(ports.site);
let second = await listening(ports.second);

const redis = () => spawn('redis-server', ['--port', String(ports.redis), '--bind', '127.0.0.1', '--save', '', '--appendonly', 'no', '--dir', folder], { stdio: 'ignore' });
const ended = (child) => new Promise((done) => { child.on('exit', done); child.kill('SIGTERM'); });
let keeper = redis();

const config = join(folder, 'config.toml');
const write = (keys, more = '') => writeFileSync(config, `
[server]
listen = ["127.0.0.1:${ports.gateway}"]
workers = 2
drain = "1s"
# As many as the descriptors of any machine allow, or the page warns of them.
[server.limits]
connections = 100
upstream_idle = 100
[admin]
listen = "127.0.0.1:${ports.admin}"
[session]
keys = [${keys.map(([id, name]) => `{ id = "${id}", secret = { env = "${name}" } }`).join(', ')}]
[store]
kind = "redis"
url = "redis://127.0.0.1:${ports.redis}/"
[[account]]
name = "main"
app_id = "wx1"
app_secret = { env = "SECRET" }
authorize_url = "${wechat}"
api_urls = ["${wechat}"]
[[site]]
hosts = ["127.0.0.1"]
public_url = "http://127.0.0.1:${ports.gateway}"
account = "main"
upstream = ["http://127.0.0.1:${ports.site}", "http://127.0.0.1:${ports.second}"]
response_timeout = "1s"
revocation = "bounded:4s"
[[site.route]]
path = "/open/*"
auth = "none"
${more}
`);
write([['2026-10', 'OLD']]);
const env = { OLD: KEYS.old, NEW: KEYS.new, SECRET: KEYS.secret };
let emulator = await start(['emulator', '--listen', `127.0.0.1:${ports.wechat}`], { port: ports.wechat });
const gateway = await start(['serve', '--config', config], { port: ports.gateway, env });

const fault = (json) => fetch(`${wechat}/_emulator/faults`, { method: 'POST', body: JSON.stringify(json) });
const metrics = async () => (await fetch(`${admin}metrics`)).text();
const until = async (what, seconds = 20) => {
  for (let tries = 0; tries < seconds * 10; tries += 1) {
    if (await what()) return;
    await new Promise((later) => setTimeout(later, 100));
  }
  throw new Error(`never: ${what}`);
};

/** A request as a phone sends it when somebody opens a page; `fetch` would say that a script asks. */
const ask = (at, jar = new Map(), more = {}) => new Promise((done, fail) => {
  const headers = { 'user-agent': WECHAT, accept: 'text/html', ...more };
  if (jar.size > 0 && at.startsWith(url)) headers.cookie = [...jar].map(([name, value]) => `${name}=${value}`).join('; ');
  request(at, { headers, agent: false }, (response) => {
    for (const line of at.startsWith(url) ? response.headers['set-cookie'] ?? [] : []) {
      const [, name, value] = line.match(/^([^=]+)=([^;]*)/);
      if (/max-age=0/i.test(line)) jar.delete(name); else jar.set(name, value);
    }
    response.resume().on('end', () => done({ status: response.statusCode, location: response.headers.location }));
  }).on('error', fail).end();
});

/** A visitor of a browser of their own logs in, or tries to: the status they end at. */
async function visit(path = 'orders', jar = new Map()) {
  let at = new URL(path, url).href;
  for (let hops = 0; hops < 12; hops += 1) {
    const { status, location } = await ask(at, jar);
    if (!location) return status;
    at = new URL(location, at).href;
  }
  throw new Error('redirected for ever');
}

/** Waits until the page says it, in a finding with this name, and that the metrics say so too. */
async function finds(page, cause, words, severity) {
  await page.locator(`.finding[data-cause=${cause}]`).waitFor({ timeout: 20_000 });
  const said = await page.locator(`.finding[data-cause=${cause}]`).innerText();
  for (const word of words) assert.ok(said.includes(word), `${word} is not in: ${said}`);
  assert.match(await metrics(), new RegExp(`wxgate_problem\\{cause="${cause}",severity="${severity}"\\} 1`));
}
const over = async (page, cause, seconds = 20) => {
  await page.locator(`.finding[data-cause=${cause}]`).waitFor({ state: 'detached', timeout: seconds * 1000 });
};

/** No page is wider than its window. */
async function fits(page) {
  const [wide, window] = await page.evaluate(() => [document.documentElement.scrollWidth, innerWidth]);
  assert.ok(wide <= window, `${wide} pixels in a window of ${window}`);
}

const jar = new Map();
await until(async () => (await fetch(`${admin}readyz`)).status === 200);

for (const [name, options] of Object.entries({
  'desk zh light': { viewport: DESK, colorScheme: 'light' },
  'desk en dark': { viewport: DESK, colorScheme: 'dark', locale: 'en-GB' },
  'phone zh dark': { colorScheme: 'dark' },
  'phone en light': { colorScheme: 'light', locale: 'en-US' },
})) {
  await story(`status ${name}`, options, async (page) => {
    const part = (what) => page.locator('#config').screenshot({ path: `${artifacts}/status-${name.replaceAll(' ', '-')}-${what}.png` });
    await page.goto(admin);
    await page.locator('[data-site="127.0.0.1"]').waitFor();
    assert.equal(await page.locator('html').getAttribute('lang'), name.includes('zh') ? 'zh-CN' : 'en');
    assert.match(await text(page), name.includes('zh') ? /一切正常/ : /All is well/);
    const step = async () => Number(await page.locator('[data-step=finished]').innerText().catch(() => '0'));
    const before = await step();
    for (let visits = 0; visits < 3; visits += 1) assert.equal(await visit(), 200);
    assert.equal(await visit('orders', jar), 200);
    for (let visits = 0; visits < 30; visits += 1) await visit(`open/${visits}`);
    await fault({ at: 'access_token', errcode: 40163, times: 1 });
    assert.equal(await visit(), 200, 'begun again by itself');
    await until(async () => (await step()) >= before + 4);
    assert.ok(await page.locator('[data-errcode="40163"]').count() > 0);
    assert.match(await page.locator('[data-errcode="40163"]').innerText(), name.includes('zh') ? /code 已被用过/ : /The code was used before/);
    await fits(page);
    await page.screenshot({ path: `${artifacts}/status-${name.replaceAll(' ', '-')}.png`, fullPage: true });
    await page.locator('#config summary').first().click();
    const key = (table, name) => page.locator(`[data-table="${table}"] [data-key=${name}]`);
    await key('[[account]] main', 'app_secret').waitFor();
    assert.match(await key('[server]', 'prefix').innerText(), name.includes('zh') ? /_wx"[^]*默认/ : /_wx"[^]*default/);
    assert.match(await key('[server]', 'listen').innerText(), name.includes('zh') ? /127\.0\.0\.1[^]*写明/ : /127\.0\.0\.1[^]*written/);
    await fits(page);
    await part('config');
    await page.locator('#config .filter button').last().click();
    await key('[server]', 'prefix').waitFor({ state: 'detached' });
    await page.locator('#config .raw summary').click();
    await page.locator('#config pre').filter({ hasText: 'app_secret' }).waitFor();
    const shown = await page.content();
    for (const secret of Object.values(KEYS)) assert.ok(!shown.includes(secret), 'a secret is on the page');
    await fits(page);
    await page.locator('#language').click();
    assert.match(await text(page), name.includes('zh') ? /All is well/ : /一切正常/);
    await fits(page);
    await part('config-text');
  });
}

await story('what visitors say stays text', { viewport: DESK }, async (page) => {
  await page.goto(admin);
  const evil = '<img src=x onerror=alert(1)>';
  await ask(`${url}_wx/callback?code=${encodeURIComponent(evil)}&state=${encodeURIComponent(evil)}`, new Map(), { 'user-agent': evil, referer: evil });
  await ask(`${url}open/${encodeURI(evil)}`, new Map(), { 'x-request-id': evil, cookie: `wxgate=${evil}` });
  await fault({ at: 'access_token', errcode: 48004, times: 1 });
  await visit();
  await page.locator('[data-kind=login] .facts').filter({ hasText: 'login_expired' }).first().waitFor();
  assert.equal(await page.locator('main img').count(), 0);
  assert.equal(await visit(), 200);
  await over(page, 'account_refused');
});

await story('another name is turned away', {}, async () => {
  const status = (path, headers, method = 'GET') => new Promise((done, fail) => {
    request({ port: ports.admin, host: '127.0.0.1', path, method, headers }, (it) => { it.resume(); done(it.statusCode); }).on('error', fail).end();
  });
  for (const path of ['/', '/events', '/status.json', '/config', '/config.json']) {
    assert.equal(await status(path, { host: `evil.example:${ports.admin}` }), 421, path);
  }
  assert.equal(await status('/', {}, 'POST'), 405);
  assert.equal(await status('/log', { 'content-type': 'text/plain' }, 'POST'), 415);
  assert.equal(await status('/log', { 'content-type': 'application/json', origin: 'http://evil.example' }, 'POST'), 403);
});

await story('an incident', { viewport: DESK, locale: 'en-GB' }, async (page, shot) => {
  await page.goto(admin);
  await page.locator('.finding.well').waitFor();

  // WeChat does not take our secret any more, and then does not answer at all.
  await fault({ at: 'access_token', errcode: 40125, times: 1 });
  assert.equal(await visit(), 502);
  await finds(page, 'account_refused', ['Account main', 'Wrong AppSecret', '40125', 'reset the AppSecret'], 'critical');
  await shot('wechat-refuses');
  assert.equal(await visit(), 200);
  await over(page, 'account_refused');
  await emulator.stop();
  const away = new Map([...jar]);
  assert.equal(await visit('orders', away), 200, 'who is logged in notices nothing');
  assert.equal(await lateCallback(), 503);
  await finds(page, 'wechat_unreachable', ['nobody can log in', wechat, 'network, DNS, firewall'], 'critical');
  await shot('wechat-away');
  emulator = await start(['emulator', '--listen', `127.0.0.1:${ports.wechat}`], { port: ports.wechat });
  assert.equal(await visit(), 200);
  await over(page, 'wechat_unreachable');

  // One server dies, then both.
  await closed(second);
  await until(async () => { await visit('open/a'); return (await metrics()).includes('wxgate_upstream_up{server="http://127.0.0.1:' + ports.second + '",site="127.0.0.1"} 0'); });
  await finds(page, 'upstream_degraded', [`127.0.0.1:${ports.second}`, 'refused', 'The others take its requests'], 'warning');
  await closed(site);
  await until(async () => (await visit('open/b')) === 502);
  await finds(page, 'upstream_down', [`127.0.0.1:${ports.site}`, 'refused', 'visitors get a 502 page'], 'critical');
  await shot('upstream-down');
  Object.assign(site, await listening(ports.site));
  second = await listening(ports.second);
  await until(async () => { await visit('open/c'); return !(await metrics()).includes('wxgate_upstream_up{server="http://127.0.0.1:' + ports.second + '",site="127.0.0.1"} 0'); });
  await over(page, 'upstream_down');
  assert.equal(await visit('open/hang'), 504);
  await finds(page, 'upstream_slow', ['127.0.0.1', 'response_timeout'], 'warning');

  // The key is replaced, and the old one thrown away at once.
  const jars = [jar];
  for (let people = 0; people < 3; people += 1) { const one = new Map(); await visit('orders', one); jars.push(one); }
  write([['2026-11', 'NEW']]);
  await until(async () => (await metrics()).includes('wxgate_config_reloads_total{result="accepted"} 1'));
  for (const one of jars) assert.equal(await visit('orders', new Map(one)), 200, 'in again, by another login');
  await finds(page, 'key_missing', ['not in [session] keys', 'Put the old key back'], 'critical');
  await shot('key-missing');
  write([['2026-11', 'NEW'], ['2026-10', 'MISSING']]);
  await finds(page, 'config_refused', ['MISSING', 'the old one stays'], 'warning');
  write([['2026-11', 'NEW'], ['2026-10', 'OLD']]);
  await over(page, 'config_refused');
  await over(page, 'key_missing', 10); // what was refused before it was mended accuses nobody

  // Redis leaves; after four seconds the site takes no sessions.
  await ended(keeper);
  await finds(page, 'store_away', ['The store is unavailable', 'Redis does not answer', 'start it'], 'warning');
  await page.locator('.finding.critical[data-cause=store_away]').waitFor({ timeout: 20_000 });
  await finds(page, 'store_away', ['takes no sessions any more', '127.0.0.1'], 'critical');
  assert.equal(await visit('orders', jars[0]), 503);
  await shot('store-away');
  keeper = redis();
  await over(page, 'store_away');
  await until(async () => (await visit('orders', jars[0])) === 200); // once it is sure again
});

/** A login whose way to WeChat was before it left: the callback alone. */
async function lateCallback() {
  const jar = new Map();
  const { location } = await ask(`${url}orders`, jar);
  const state = new URL(location).searchParams.get('state');
  return (await ask(`${url}_wx/callback?code=abcdefgh12345678&state=${state}`, jar)).status;
}

await finish();
await Promise.all([gateway.stop(), emulator.stop()]).then((codes) => assert.deepEqual(codes, [0, 0]));
await Promise.all([closed(site).catch(() => {}), closed(second), ended(keeper)]);
