// A real Chromium, the size of a phone, logs in through `wxgate demo` by clicking.
//
// usage: node demo.mjs PATH_OF_WXGATE FOLDER_FOR_SCREENSHOTS

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { mkdirSync } from 'node:fs';
import { createServer } from 'node:net';
import { chromium } from 'playwright-core';

const [binary, artifacts] = process.argv.slice(2);
mkdirSync(artifacts, { recursive: true });

const PHONE = { width: 390, height: 844 };
const DESK = { width: 1280, height: 800 };
const WECHAT = 'Mozilla/5.0 (iPhone; CPU iPhone OS 16_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Mobile/15E148 MicroMessenger/8.0.50(0x18003234) NetType/WIFI Language/zh_CN';

/** The demo, once it has said where it is. */
async function startDemo() {
  const port = await freePort();
  const demo = spawn(binary, ['demo', '--listen', `127.0.0.1:${port}`], { stdio: ['ignore', 'pipe', 'inherit'] });
  let said = '';
  const url = await new Promise((found, failed) => {
    const late = setTimeout(() => failed(new Error(`the demo did not say where it is: ${said}`)), 20_000);
    demo.stdout.on('data', (data) => {
      said += data;
      const match = /Ctrl-C/.test(said) && said.match(/Open (http:\S+)/);
      if (match) { clearTimeout(late); found(match[1]); }
    });
    demo.on('exit', (code) => failed(new Error(`the demo ended with ${code}: ${said}`)));
  });
  const wechat = said.match(/: (http:\S+)\n\nCtrl/)[1];
  return { demo, url, wechat };
}

function freePort() {
  return new Promise((found) => {
    const server = createServer().listen(0, '127.0.0.1', () => {
      const { port } = server.address();
      server.close(() => found(port));
    });
  });
}

const { demo, url, wechat } = await startDemo();
const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
  args: ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking', '--disable-component-update', '--disable-sync'],
});

let passed = 0;
let failed = 0;

/** One story in a browser of its own. What a page complains of on its console fails it. */
async function story(name, options, tell) {
  const context = await browser.newContext({ viewport: PHONE, locale: 'zh-CN', ...options });
  const page = await context.newPage();
  const complaints = [];
  page.on('console', (message) => {
    const expected = /status of 40[134]/.test(message.text()); // a refusal that the story is about
    if (message.type() === 'error' && !expected) complaints.push(message.text());
  });
  page.on('pageerror', (error) => complaints.push(String(error)));
  const shot = (what) => page.screenshot({ path: `${artifacts}/${name.replaceAll(' ', '-')}-${what}.png` });
  try {
    await tell(page, shot, context);
    assert.deepEqual(complaints, [], 'the console stays quiet');
    passed += 1;
    console.log(`ok   ${name}`);
  } catch (error) {
    failed += 1;
    await shot('failed').catch(() => {});
    console.log(`FAIL ${name}\n${error.stack}\nat ${page.url()}`);
  } finally {
    await context.close();
  }
}

const text = (page) => page.locator('body').innerText();

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
  await page.locator('#allow').click();
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
  await page.locator('#allow').click();
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
  await page.locator('#allow').click();
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

await browser.close();
demo.removeAllListeners('exit');
const ended = new Promise((over) => demo.on('exit', over));
demo.kill('SIGTERM');
assert.equal(await ended, 0, 'the demo drains and ends well');
console.log(`${passed} passed, ${failed} failed`);
process.exit(failed === 0 ? 0 : 1);
