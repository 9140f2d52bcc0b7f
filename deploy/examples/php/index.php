<?php
// A page that knows its visitor. `php index.php 8000`, or any PHP host: nothing to install.
if (PHP_SAPI === 'cli') { // started by hand: become PHP's own web server
    $port = $argv[1] ?? (getenv('PORT') ?: '8000');
    pcntl_exec(PHP_BINARY, ['-S', "127.0.0.1:$port", __FILE__]);
    exit("no pcntl here; run: php -S 127.0.0.1:$port " . __FILE__ . "\n");
}

$openid = $_SERVER['HTTP_X_WECHAT_OPENID'] ?? null;
$scope = $_SERVER['HTTP_X_WECHAT_SCOPE'] ?? null;
// Percent-encoded UTF-8, because a header is ASCII. Not urldecode(): that one turns + into a space.
$nickname = isset($_SERVER['HTTP_X_WECHAT_NICKNAME']) ? rawurldecode($_SERVER['HTTP_X_WECHAT_NICKNAME']) : null;

if (parse_url($_SERVER['REQUEST_URI'], PHP_URL_PATH) === '/whoami') {
    header('Content-Type: application/json; charset=utf-8');
    $flags = JSON_UNESCAPED_UNICODE | JSON_UNESCAPED_SLASHES | JSON_INVALID_UTF8_SUBSTITUTE;
    echo json_encode(['openid' => $openid, 'nickname' => $nickname, 'scope' => $scope], $flags), "\n";
    exit;
}

$text = fn (?string $it, string $none): string => htmlspecialchars($it ?? $none, ENT_QUOTES | ENT_SUBSTITUTE, 'UTF-8');
header('Content-Type: text/html; charset=utf-8');
?>
<!doctype html>
<html lang="zh-CN"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>whoami</title>
<h1>你好，<?= $text($nickname, '朋友') ?></h1>
<p>openid: <code><?= $text($openid, '(none)') ?></code></p>
<p>scope: <code><?= $text($scope, '(none)') ?></code></p>
<p><a href="/_wx/logout">退出 / log out</a></p>
