-- Asks wxgate whether a request may pass, and who sent it. Loaded by haproxy.cfg; nothing else is
-- needed: HAProxy has its own HTTP client since 2.5.

local GATEWAY = 'http://127.0.0.1:8080/_wx/verify'
local TIMEOUT = 3000 -- milliseconds

-- What belongs to the connection or to the body. All other headers are asked about: wxgate refuses a
-- request with a name of its own that EXTRA has not, so that forgetting one lets nobody be somebody else.
local NOT_ASKED = {
  ['connection'] = true, ['content-length'] = true, ['expect'] = true, ['host'] = true,
  ['http2-settings'] = true, ['keep-alive'] = true, ['proxy-connection'] = true, ['te'] = true,
  ['trailer'] = true, ['transfer-encoding'] = true, ['upgrade'] = true,
}

-- [session] cookie.
local COOKIE = 'wxgate'

-- Names beside X-WeChat-* and X-WX-*, which [site.headers] adds: { 'remote-user' }
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

local function ours()
  local names = {}
  for _, extra in ipairs(EXTRA) do
    names[folded(extra)] = true
  end
  return names
end

local function introduce(txn, answer)
  local names = ours()
  for name in pairs(txn.http:req_get_headers()) do
    if names[folded(name)] then
      txn.http:req_del_header(name)
    end
  end
  for name, values in pairs(answer.headers) do
    if name:find('^x%-wechat%-') or name:find('^x%-wx%-') or names[folded(name)] then
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

core.register_action('wxgate_strip_set_cookie', { 'http-res' }, function(txn)
  local values = txn.http:res_get_headers()['set-cookie']
  local kept, found = {}, false
  for at = 0, values and #values or -1 do
    local name = values[at]:match('^[%s=]*([^=;]*)'):lower():gsub('%s+$', ''):gsub('^__host%-', '')
    if name == COOKIE or name:sub(1, #COOKIE + 6) == COOKIE .. '-flow-' then
      found = true
    else
      kept[#kept + 1] = values[at]
    end
  end
  if found then
    txn.http:res_del_header('set-cookie')
    for _, value in ipairs(kept) do
      txn.http:res_add_header('set-cookie', value)
    end
  end
end)

core.register_action('wxgate_verify', { 'http-req' }, function(txn)
  local sent = {
    ['x-original-method'] = { txn.f:method() },
    ['x-original-uri'] = { txn.f:pathq() },
  }
  local names = ours()
  for name, values in pairs(txn.http:req_get_headers()) do
    if not NOT_ASKED[name] and not names[folded(name)] then
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
