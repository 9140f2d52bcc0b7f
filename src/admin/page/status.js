'use strict';
// The page builds everything from text nodes: nothing that a visitor, a site or WeChat said is
// ever read as markup.

const T = {
  zh: {
    other: 'EN', live: '实时', lost: '连接中断，正在重连…', well: '一切正常', wellText: '没有发现问题。', upFor: '已运行', connections: '个连接',
    sites: '站点', lastMinute: '最近一分钟', site: '站点', traffic: '请求（三分钟）', rate: '每秒', errors: '5xx', half: 'p50', most: 'p95', worst: 'p99', ofSite: '其中站点 p95', ofUs: '网关 p95', noSite: '（未知主机）', servers: '服务器', unknown: '尚未连接', since: '自',
    logins: '登录', sinceStart: '自启动以来', started: '去微信', returned: '从微信回来', finished: '得到会话', notBack: '没有回来（或还在路上）', again: '自动重新开始', noLogins: '还没有人登录。',
    sessions: '会话', issued: '签发', renewed: '续期', refused: '拒绝', limits: '触到的限制', nothing: '无',
    wechat: '微信', calls: '调用', code: '结果', meaning: '含义', remedy: '怎么办', endpoint: '接口', took: '耗时 p50 / p95', noCalls: '还没有调用过微信。', accounts: '公众号', hosts: '接口域名',
    store: '存储', kind: '位置', state: '状态', lag: '注销消息延迟', alone: '单机，无需同步', up: '正常', down: '不可用', never: '尚无', failures: '失败次数',
    certificates: '证书', noCertificates: '网关不做 TLS：证书由前面的代理负责。', days: '天后到期', over: '已过期', notCome: '尚未签发', orderFailed: '最近一次申请',
    audit: '审计', all: '全部', noAudit: '还没有记录。', config: '配置', read: '读取于', show: '正在生效的配置（密钥已遮盖）', allKeys: '全部', onlyWritten: '只看写明的', written: '写明', default: '默认', asText: '文件原文', warnings: '提醒', times: '次', level: '日志级别',
    login: '登录', refusal: '拒绝', logout: '注销', revocation: '吊销', reload: '重载', certificate: '证书', failure: '故障',
  },
  en: {
    other: '中文', live: 'live', lost: 'Connection lost, trying again…', well: 'All is well', wellText: 'Nothing is wrong that we know of.', upFor: 'up', connections: 'connections',
    sites: 'Sites', lastMinute: 'last minute', site: 'Site', traffic: 'Requests, three minutes', rate: 'per s', errors: '5xx', half: 'p50', most: 'p95', worst: 'p99', ofSite: 'site p95', ofUs: 'gateway p95', noSite: '(unknown host)', servers: 'Servers', unknown: 'not asked yet', since: 'since',
    logins: 'Logins', sinceStart: 'since the start', started: 'left for WeChat', returned: 'came back', finished: 'got a session', notBack: 'did not come back (or are on their way)', again: 'began again by themselves', noLogins: 'Nobody has logged in yet.',
    sessions: 'Sessions', issued: 'issued', renewed: 're-issued', refused: 'refused', limits: 'limits met', nothing: 'none',
    wechat: 'WeChat', calls: 'Calls', code: 'Answer', meaning: 'Meaning', remedy: 'What to do', endpoint: 'Endpoint', took: 'took p50 / p95', noCalls: 'WeChat has not been asked yet.', accounts: 'Accounts', hosts: 'API hosts',
    store: 'Store', kind: 'Where', state: 'State', lag: 'News of ended sessions', alone: 'alone, nothing to keep in step', up: 'well', down: 'away', never: 'none yet', failures: 'failures',
    certificates: 'Certificates', noCertificates: 'The gateway speaks no TLS: the proxy in front does.', days: 'days left', over: 'expired', notCome: 'none yet', orderFailed: 'Last order',
    audit: 'Audit', all: 'all', noAudit: 'Nothing yet.', config: 'Configuration', read: 'read', show: 'The configuration in force (secrets covered)', allKeys: 'all', onlyWritten: 'only what is written', written: 'written', default: 'default', asText: 'The file, word for word', warnings: 'Warnings', times: 'times', level: 'log level',
    login: 'login', refusal: 'refusal', logout: 'logout', revocation: 'revocation', reload: 'reload', certificate: 'certificate', failure: 'failure',
  },
};

// Reasons of failed logins and refused sessions, and what happened.
const REASONS = {
  login_expired: ['登录已过期，或不是由此网关开始', 'Expired, or never begun here'], cookies_lost: ['回来时没有 cookie', 'Came back without the cookie'],
  declined: ['访客拒绝授权', 'The visitor declined'], consent_needed: ['授权少于页面所需', 'Granted less than the page asks'], code_failed: ['code 失效', 'The code no longer worked'],
  wechat_busy: ['微信繁忙或额度用尽', 'WeChat busy, or a quota used up'], wechat_unreachable: ['微信接口无应答', 'WeChat did not answer'], misconfigured: ['微信不接受公众号凭据', 'WeChat refuses the account'],
  not_allowed: ['微信不允许该访客', 'WeChat refuses the visitor'], forged: ['签名不符', 'Signature does not fit'], clock_skew: ['签发时间在本机的未来：副本时钟相差太多', 'Issued in the future: the clocks of replicas differ'], unknown_key: ['密钥不在列表中', 'Key not in the list'], several: ['两个有效 cookie', 'Two good cookies'],
  elsewhere: ['属于别的站点或公众号', 'Of another site or account'], expired: ['已过期', 'Expired'], ended: ['已注销或被吊销', 'Logged out or revoked'], unsure: ['存储失联，无法确认', 'Store away, nobody can tell'],
  cookie: ['回来时没有 cookie', 'Came back without the cookie'], code: ['code 失效', 'The code no longer worked'],
};

// What the audit trail says, in Chinese; its own words are English.
const WHAT = Object.fromEntries(Object.entries({
  'login finished': '登录完成', 'login failed': '登录失败', 'login starts again': '登录自动重新开始', 'request refused': '请求被拒绝', 'request failed': '请求失败',
  'session refused': '会话被拒绝', 'logged out': '访客注销', 'sessions ended by the operator': '运维吊销了会话', 'configuration and certificates reloaded': '配置与证书已重载',
  'the new configuration was refused; the old one stays': '新配置被拒绝，旧的仍在生效',
  'a certificate has come': '证书已签发', 'no certificate came': '证书申请失败',
  'what only a restart changes has changed': '有改动要重启才生效', 'other lines are written from now on': '日志级别已更改',
}).map(([en, zh]) => [en, { zh, en }]));

const remembered = (() => { try { return localStorage.getItem('wxgate-lang'); } catch { return null; } })();
const wished = new URLSearchParams(location.search).get('lang');
let lang = [wished, remembered, /^zh/i.test(navigator.language) ? 'zh' : 'en'].find((it) => it === 'zh' || it === 'en');
let status = null;
let filter = '';
let configEdition = null;
let configShown = { groups: [], text: '' };
let onlyWritten = false;
const drawn = new Map();

const t = (word) => T[lang][word] ?? word;
const say = (text) => text?.[lang] ?? '';
const reason = (word) => REASONS[word]?.[lang === 'zh' ? 0 : 1] ?? word;
const $ = (id) => document.getElementById(id);

/** An element: attributes, then children, which are nodes or text. */
function el(name, attributes = {}, ...children) {
  const made = name === 'svg' || name === 'path' ? document.createElementNS('http://www.w3.org/2000/svg', name) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key === 'width%') made.style.width = `${value}%`;
    else if (key.startsWith('on')) made.addEventListener(key.slice(2), value);
    else if (value !== null && value !== false) made.setAttribute(key, value === true ? '' : value);
  }
  made.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return made;
}

const head = (title, ...rest) => el('h2', {}, title, ...rest.map((it) => (typeof it === 'string' ? el('small', {}, it) : it)));
const number = (value) => (value >= 100 || Number.isInteger(value) ? Math.round(value).toLocaleString(lang) : value.toFixed(1));

/** The hour of today, or the day and the hour. */
function time(seconds) {
  const [then, now] = [new Date(seconds * 1000), new Date()];
  const hour = then.toLocaleTimeString('en-GB');
  return then.toDateString() === now.toDateString() ? hour : `${then.toLocaleDateString('sv-SE')} ${hour}`;
}


function millis(seconds) {
  if (seconds === null || seconds === undefined) return '–';
  const value = seconds * 1000;
  if (value >= 1000) return `${(value / 1000).toFixed(1)} s`;
  return value >= 10 ? `${Math.round(value)} ms` : `${value.toFixed(1)} ms`;
}

function span(seconds) {
  const units = lang === 'zh' ? ['天', '小时', '分', '秒'] : ['d', 'h', 'min', 's'];
  const parts = [Math.floor(seconds / 86400), Math.floor(seconds / 3600) % 24, Math.floor(seconds / 60) % 60, Math.floor(seconds) % 60];
  const first = parts.findIndex((part) => part > 0);
  const from = first < 0 ? 3 : first;
  return parts.slice(from, from + 2).map((part, at) => `${part} ${units[from + at]}`).join(' ');
}

/** Draws a section anew, but only when what it shows has changed: a selection in it stays. */
function draw(id, shows, build) {
  const key = lang + JSON.stringify(shows);
  if (drawn.get(id) === key) return;
  drawn.set(id, key);
  $(id).replaceChildren(...[build(shows)].flat());
}

function findings(list) {
  if (list.length === 0) return el('div', { class: 'finding well' }, el('b', { class: 'good' }, t('well')), el('p', { class: 'muted' }, t('wellText')));
  return list.map((it) => el('div', { class: `finding ${it.severity}`, 'data-cause': it.cause }, el('code', {}, it.cause), el('b', {}, say(it.title)), el('p', {}, say(it.detail)), el('p', { class: 'muted' }, `→ ${say(it.remedy)}`)));
}

const TICKS = 90; // of two seconds

function sparkline(told) {
  const series = [...Array(Math.max(0, TICKS - told.length)).fill([0, 0]), ...told];
  const most = Math.max(1, ...series.map(([all]) => all));
  const bars = (of) => series.map((point, at) => { const high = of(point) / most * 30; return high > 0 ? `M${at * 2} 30h1.6v${-Math.max(high, 0.6)}h-1.6z` : ''; }).join('');
  return el('svg', { viewBox: `0 0 ${series.length * 2} 30`, preserveAspectRatio: 'none', role: 'img', 'aria-label': `${number(series.at(-1)?.[0] ?? 0)} ${t('rate')}` },
    el('path', { class: 'all', d: bars(([all]) => all) }), el('path', { class: 'bad', d: bars(([, bad]) => bad) }));
}

function server(it) {
  const state = it.well === null ? '' : it.well ? 'up' : 'down';
  const more = it.well === null ? t('unknown') : it.well ? '' : `${it.why} · ${t('since')} ${time(it.since)}`;
  return el('span', { class: `dot ${state}` }, it.name, more && el('small', {}, ` ${more}`));
}

function sites(list) {
  const cell = (label, value, classes = 'n') => el('td', { class: classes, 'data-label': label }, value);
  const rows = list.map((it) => {
    const bad = it.minute.errors;
    const statuses = Object.entries(it.minute.statuses).map(([hundred, count]) => el('i', { class: `s${hundred[0]}`, 'width%': count / Math.max(1, it.minute.requests) * 100 }));
    return el('tbody', { 'data-site': it.name }, el('tr', {},
      el('td', { class: 'wide' }, it.name === '-' ? el('span', { class: 'muted' }, t('noSite')) : el('b', {}, it.name), it.account && el('small', {}, ` ${it.account}`), el('div', { class: 'mix' }, statuses),
        it.servers.length > 0 && el('div', { class: 'chips' }, it.servers.map(server), it.protocol === 'HTTP/2' && el('span', { class: 'muted' }, it.protocol))),
      el('td', { class: 'wide' }, sparkline(it.series)),
      cell(t('rate'), number(it.rate)), cell(t('errors'), bad > 0 ? el('span', { class: 'bad' }, number(bad)) : '0'),
      cell(t('half'), millis(it.minute.half)), cell(t('most'), millis(it.minute.most)), cell(t('worst'), millis(it.minute.worst)),
      cell(t('ofSite'), millis(it.minute.site)), cell(t('ofUs'), millis(it.minute.gateway))));
  });
  const titles = [['site', ''], ['traffic', ''], ['rate', 'n'], ['errors', 'n'], ['half', 'n'], ['most', 'n'], ['worst', 'n'], ['ofSite', 'n'], ['ofUs', 'n']];
  return [head(t('sites'), t('lastMinute')), el('table', { class: 'cards' }, el('thead', {}, el('tr', {}, titles.map(([word, kind]) => el('th', { class: kind }, t(word))))), rows)];
}

function logins(counts) {
  const of = (event, why) => counts.filter(([first, second]) => first === event && (why === undefined || second === why)).reduce((sum, [, , count]) => sum + count, 0);
  const [begun, again, back, done] = [of('started'), of('restarted'), of('returned'), of('finished')];
  if (counts.length === 0) return [head(t('logins')), el('p', { class: 'empty' }, t('noLogins'))];
  const left = begun + again;
  const step = (word, count) => [el('span', {}, t(word)), el('div', { class: 'bar' }, el('i', { 'width%': left > 0 ? Math.min(100, count / left * 100) : 0 })), el('span', { class: 'n', 'data-step': word }, number(count))];
  const lost = (count, why) => count > 0 && el('div', { class: 'lost' }, `−${number(count)} ${why}`);
  const failed = (early) => counts.filter(([event, why]) => event === 'failed' && ['login_expired', 'cookies_lost'].includes(why) === early).map(([, why, count]) => lost(count, reason(why)));
  const restarts = (why) => { const count = of('restarted', why); return count > 0 && el('div', { class: 'lost' }, `↺ ${number(count)} ${t('again')}: ${reason(why)}`); };
  return [head(t('logins'), t('sinceStart')), el('div', { class: 'funnel' },
    step('started', left), lost(Math.max(0, left - back - of('restarted', 'cookie') - of('failed', 'cookies_lost') - of('failed', 'login_expired')), t('notBack')), failed(true), restarts('cookie'),
    step('returned', back), failed(false), restarts('code'), step('finished', done))];
}

function sessions({ counts, limits }) {
  const of = (event) => counts.filter(([first]) => first === event).reduce((sum, [, , count]) => sum + count, 0);
  const refused = counts.filter(([event]) => event === 'refused').map(([, why, count]) => el('div', {}, `${number(count)} `, el('span', { class: 'muted' }, reason(why))));
  const met = limits.map(([key, count]) => el('div', {}, `${number(count)} `, el('code', {}, key)));
  return [head(t('sessions'), t('sinceStart')), el('dl', {}, el('dt', {}, t('issued')), el('dd', {}, number(of('issued'))), el('dt', {}, t('renewed')), el('dd', {}, number(of('renewed'))),
    el('dt', {}, t('refused')), el('dd', {}, refused.length > 0 ? refused : t('nothing')), el('dt', {}, t('limits')), el('dd', {}, met.length > 0 ? met : t('nothing')))];
}

function wechat({ calls, hosts, accounts, took }) {
  const title = head(t('wechat'), t('sinceStart'));
  const states = (word, list) => list.length > 0 && el('div', { class: 'chips' }, el('span', { class: 'muted' }, t(word)), list.map(server));
  if (calls.length === 0) return [title, states('accounts', accounts), states('hosts', hosts), el('p', { class: 'empty' }, t('noCalls'))].filter(Boolean);
  const cell = (label, value, classes = '') => el('td', { class: classes, 'data-label': label }, value);
  const rows = calls.map((it) => el('tr', { 'data-errcode': it.errcode },
    cell(t('code'), el('b', { class: it.errcode === 'ok' ? 'good' : '' }, it.errcode)), cell(t('endpoint'), el('code', {}, it.endpoint)), cell(t('calls'), number(it.total), 'n'), cell(t('lastMinute'), it.minute > 0 ? number(it.minute) : '', 'n'),
    cell(t('meaning'), say(it.meaning), 'wide'), cell(t('remedy'), it.errcode === 'ok' ? '' : say(it.remedy), 'wide')));
  const latency = took.map(([endpoint, half, most]) => el('span', {}, el('code', {}, endpoint), ` ${millis(half)} / ${millis(most)}`));
  return [title, states('accounts', accounts), states('hosts', hosts), el('div', { class: 'chips' }, el('span', { class: 'muted' }, t('took')), latency),
    el('table', { class: 'cards' }, el('thead', {}, el('tr', {}, [['code', ''], ['endpoint', ''], ['calls', 'n'], ['lastMinute', 'n'], ['meaning', ''], ['remedy', '']].map(([word, kind]) => el('th', { class: kind }, t(word))))), el('tbody', {}, rows))].filter(Boolean);
}

function store(it) {
  const state = it.well === null ? el('span', { class: 'dot' }, t('unknown')) : el('span', { class: `dot ${it.well ? 'up' : 'down'}` }, it.well ? t('up') : `${t('down')}: ${it.why}`);
  const lag = it.lag === null ? t('never') : `${it.lag.toFixed(1)} s`;
  return [head(t('store')), el('dl', {}, el('dt', {}, t('kind')), el('dd', {}, it.kind), it.lasting && [el('dt', {}, t('state')), el('dd', {}, state)],
    el('dt', {}, t('lag')), el('dd', {}, it.shared ? lag : t('alone')), it.failures > 0 && [el('dt', {}, t('failures')), el('dd', {}, number(it.failures))])];
}

function certificates(list) {
  if (list.length === 0) return [head(t('certificates')), el('p', { class: 'empty' }, t('noCertificates'))];
  return [head(t('certificates')), el('table', {}, el('tbody', {}, list.map((it) => {
    const kind = it.severity === 'critical' ? 'bad' : it.severity === 'warning' ? 'warn' : 'good';
    const left = it.expires === null ? t('notCome') : it.over ? t('over') : `${it.days} ${t('days')}`;
    return el('tr', {}, el('td', {}, it.names.join(', '), it.why && [el('br'), el('small', { class: 'bad' }, `${t('orderFailed')}: ${it.why}`)]),
      el('td', { class: 'n' }, el('b', { class: kind }, left), it.expires !== null && [el('br'), el('small', {}, time(it.expires))]));
  })))];
}

function audit({ lines, chosen }) {
  const kinds = ['login', 'refusal', 'logout', 'revocation', 'reload', 'certificate', 'failure'];
  const choose = (kind) => () => { filter = kind; render(); };
  const buttons = el('span', { class: 'filter' }, ['', ...kinds].map((kind) => el('button', { type: 'button', 'aria-pressed': String(kind === chosen), onclick: choose(kind) }, t(kind || 'all'))));
  const shown = lines.filter((line) => chosen === '' || line.kind === chosen);
  const fact = ([name, value]) => [el('span', {}, `${name} `), el('b', {}, value), '  '];
  const rows = shown.map((line) => el('tr', { 'data-kind': line.kind }, el('td', { class: 'muted when' }, time(line.at)), el('td', { class: line.good ? 'when' : 'warn when' }, t(line.kind)),
    el('td', { class: 'wide' }, WHAT[line.what]?.[lang] ?? line.what, el('div', { class: 'facts' }, (line.facts ?? []).map(fact)))));
  return [head(t('audit'), buttons), rows.length > 0 ? el('div', { class: 'scroll', tabindex: '0' }, el('table', { class: 'cards' }, el('tbody', {}, rows))) : el('p', { class: 'empty' }, t('noAudit'))];
}

function config({ file, shown, level, written }) {
  const open = (kind) => $('config').querySelector(`details.${kind}`)?.open ?? false;
  const warnings = file.warnings.map((line) => el('p', { class: 'warn' }, line));
  const choose = (only) => () => { onlyWritten = only; render(); };
  const button = (only, word) => el('button', { type: 'button', 'aria-pressed': String(only === written), onclick: choose(only) }, t(word));
  const row = (it) => el('tr', { class: it.written ? 'written' : 'default', 'data-key': it.key },
    el('td', {}, el('code', {}, it.key)), el('td', { class: 'value' }, el('code', {}, it.value)), el('td', { class: 'n' }, el('small', {}, t(it.written ? 'written' : 'default'))));
  const groups = shown.groups.map((it) => ({ ...it, keys: it.keys.filter((key) => key.written || !written) })).filter((it) => it.keys.length > 0);
  const tables = groups.map((it) => el('table', { 'data-table': it.title }, el('caption', {}, el('code', {}, it.title)), el('tbody', {}, it.keys.map(row))));
  const raw = el('details', { class: 'raw', open: open('raw') }, el('summary', {}, t('asText')), el('pre', { tabindex: '0' }, shown.text));
  const details = el('details', { class: 'tables', open: open('tables') }, el('summary', {}, t('show')), el('p', { class: 'filter' }, button(false, 'allKeys'), button(true, 'onlyWritten')), tables, raw);
  details.addEventListener('toggle', () => { if (details.open) fetchConfig(); });
  return [head(t('config'), el('code', {}, file.path), `${t('read')} ${time(file.loaded)}`, `${t('level')} ${level}`), ...warnings, details];
}

async function fetchConfig() {
  if (configEdition === status.file.edition) return;
  configEdition = status.file.edition;
  try { configShown = await (await fetch('/config.json')).json(); } catch { configEdition = null; }
  render();
}

function render() {
  document.documentElement.lang = lang === 'zh' ? 'zh-CN' : 'en';
  $('language').textContent = t('other');
  $('language').lang = lang === 'zh' ? 'en' : 'zh-CN';
  if (!status) return;
  const worst = status.findings[0]?.severity;
  document.title = `${worst === 'critical' ? '✖ ' : worst === 'warning' ? '! ' : ''}wxgate`;
  $('about').textContent = `${status.version} · ${t('upFor')} ${span(status.now - status.began)} · ${number(status.connections)} ${t('connections')}`;
  draw('findings', status.findings, findings);
  draw('sites', status.sites, sites);
  draw('logins', status.logins, logins);
  draw('sessions', { counts: status.sessions, limits: status.limits }, sessions);
  draw('wechat', status.wechat, wechat);
  draw('store', status.store, store);
  draw('certificates', status.certificates, certificates);
  draw('audit', { lines: status.audit, chosen: filter }, audit);
  draw('config', { file: status.file, shown: configShown, level: status.level, written: onlyWritten }, config);
  if ($('config').querySelector('details.tables')?.open) fetchConfig();
}

function alive(yes) {
  $('live').className = yes ? '' : 'lost';
  $('live').textContent = t(yes ? 'live' : 'lost');
  document.body.classList.toggle('stale', !yes);
}

$('language').addEventListener('click', () => {
  lang = lang === 'zh' ? 'en' : 'zh';
  try { localStorage.setItem('wxgate-lang', lang); } catch { /* private windows forget */ }
  alive(!document.body.classList.contains('stale'));
  render();
});
render();
const events = new EventSource('/events');
events.onmessage = (event) => { status = JSON.parse(event.data); alive(true); render(); };
events.onerror = () => alive(false);
