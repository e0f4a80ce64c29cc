#!/bin/sh
# Smallest Ceph radosgw (Debian: ceph-mon ceph-osd radosgw) for tests.
#   radosgw.sh start DIR S3_PORT MON_PORT   1 mon + 1 memstore osd + 1 rgw, no mgr, 127.0.0.1 only
#   radosgw.sh stop  DIR
# MON_PORT is used for the monitor (v2); MON_PORT+1 is the v1 port; the osd takes
# MON_PORT+2 .. MON_PORT+20.  Data lives in RAM (memstore) and in DIR.
# Access key and secret: $S3_ACCESS_KEY/$S3_SECRET_KEY, default testkey/testsecret.
# S3_TLS_PORT, S3_TLS_CERT and S3_TLS_KEY (PEM files) add an https endpoint.
# OBJECTSTORE=bluestore keeps the objects in DIR/osd.0/block (a sparse file) instead.
set -eu
cmd=${1:?start|stop}; DIR=${2:?dir}
AK=${S3_ACCESS_KEY:-testkey} SK=${S3_SECRET_KEY:-testsecret}
OBJECTSTORE=${OBJECTSTORE:-memstore}
alive() { s=$(sed -n 's/^State:[[:space:]]*//p' "/proc/$1/status" 2>/dev/null) && [ -n "$s" ] && [ "${s%% *}" != Z ]; }
stop() {
	# front to back: an osd whose monitor is gone waits 10 s for it.  radosgw is slow
	# to answer SIGTERM, and memstore has nothing worth a clean shutdown.
	for d in rgw osd.0 mon.a; do
		p=$DIR/run/$d.pid
		[ -s "$p" ] || continue
		pid=$(cat "$p"); n=0; sig=TERM
		[ $d = rgw ] || [ ! -e "$DIR/osd.0/block" ] && sig=KILL
		kill -$sig "$pid" 2>/dev/null || :
		while alive "$pid"; do
			n=$((n + 1)); [ $n -eq 100 ] && kill -9 "$pid" 2>/dev/null
			sleep 0.1
		done
		rm -f "$p"
	done
}
case $cmd in
stop) stop; exit 0 ;;
start) ;;
*) echo "start|stop" >&2; exit 2 ;;
esac
PORT=${3:?s3 port}; MON=${4:?mon port}
tls=
[ -z "${S3_TLS_PORT:-}" ] || tls=" ssl_endpoint=127.0.0.1:$S3_TLS_PORT ssl_certificate=$S3_TLS_CERT ssl_private_key=$S3_TLS_KEY"
mkdir -p "$DIR/run" "$DIR/log" "$DIR/mon.a" "$DIR/osd.0" "$DIR/rgw"
DIR=$(cd "$DIR" && pwd)
export CEPH_CONF=$DIR/ceph.conf
fsid=$(cat /proc/sys/kernel/random/uuid)
cat > "$CEPH_CONF" <<CONF
[global]
fsid = $fsid
mon host = [v2:127.0.0.1:$MON,v1:127.0.0.1:$((MON + 1))]
ms bind ipv6 = false
ms bind port min = $((MON + 2))
ms bind port max = $((MON + 20))
public addr = 127.0.0.1
cluster addr = 127.0.0.1
auth cluster required = none
auth service required = none
auth client required = none
ms mon client mode = crc
ms mon service mode = crc
ms mon cluster mode = crc
run dir = $DIR/run
crash dir = $DIR/log
log file = $DIR/log/\$type.\$id.log
admin socket = $DIR/run/\$type.\$id.asok
pid file = $DIR/run/\$type.\$id.pid
keyring = $DIR/keyring
log to stderr = false
err to stderr = true
setuser match path =
plugin dir = /usr/lib/$(uname -m)-linux-gnu/ceph
osd class dir = /usr/lib/$(uname -m)-linux-gnu/rados-classes
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 1
osd pool default pgp num = 1
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
mon allow pool size one = true
mon allow pool delete = true
mon max pg per osd = 1000
[mon]
mon data = $DIR/mon.a
mon cluster log file = $DIR/log/cluster.log
mon data avail crit = 1
mon data avail warn = 2
mon osd min up ratio = 0
paxos propose interval = 0.05
paxos min wait = 0.02
mon memory target = 268435456
rocksdb cache size = 16777216
[osd]
osd data = $DIR/osd.0
osd objectstore = $OBJECTSTORE
memstore device bytes = 4294967296
bluestore block create = true
bluestore block size = 8589934592
bluestore fsck on mount = false
osd memory target = 939524096
osd op num shards = 2
osd op num threads per shard = 1
osd max object name len = 2048
osd scrub begin hour = 0
osd scrub end hour = 1
osd beacon report interval = 5
[client.rgw]
log file = $DIR/log/rgw.log
pid file = $DIR/run/rgw.pid
admin socket = $DIR/run/rgw.asok
rgw data = $DIR/rgw
rgw frontends = beast endpoint=127.0.0.1:$PORT$tls tcp_nodelay=1
rgw thread pool size = 32
rgw num rados handles = 1
rgw enable usage log = false
rgw enable ops log = false
rgw gc max objs = 1
rgw lc max objs = 1
rgw num async rados threads = 4
rgw dns name = localhost
rgw bucket default quota max objects = -1
rgw override bucket index max shards = 1
rgw dynamic resharding = false
CONF
monmaptool --create --clobber --fsid "$fsid" --addv a "[v2:127.0.0.1:$MON,v1:127.0.0.1:$((MON + 1))]" "$DIR/monmap" >/dev/null
ceph-mon -i a --mkfs --monmap "$DIR/monmap" -c "$CEPH_CONF"
ceph-mon -i a -c "$CEPH_CONF"
osd_uuid=$(cat /proc/sys/kernel/random/uuid)
ceph -c "$CEPH_CONF" --connect-timeout 30 osd new "$osd_uuid" >/dev/null
ceph-osd -i 0 --mkfs --osd-uuid "$osd_uuid" -c "$CEPH_CONF" 2>"$DIR/log/mkfs.err"
ceph-osd -i 0 -c "$CEPH_CONF"
# the rgw creates its pools itself; with one osd and pg_num 1 that is quick
radosgw -n client.rgw -c "$CEPH_CONF"
radosgw-admin -c "$CEPH_CONF" -n client.rgw user create --uid=test --display-name=test \
	--access-key="$AK" --secret-key="$SK" >"$DIR/log/user.json" 2>"$DIR/log/user.err"
n=0
until curl -s -o /dev/null "http://127.0.0.1:$PORT/"; do
	n=$((n + 1)); [ $n -gt 600 ] && { echo "radosgw did not answer" >&2; stop; exit 1; }
	sleep 0.1
done
echo "http://127.0.0.1:$PORT"
