<?php
// The guestbook's backend: messages are appended through the leader and read from a follower.
//   /guestbook.php?cmd=set&key=messages&value=hello   and   /guestbook.php?cmd=get&key=messages
// GET_HOSTS_FROM=dns finds redis by service names, =env by the service environment variables.
error_reporting(E_ALL);
ini_set('display_errors', '1');
header('Content-Type: application/json');

function host(string $role): string {
    if (getenv('GET_HOSTS_FROM') === 'env') {
        return getenv('REDIS_' . strtoupper($role) . '_SERVICE_HOST');
    }
    return 'redis-' . $role;
}

$redis = new Redis();
$key = $_GET['key'] ?? 'messages';
if (($_GET['cmd'] ?? '') === 'set') {
    $redis->connect(host('leader'), 6379, 2.0);
    $redis->set($key, $_GET['value'] ?? '');
    echo json_encode(['message' => 'Updated']), "\n";
} else {
    $redis->connect(host('follower'), 6379, 2.0);
    echo json_encode(['data' => $redis->get($key)]), "\n";
}
