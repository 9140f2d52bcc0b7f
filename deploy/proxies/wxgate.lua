-- Asks wxgate whether a request may pass, and who sent it. Loaded by haproxy.cfg; nothing else is
-- needed: HAProxy has its own HTTP client since 2.5.

local GATEWAY = 'http://127.0.0.1:8080/_wx/verify'
local TIMEOUT = 3000 -- milliseconds

-- What a decision depends on. Whatever else a visitor sends stays here.
local ASKED = {
  'accept', 'accept-language', 'access-control-request-method', 'cookie', 'origin',
  'sec-fetch-dest', 'sec-fetch-mode', 'sec-fetch-site', 'upgrade-insecure-requests',
  'user-agent', 'x-forwarded-for', 'x-forwarded-host', 'x-forwarded-proto', 'x-request-id',
  'x-requested-with', 'x-http-method-override', 'x-http-method', 'x-method-override',
}

-- Names beside X-WeChat-*, which [site.headers] adds: { 'x-wx-openid', 'remote-user' }
local EXTRA = {}

-- PHP, WSGI and CGI read names as equal that differ in case and separators, with or without HTTP_.
local function folded(name)
  return (name:lower():gsub('[^%w]', '-'):gsub('^http%-', ''))
end

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

local function introduce(txn, answer)
  local ours = {}
  for _, extra in ipairs(EXTRA) do
    ours[folded(extra)] = true
  end
  for name in pairs(txn.http:req_get_headers()) do
    if ours[folded(name)] then
      txn.http:req_del_header(name)
    end
  end
  for name, values in pairs(answer.headers) do
    if name:sub(1, 9) == 'x-wechat-' or ours[name] then
      txn.http:req_del_header(name)
      if values[0] ~= nil and values[0] ~= '' then
        txn.http:req_add_header(name, values[0])
      end
    end
  end
  -- The visitor's cookies without wxgate's own, which the site is not to see.
  txn.http:req_del_header('cookie')
  local cookies = answer.headers['cookie']
  if cookies and cookies[0] ~= '' then
    txn.http:req_add_header('cookie', cookies[0])
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
  local answer = core.httpclient():get({ url = GATEWAY, headers = sent, timeout = TIMEOUT })
  if not answer or not answer.status or answer.status == 0 or answer.status >= 500 then
    refuse(txn, 503, 'The login service cannot be reached.\n')
  elseif answer.status == 204 then
    introduce(txn, answer)
  else
    stop(txn, answer)
  end
end)
