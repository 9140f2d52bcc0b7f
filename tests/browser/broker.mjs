// A small front end written for the classic login service, against the broker, in a real Chromium:
// press login, say yes to WeChat, and be back with openid and picture on the page.
//
// usage: node broker.mjs PATH_OF_WXGATE FOLDER_FOR_SCREENSHOTS

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { DESK, PHONE, WECHAT, consent, finish, freePort, gateway, story, text } from './harness.mjs';

const page = readFileSync(new URL('classic.html', import.meta.url), 'utf8');
const [shopPort, newsPort] = [await freePort(), await freePort()];
const [brokerPort, adminPort, wechatPort] = [await freePort(), await freePort(), await freePort()];
const [shop, news] = [`http://127.0.0.1:${shopPort}`, `http://127.0.0.1:${newsPort}`];
const [broker, wechat] = [`http://127.0.0.1:${brokerPort}/api/wechat`, `http://127.0.0.1:${wechatPort}`];
const secrets = { SHOP: 's'.repeat(32), NEWS: 'n'.repeat(32) };

/** A site as it was before the broker: static pages, and for news a server that redeems tickets. */
function site(port, serverSide) {
  const server = createServer(async (request, response) => {
    const url = new URL(request.url, 'http://site');
    if (serverSide && url.pathname === '/api/login') {
      const answer = await fetch(`${broker}/redeem`, {
        method: 'POST',
        headers: { authorization: `Bearer ${secrets.NEWS}` },
        body: new URLSearchParams({ ticket: url.searchParams.get('ticket') }),
      });
      response.setHeader('content-type', 'application/json');
      response.statusCode = answer.status;
      return response.end(await answer.text());
    }
    response.setHeader('content-type', 'text/html; charset=utf-8');
    return response.end(page.replace('BROKER', broker));
  });
  return server.listen(port, '127.0.0.1');
}
const sites = [site(shopPort, false), site(newsPort, true)];

const running = await gateway({ gateway: brokerPort, admin: adminPort, wechat: wechatPort }, `
[broker]
host = "127.0.0.1"
public_url = "http://127.0.0.1:${brokerPort}"
[[broker.client]]
name = "shop"
account = "main"
return_to = ["${shop}/"]
secret = { env = "SHOP" }
outside_wechat = "login:main"
jssdk = true
[[broker.client]]
name = "news"
account = "main"
return_to = ["${news}/"]
result = "ticket"
secret = { env = "NEWS" }
`, secrets);

/** WeChat asks each person once, so each story has its own. */
const as = (context, user) => context.addCookies([{ name: 'wx_emulator_user', value: user, url: wechat }]);

const kinds = [
  ['phone', 'lilei', '李雷', { userAgent: WECHAT, viewport: PHONE, locale: 'zh-CN' }],
  ['desktop', 'hanmeimei', '韩梅梅', { viewport: DESK, locale: 'en-US' }],
];
for (const [kind, user, nickname, options] of kinds) {
  await story(`broker classic ${kind}`, options, async (page, shot, context) => {
    await as(context, user);
    await page.goto(`${shop}/cart?item=7#/pay`);
    await shot('stranger');
    await page.locator('#login').click();
    await consent(page, () => shot('consent'));
    await page.waitForURL(`${shop}/**`);
    assert.match(await page.locator('#openid').innerText(), /^o[\w-]{27}$/);
    assert.equal(await page.locator('#nickname').innerText(), nickname);
    const drawn = await page.locator('#avatar').evaluate(async (image) => {
      await image.decode();
      return image.naturalWidth;
    });
    assert.ok(drawn > 0, 'the picture is there');
    assert.equal(await page.locator('#route').innerText(), '#/pay', 'the route behind # survives');
    const url = new URL(page.url());
    assert.equal(url.searchParams.get('item'), '7');
    assert.equal(url.searchParams.getAll('openid').length, 1);
    await shot('known');

    // Once more: what is in the query already is replaced, not doubled.
    await page.locator('#silent').click();
    await page.waitForURL(`${shop}/**`);
    assert.equal(new URL(page.url()).searchParams.getAll('openid').length, 1);
    assert.match(await page.locator('#openid').innerText(), /^o[\w-]{27}$/);
  });
}

await story('broker back', { userAgent: WECHAT }, async (page) => {
  await page.goto(`${shop}/before`);
  await page.goto(`${shop}/cart`);
  await page.locator('#silent').click();
  await page.waitForURL(/openid=/);
  await page.goBack();
  assert.equal(new URL(page.url()).pathname, '/cart', 'neither WeChat nor the callback is in the way');
});

await story('broker ticket', { userAgent: WECHAT }, async (page, shot, context) => {
  await as(context, 'qiya');
  await page.goto(`${news}/app`);
  await page.locator('#login').click();
  await consent(page);
  await page.waitForURL(/ticket=/);
  await page.waitForFunction(() => document.getElementById('openid').textContent !== '');
  assert.match(await page.locator('#openid').innerText(), /^o[\w-]{27}$/);
  assert.equal(await page.locator('#nickname').innerText(), '琦娅🍭');
  assert.ok(!page.url().includes('openid'), 'nothing personal in the URL');
  await shot('known');
});

await story('broker jssdk', { userAgent: WECHAT }, async (page) => {
  await page.goto(`${shop}/cart?x=1#/pay`);
  const signed = await page.evaluate(() => sign());
  assert.equal(signed.appId, 'wx1');
  assert.match(signed.signature, /^[0-9a-f]{40}$/);
  assert.equal(signed.url, `${shop}/cart?x=1`);
  await page.goto(`${news}/app`);
  const refused = await page.evaluate(() => sign().then(() => 'read', () => 'refused')).catch(() => 'refused');
  assert.equal(refused, 'refused', 'another origin reads nothing');
}, /CORS|Failed to load|Access-Control/);

for (const locale of ['zh-CN', 'en-US']) {
  await story(`broker outside WeChat ${locale}`, { viewport: DESK, locale }, async (page, shot) => {
    await page.goto(`${news}/app`);
    await page.locator('#login').click();
    await page.waitForURL(/\/auth\?/);
    assert.equal(await page.locator('svg.qr').count(), 1);
    await shot('page');
  });
  await story(`broker unregistered ${locale}`, { userAgent: WECHAT, locale }, async (page, shot) => {
    const answer = await page.goto(`${broker}/auth?url=${encodeURIComponent('https://evil.example/')}`);
    assert.equal(answer.status(), 400);
    assert.ok(!(await text(page)).includes('evil'));
    await shot('page');
  });
}

await finish();
await running.stop().then((codes) => assert.deepEqual(codes, [0, 0]));
for (const server of sites) server.close();
