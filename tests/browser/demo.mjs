// A real Chromium, the size of a phone, logs in through `wxgate demo` by clicking.
//
// usage: node demo.mjs PATH_OF_WXGATE FOLDER_FOR_SCREENSHOTS

import assert from 'node:assert/strict';
import { DESK, WECHAT, consent, finish, freePort, start, story, text } from './harness.mjs';

const port = await freePort();
const url = `http://127.0.0.1:${port}/`;
const demo = await start(['demo', '--listen', `127.0.0.1:${port}`], { ready: /Ctrl-C/ });
assert.match(demo.said, new RegExp(`Open ${url} in any browser`));
const wechat = demo.said.match(/make it fail: (http:\S+?)\/?\n/)[1];

await story('silent login', {}, async (page, shot) => {
  await page.goto(url);
  await shot('home-stranger');
  assert.doesNotMatch(await text(page), /X-WeChat-OpenId/i, 'nobody is known yet');
  await page.goto(`${url}orders`);
  assert.equal(page.url(), `${url}orders#`, 'back at the page asked for, without code, state or WeChat\'s fragment');
  await shot('orders');
  assert.match(await text(page), /o[\w-]{27}/, 'the site read an openid');
  await page.goto(url);
  await shot('home-known');
  assert.match(await text(page), /X-WeChat-OpenId/i);
});

await story('consent', {}, async (page, shot) => {
  await page.goto(`${url}member`);
  await shot('prompt');
  await page.locator('a.button').click();
  await page.waitForURL(/connect\/oauth2\/authorize/);
  await shot('sheet');
  await consent(page);
  await page.waitForURL(`${url}member#`);
  await shot('member');
  const seen = await text(page);
  assert.match(seen, /李雷/);
  assert.match(seen, /snsapi_userinfo/);
  const avatar = page.locator('img').first();
  assert.ok(await avatar.evaluate((img) => img.complete && img.naturalWidth > 0), 'the picture is there');

  await page.goto(`${url}static/hello`);
  await shot('public');
  assert.doesNotMatch(await text(page), /o[\w-]{27}/, 'a public page is told nothing');

  await page.goto(`${url}_wx/logout`);
  await shot('logout');
  await page.locator('button').click();
  await page.waitForLoadState();
  await shot('goodbye');
  await page.goto(url);
  assert.doesNotMatch(await text(page), /李雷/);
});

await story('a script asks', {}, async (page, shot) => {
  await page.goto(url);
  const ask = () => page.evaluate(async () => {
    const answer = await fetch('/api/me');
    return { status: answer.status, body: await answer.json() };
  });
  const stranger = await ask();
  assert.equal(stranger.status, 401);
  assert.equal(stranger.body.error, 'login_required');
  await shot('stranger');
  await page.goto(new URL(stranger.body.login_url, url).href);
  await page.goto(url);
  const known = await ask();
  assert.equal(known.status, 200);
  assert.match(JSON.stringify(known.body), /o[\w-]{27}/);
});

await story('somebody else', {}, async (page, shot, context) => {
  await context.addCookies([{ name: 'wx_emulator_user', value: 'hanmeimei', url: wechat }]);
  await page.goto(`${url}_wx/login?rd=/member&scope=snsapi_userinfo`);
  await consent(page);
  await page.waitForURL(`${url}member#`);
  await shot('member');
  assert.match(await text(page), /韩梅梅/);
});

await story('english on a desk', { viewport: DESK, locale: 'en-GB' }, async (page, shot, context) => {
  await context.addCookies([{ name: 'wx_emulator_user', value: 'xiaoming', url: wechat }]);
  await page.goto(`${url}member`);
  await shot('prompt');
  assert.equal(await page.locator('html').getAttribute('lang'), 'en');
  await page.locator('a.button').click();
  await shot('sheet');
  await consent(page);
  await page.waitForURL(`${url}member#`);
  await shot('member');
});

await story('the wechat browser itself', { userAgent: WECHAT }, async (page, shot) => {
  await page.goto(`${url}orders?from=menu`);
  assert.equal(page.url(), `${url}orders?from=menu#`);
  await page.goto(wechat);
  await shot('emulator');
});

await story('a page that is not there', {}, async (page, shot) => {
  const answer = await page.goto(`${url}_wx/nothing`);
  assert.equal(answer.status(), 404);
  await shot('notice');
});

await finish();
assert.equal(await demo.stop(), 0, 'the demo drains and ends well');
