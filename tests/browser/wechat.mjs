// WeChat as it really behaves, in a real Chromium of a phone's size: single-page apps, lost cookies,
// and what the Back button finds.
//
// usage: node wechat.mjs PATH_OF_WXGATE FOLDER_FOR_SCREENSHOTS

import assert from 'node:assert/strict';
import { createServer } from 'node:http';
import { WECHAT, consent, finish, freePort, gateway, story, text } from './harness.mjs';

/** A single-page app: its routes live behind the #, its data behind the login. */
const APP = `<!doctype html><meta charset="utf-8"><link rel="icon" href="data:,">
<title>app</title><h1 id="route"></h1><p id="who"></p><button id="load">load</button>
<script src="/_wx/client.js"></script>
<script>
  document.getElementById('route').textContent = location.hash;
  async function load() {
    const answer = await fetch('/api/me');
    document.getElementById('who').textContent = answer.status + ' ' + (await answer.json()).openid;
  }
  function loadTheOldWay() {
    const request = new XMLHttpRequest();
    request.open('GET', '/api/me');
    request.send();
  }
  document.getElementById('load').onclick = load;
</script>`;

const site = createServer((request, response) => {
  const openid = request.headers['x-wechat-openid'];
  if (request.url.startsWith('/api/me')) {
    response.setHeader('content-type', 'application/json');
    return response.end(JSON.stringify({ openid }));
  }
  response.setHeader('content-type', 'text/html; charset=utf-8');
  return response.end(APP.replace('id="who">', `id="who">${openid ?? 'nobody'}`));
});
const sitePort = await freePort();
site.listen(sitePort, '127.0.0.1');

const [gatewayPort, adminPort, wechatPort] = [await freePort(), await freePort(), await freePort()];
const url = `http://127.0.0.1:${gatewayPort}/`;
const wechat = `http://127.0.0.1:${wechatPort}`;
const running = await gateway({ gateway: gatewayPort, admin: adminPort, wechat: wechatPort }, `
[[site]]
hosts = ["127.0.0.1"]
public_url = "http://127.0.0.1:${gatewayPort}"
account = "main"
upstream = ["http://127.0.0.1:${sitePort}"]
fragment = "keep"
[[site.route]]
path = "/open"
auth = "none"
[[site.route]]
path = "/member"
scope = "snsapi_userinfo"
`);
const inWeChat = { userAgent: WECHAT };

await story('a route behind the hash survives the login', inWeChat, async (page, shot) => {
  await page.goto(`${url}app?x=1#/orders/7`);
  await page.waitForURL(`${url}app?x=1#/orders/7`);
  assert.equal(await page.locator('#route').innerText(), '#/orders/7');
  assert.match(await page.locator('#who').innerText(), /^o[\w-]{27}$/);
  await shot('page');
});

await story('a script that is refused logs in and comes back', inWeChat, async (page) => {
  for (const ask of ['load()', 'loadTheOldWay()']) {
    await page.goto(`${url}open#/cart`);
    await page.evaluate(ask).catch(() => {}); // the page goes away under it
    await page.waitForURL(/open#\/cart/);
    await page.waitForFunction(async () => (await fetch('/_wx/session')).status === 200);
    await page.locator('#load').click();
    await page.waitForFunction(() => /^200 o/.test(document.getElementById('who').textContent));
    await page.context().clearCookies();
    await page.evaluate(() => sessionStorage.clear());
  }
});

await story('a script that stays refused is left alone', inWeChat, async (page) => {
  await page.goto(`${url}open`);
  await page.evaluate(() => sessionStorage.setItem('wxgate-login', String(Date.now())));
  await page.locator('#load').click();
  await page.waitForFunction(() => /^401/.test(document.getElementById('who').textContent));
  assert.equal(page.url(), `${url}open`);
});

await story('cookies lost on the way', inWeChat, async (page, shot, context) => {
  const fault = { at: 'authorize', delay_ms: 1500, times: 1 };
  await fetch(`${wechat}/_emulator/faults`, { method: 'POST', body: JSON.stringify(fault) });
  const arrival = page.goto(`${url}app?page=2`);
  while (!(await context.cookies()).some(({ name }) => name.startsWith('wxgate-flow-'))) {
    await new Promise((later) => setTimeout(later, 10));
  }
  await context.clearCookies(); // while WeChat takes its time
  await arrival;
  await page.waitForURL(/app\?page=2/);
  assert.match(await page.locator('#who').innerText(), /^o[\w-]{27}$/);
  const calls = await (await fetch(`${wechat}/_emulator/requests`)).json();
  const last = calls.filter(({ path }) => path === '/connect/oauth2/authorize').slice(-2);
  assert.notEqual(last[0].query.state, last[1].query.state, 'the login started again');
  await shot('page');
});

await story('back leaves the site after a silent login', inWeChat, async (page) => {
  await page.goto(`${url}open?before`);
  await page.goto(`${url}app#/a`);
  await page.waitForURL(`${url}app#/a`);
  assert.match(await text(page), /o[\w-]{27}/);
  await page.goBack();
  assert.equal(page.url(), `${url}open?before`, 'neither WeChat nor the callback is in the history');
});

await story('back after consent is the consent page at most', inWeChat, async (page, shot) => {
  await page.goto(`${url}open?before`);
  await page.goto(`${url}member#/card`);
  await shot('prompt');
  await page.locator('a.button').click();
  await consent(page);
  await page.waitForURL(`${url}member#/card`);
  let steps = 0;
  while (page.url() !== `${url}open?before`) {
    await page.goBack();
    steps += 1;
    assert.ok(steps <= 2, `still at ${page.url()} after ${steps} steps`);
  }
});

await finish();
await running.stop().then((codes) => assert.deepEqual(codes, [0, 0]));
site.close();
