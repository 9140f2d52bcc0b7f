// What the browser tests share: a real Chromium, programs on free ports, and stories that fail when
// a page complains on its console.

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { mkdirSync, mkdtempSync, writeFileSync } from 'node:fs';
import { connect, createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { chromium } from 'playwright-core';

export const PHONE = { width: 390, height: 844 };
export const DESK = { width: 1280, height: 800 };
export const WECHAT = 'Mozilla/5.0 (iPhone; CPU iPhone OS 16_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Mobile/15E148 MicroMessenger/8.0.50(0x18003234) NetType/WIFI Language/zh_CN';

export const [binary, artifacts] = process.argv.slice(2);
mkdirSync(artifacts, { recursive: true });

export function freePort() {
  return new Promise((found) => {
    const server = createServer().listen(0, '127.0.0.1', () => {
      const { port } = server.address();
      server.close(() => found(port));
    });
  });
}

/** A program of ours, once `ready` is found in what it says, or once it takes connections. */
export async function start(args, { ready, port, env = {} }) {
  const child = spawn(binary, args, { stdio: ['ignore', 'pipe', 'inherit'], env: { ...process.env, ...env } });
  let said = '';
  let over = null;
  child.stdout.on('data', (data) => { said += data; });
  child.on('exit', (code) => { over = code; });
  for (let tries = 0; tries < 400; tries += 1) {
    if (over !== null) throw new Error(`${args[0]} ended with ${over}: ${said}`);
    if (ready ? ready.test(said) : await takesConnections(port)) return { said, stop: () => stop(child) };
    await new Promise((later) => setTimeout(later, 50));
  }
  throw new Error(`${args[0]} did not start: ${said}`);
}

/** What every configuration begins with: where it listens, a key, and an account at the emulated WeChat. */
const basics = ({ gateway, admin, wechat }) => `
[server]
listen = ["127.0.0.1:${gateway}"]
[admin]
listen = "127.0.0.1:${admin}"
[session]
keys = [{ id = "k", secret = { env = "KEY" } }]
[[account]]
name = "main"
app_id = "wx1"
app_secret = { env = "KEY" }
authorize_url = "http://127.0.0.1:${wechat}"
api_urls = ["http://127.0.0.1:${wechat}"]
`;

/** The secret that it names. */
const KEY = 'k'.repeat(32);

/** The emulated WeChat, and a gateway with these lines behind the basics. */
export async function gateway(ports, lines, env = {}) {
  const config = join(mkdtempSync(join(tmpdir(), 'wxgate-')), 'config.toml');
  writeFileSync(config, basics(ports) + lines);
  const emulator = await start(['emulator', '--listen', `127.0.0.1:${ports.wechat}`], { port: ports.wechat });
  const running = await start(['serve', '--config', config], { port: ports.gateway, env: { KEY, ...env } });
  return { stop: () => Promise.all([running.stop(), emulator.stop()]) };
}

/** Says yes to WeChat. */
export async function consent(page, before = async () => {}) {
  await page.locator('#allow').waitFor();
  await before();
  await page.locator('#allow').click();
}

function takesConnections(port) {
  return new Promise((found) => {
    const socket = connect(port, '127.0.0.1', () => { socket.destroy(); found(true); });
    socket.on('error', () => found(false));
  });
}

/** Asks it to stop, and gives its exit code. */
function stop(child) {
  if (child.exitCode !== null) return child.exitCode;
  const ended = new Promise((over) => child.on('exit', over));
  child.kill('SIGTERM');
  return ended;
}

const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
  args: ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking', '--disable-component-update', '--disable-sync'],
});

let passed = 0;
let failed = 0;

/** One story in a browser of its own. */
export async function story(name, options, tell, mayComplain = /^$/) {
  const context = await browser.newContext({ viewport: PHONE, locale: 'zh-CN', ...options });
  const page = await context.newPage();
  const complaints = [];
  page.on('console', (message) => {
    const expected = /status of 40[0134]/.test(message.text()); // a refusal that the story is about
    if (message.type() === 'error' && !expected && !mayComplain.test(message.text())) complaints.push(message.text());
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

/** Closes the browser and says how it went. */
export async function finish() {
  await browser.close();
  console.log(`${passed} passed, ${failed} failed`);
  process.exitCode = failed === 0 ? 0 : 1;
}

export const text = (page) => page.locator('body').innerText();
