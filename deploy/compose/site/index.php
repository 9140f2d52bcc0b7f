<?php
// The site of ../../compose.yaml. It knows nothing of WeChat and reads who is asking from headers.
$openid = $_SERVER['HTTP_X_WECHAT_OPENID'] ?? null;
$scope = $_SERVER['HTTP_X_WECHAT_SCOPE'] ?? null;
$nickname = isset($_SERVER['HTTP_X_WECHAT_NICKNAME']) ? rawurldecode($_SERVER['HTTP_X_WECHAT_NICKNAME']) : null;
$path = (string) parse_url($_SERVER['REQUEST_URI'], PHP_URL_PATH);

if ($path === '/whoami') {
    header('Content-Type: application/json; charset=utf-8');
    $flags = JSON_UNESCAPED_UNICODE | JSON_UNESCAPED_SLASHES | JSON_INVALID_UTF8_SUBSTITUTE;
    echo json_encode(['openid' => $openid, 'nickname' => $nickname, 'scope' => $scope], $flags), "\n";
    exit;
}

$text = fn (string $it): string => htmlspecialchars($it, ENT_QUOTES | ENT_SUBSTITUTE, 'UTF-8');
$known = array_filter($_SERVER, fn ($name) => str_starts_with((string) $name, 'HTTP_X_WECHAT_'), ARRAY_FILTER_USE_KEY);
header('Content-Type: text/html; charset=utf-8');
?>
<!doctype html>
<html lang="zh-CN"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title><?= $text($path) ?></title>
<h1>你好，<?= $text($nickname ?? '朋友') ?></h1>
<p><a href="/">/</a> 静默登录 ·
   <a href="/member/me">/member/me</a> 需要同意 ·
   <a href="/news/today">/news/today</a> 可不登录 ·
   <a href="/static/about">/static/about</a> 公开 ·
   <a href="/_wx/logout">退出</a></p>
<table>
<?php foreach ($known as $name => $value): ?>
<tr><td><code><?= $text(strtr(substr($name, 5), '_', '-')) ?></code></td><td><?= $text($value) ?></td></tr>
<?php endforeach ?>
</table>
