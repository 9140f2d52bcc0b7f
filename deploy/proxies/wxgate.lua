-- Asks wxgate whether a request may pass, and who sent it. Loaded by haproxy.cfg; nothing else is
-- needed: HAProxy has its own HTTP client since 2.5.

local GATEWAY = 'http://127.0.0.1:8080/_wx/verify'
local PATIENCE = 3000 -- milliseconds

-- What a decision depends on. Whatever else a visitor sends stays here.
local ASKED = {
  'accept', 'accept-language', 'access-control-request-method', 'cookie', 'origin',
  'sec-fetch-dest', 'sec-fetch-mode', 'sec-fetch-site', 'upgrade-insecure-requests',
  'user-agent', 'x-forwarded-for', 'x-forwarded-host', 'x-forwarded-proto', 'x-request-id',
  'x-requested-with',
}

-- Names beside X-WeChat-*, which [site.headers] adds: { 'x-wx-openid', 'remote-user' }
local EXTRA = {}

local function refuse(txn, status, body)
  local reply = txn:reply({ status = status, body = body })
  reply:add_header('cache-control', 'no-store')
  reply:add_header('content-type', 'text/plain; charset=utf-8')
  txn:done(reply)
end

-- The answer as it is; somebody who opens a page is sent to the login.
local function stop(txn, answer)
  local page = answer.headers['wxgate-asker'] and answer.headers['wxgate-asker'][0] == 'page'
  local status = answer.status
  local body = answer.body
  if status == 401 and page then
    status, body = 302, ''
  end
  local reply = txn:reply({ status = status, body = body })
  for name, values in pairs(answer.headers) do
    if name ~= 'content-length' and name ~= 'transfer-encoding' and name ~= 'connection' then
      for _, value in pairs(values) do
        reply:add_header(name, value)
      end
    end
  end
  txn:done(reply)
end

-- The session is wxgate's to read, not the site's. ([session] cookie is its name.)
local function without_ours(cookies)
  local kept = {}
  for cookie in cookies:gmatch('[^;]+') do
    local name = cookie:match('^%s*([^=]*)'):gsub('^__Host%-', '')
    if name ~= 'wxgate' and not name:find('^wxgate%-flow%-') then
      kept[#kept + 1] = cookie:match('^%s*(.*)$')
    end
  end
  return table.concat(kept, '; ')
end

local function introduce(txn, answer)
  for name, values in pairs(answer.headers) do
    local ours = name:sub(1, 9) == 'x-wechat-'
    for _, extra in ipairs(EXTRA) do
      ours = ours or name == extra
    end
    if ours then
      txn.http:req_del_header(name)
      if values[0] ~= nil and values[0] ~= '' then
        txn.http:req_add_header(name, values[0])
      end
    end
  end
  local sent = txn.http:req_get_headers()['cookie']
  txn.http:req_del_header('cookie')
  for at = 0, sent and #sent or -1 do
    local cookies = without_ours(sent[at])
    if cookies ~= '' then
      txn.http:req_add_header('cookie', cookies)
    end
  end
  local cookie = answer.headers['set-cookie']
  if cookie then
    txn:set_var('txn.wxgate_cookie', cookie[0])
  end
end

core.register_action('wxgate_verify', { 'http-req' }, function(txn)
  local seen = txn.http:req_get_headers()
  local sent = {
    ['x-original-method'] = { txn.f:method() },
    ['x-original-uri'] = { txn.f:pathq() },
  }
  for _, name in ipairs(ASKED) do
    local values = seen[name]
    if values then
      sent[name] = {}
      for at = 0, #values do
        sent[name][at + 1] = values[at]
      end
    end
  end
  local answer = core.httpclient():get({ url = GATEWAY, headers = sent, timeout = PATIENCE })
  if not answer or not answer.status or answer.status == 0 or answer.status >= 500 then
    refuse(txn, 503, 'The login service cannot be reached.\n')
  elseif answer.status == 204 then
    introduce(txn, answer)
  else
    stop(txn, answer)
  end
end)
