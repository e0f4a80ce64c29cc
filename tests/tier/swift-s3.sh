#!/bin/sh
# OpenStack Swift all in one with the s3api middleware, for tests
# (Debian: swift-proxy swift-account swift-container swift-object memcached; no keystone).
#   swift-s3.sh start DIR S3_PORT BASE_PORT   account/container/object/memcached on BASE_PORT+0..3
#   swift-s3.sh stop  DIR
# DIR must be on a file system with user.* extended attributes (ext4, xfs, btrfs; tmpfs from Linux 6.6).
# With tempauth the access key is "account:user": default test:tester, secret testing.
# S3_PAGE: keys of a page of a listing.
# Nothing under /etc/swift is read: the launcher points Swift at DIR/swift.conf.
set -eu
cmd=${1:?start|stop}; DIR=${2:?dir}
ACCOUNT=${S3_ACCOUNT:-test} USER_=${S3_USER:-tester} SK=${S3_SECRET_KEY:-testing}
alive() { s=$(sed -n 's/^State:[[:space:]]*//p' "/proc/$1/status" 2>/dev/null) && [ -n "$s" ] && [ "${s%% *}" != Z ]; }
stop() {
	p=$DIR/pid
	[ -s "$p" ] || return 0
	pid=$(cat "$p"); n=0
	kill "$pid" 2>/dev/null || :
	while alive "$pid"; do
		n=$((n + 1)); [ $n -eq 50 ] && kill -9 "$pid" 2>/dev/null
		sleep 0.1
	done
	rm -f "$p"
}
case $cmd in
stop) stop; exit 0 ;;
start) ;;
*) echo "start|stop" >&2; exit 2 ;;
esac
PORT=${3:?s3 port}; BASE=${4:?base port}
mkdir -p "$DIR/srv/d1"; DIR=$(cd "$DIR" && pwd)
cat > "$DIR/swift.conf" <<CONF
[swift-hash]
swift_hash_path_prefix = claw
swift_hash_path_suffix = fs
[storage-policy:0]
name = gold
default = yes
CONF
common="bind_ip = 127.0.0.1
workers = 0
user = $(id -un)
swift_dir = $DIR
devices = $DIR/srv
mount_check = false
disable_fallocate = true
fallocate_reserve = 0
log_level = WARNING
log_address = $DIR/log.sock"
n=0
for t in account container object; do
	cat > "$DIR/$t-server.conf" <<CONF
[DEFAULT]
$common
bind_port = $((BASE + n))
[pipeline:main]
pipeline = $t-server
[app:$t-server]
use = egg:swift#$t
allow_open_expired = false
# A busy machine is no broken one: listings must be complete when a PUT has returned.
conn_timeout = 30
node_timeout = 60
container_update_timeout = 60
CONF
	n=$((n + 1))
done
cat > "$DIR/proxy-server.conf" <<CONF
[DEFAULT]
bind_ip = 127.0.0.1
bind_port = $PORT
workers = 0
user = $(id -un)
swift_dir = $DIR
log_level = WARNING
log_address = $DIR/log.sock
[pipeline:main]
pipeline = catch_errors gatekeeper cache listing_formats bulk s3api tempauth copy slo versioned_writes symlink proxy-server
[app:proxy-server]
use = egg:swift#proxy
account_autocreate = true
conn_timeout = 30
node_timeout = 60
recoverable_node_timeout = 60
error_suppression_limit = 1000000
allow_account_management = true
[filter:catch_errors]
use = egg:swift#catch_errors
[filter:gatekeeper]
use = egg:swift#gatekeeper
[filter:cache]
use = egg:swift#memcache
memcache_servers = 127.0.0.1:$((BASE + 3))
[filter:listing_formats]
use = egg:swift#listing_formats
[filter:bulk]
use = egg:swift#bulk
[filter:s3api]
use = egg:swift#s3api
location = us-east-1
s3_acl = false
max_bucket_listing = ${S3_PAGE:-1000}
[filter:tempauth]
use = egg:swift#tempauth
user_${ACCOUNT}_${USER_} = $SK .admin
[filter:copy]
use = egg:swift#copy
[filter:slo]
use = egg:swift#slo
[filter:versioned_writes]
use = egg:swift#versioned_writes
allow_object_versioning = true
[filter:symlink]
use = egg:swift#symlink
CONF
cat > "$DIR/launch.py" <<'PY'
import os, sys, signal
d, base = sys.argv[1], int(sys.argv[2])
import swift.common.utils as u
u.set_swift_dir(d)
# rings: one device, one replica
from swift.common.ring.builder import RingBuilder
for i, t in enumerate(('account', 'container', 'object')):
    b = RingBuilder(1, 1, 1)
    b.add_dev({'id': 0, 'region': 1, 'zone': 1, 'ip': '127.0.0.1', 'port': base + i, 'device': 'd1', 'weight': 1, 'meta': ''})
    b.rebalance(); b.get_ring().save(os.path.join(d, t + '.ring.gz'))
from swift.common.wsgi import run_wsgi
import subprocess
mc = ['memcached', '-l', '127.0.0.1', '-p', str(base + 3), '-m', '16', '-t', '1', '-U', '0']
kids = [subprocess.Popen(mc + (['-u', 'nobody'] if os.getuid() == 0 else [])).pid]
for t in ('account', 'container', 'object', 'proxy'):
    pid = os.fork()
    if pid == 0:
        sys.exit(run_wsgi(os.path.join(d, t + '-server.conf'), t + '-server', default_port=0))
    kids.append(pid)
def end(*a):
    for k in kids:
        try: os.kill(k, signal.SIGKILL)
        except OSError: pass
    os._exit(0)
signal.signal(signal.SIGTERM, end)
os.wait(); end()
PY
setsid nohup /usr/bin/python3 -W ignore "$DIR/launch.py" "$DIR" "$BASE" >"$DIR/log" 2>&1 </dev/null &
echo $! > "$DIR/pid"
n=0
# All of it: the proxy may be up long before what stores things.
up() {
	for p in "$PORT" "$BASE" $((BASE + 1)) $((BASE + 2)); do
		curl -s -o /dev/null "http://127.0.0.1:$p/" || return 1
	done
}
until up; do
	n=$((n + 1))
	if [ $n -gt 600 ] || ! alive "$(cat "$DIR/pid")"; then
		echo "swift did not answer" >&2; cat "$DIR/log" >&2; stop; exit 1
	fi
	sleep 0.1
done
echo "http://127.0.0.1:$PORT"
