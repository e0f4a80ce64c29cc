"""fake_s3: an S3 store in memory that checks every signature and fails on demand.

    with FakeS3() as s:                           # a thread of this process; s.endpoint, s.bucket, s.access_key, s.secret_key
        s.fault("status", verb="PUT", status=503, code="SlowDown", times=2)
        ...
        s.buckets[s.bucket]["some/key"].data      # what it holds
        s.requests                                # what came: [{"verb", "key", "status", "fault", "who", "sent", "received"}]
        s.connections                             # over how many connections

Verbs are PUT, GET, HEAD, DELETE and LIST.  Faults, each for the next `times` requests of a `verb` ("*": any) whose key contains
`key`, after `after` others of the kind were let through:

    status          an error instead: status=, code=, message=, retry_after=, region=
    reset           the connection ends before a byte of an answer
    torn            the answer's body ends half way, with the connection
    torn_upload     the connection ends when half of the body came; nothing is stored
    crash           it is done, and then the connection ends without an answer
    stall           nothing for seconds=, before the answer, or in the middle of its body with middle=True
    duplicate       the request is carried out twice, the answer is the second one; with later=SECONDS the second comes then
    corrupt         a bit of the answer's body is another one
    corrupt_upload  a bit of the request's body is another one when it arrives
    corrupt_stored  a bit changes on its way to the disk; the ETag is that of what is stored, or of what came with lie=True
    lose            the answer of a success, and nothing is done
    whole           the range is not looked at: 200 and everything
    more, less      a range that ends a byte later, or earlier, than was asked for
    garbage         a page of HTML instead of what was asked for, with status=
    hangup          the connection ends after the answer, without a word
    unordered       a listing in the wrong order
    endless         a listing whose next page is the same one

What it is as a whole: clock_offset (seconds its clock is ahead), capacity (bytes; full_answer says how it refuses more),
conditions ("yes", "no": 501 as Swift, "ignored"), md5_etags, page_size, unsigned ("yes": over plain HTTP a body need not be in the
signature by its SHA-256; else one of REFUSE_UNSIGNED).  other_keys: {access key: secret key} of more users.

hook(verb, key, when), if set, is called in the middle of each request: "before" it is carried out and "after" it was, before the
answer.  When it returns true the connection ends there.

From outside: `fake_s3.py --port N` runs it by itself and prints the endpoint; POST /-/fault, /-/clear and /-/set take JSON of
the same words, GET /-/requests tells what came.
"""

import argparse
import base64
import calendar
import collections
import copy
import email.utils
import hashlib
import hmac
import http.server
import json
import os
import re
import socket
import ssl
import struct
import sys
import threading
import time
import urllib.parse
import xml.sax.saxutils

import sigv4

Object = collections.namedtuple("Object", "data etag modified storage_class")
SETTINGS = ("clock_offset", "capacity", "full_answer", "conditions", "md5_etags", "page_size", "secret_key", "access_key",
            "unsigned")


REFUSE_UNSIGNED = {"no": (400, "InvalidRequest", "the payload must be signed over plain HTTP"),
                   "unknown": (400, "XAmzContentSHA256Mismatch", "The provided x-amz-content-sha256 does not match"),
                   "hashed": (403, "SignatureDoesNotMatch", "The signature does not match"),
                   "denied": (403, "AccessDenied", "denied by the bucket's policy")}


class Refusal(Exception):
    def __init__(self, status, code, message="", **headers):
        super().__init__(code)
        self.status, self.code, self.message = status, code, message
        self.headers = {k.replace("_", "-"): str(v) for k, v in headers.items() if v is not None}


class Cut(Exception):
    """The connection ends here."""


def flip(data):
    """A bit in the middle is another one."""
    if not data:
        return data
    changed = bytearray(data)
    changed[len(data) // 2] ^= 0x10
    return bytes(changed)


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    timeout = 120

    # ---- a request

    def handle_any(self):
        self.store = self.server.store
        self.fault, self.who, self.received = None, "", 0
        url = urllib.parse.urlsplit(self.path)
        self.raw_path, self.raw_query = url.path, url.query
        self.query = dict(urllib.parse.parse_qsl(url.query, keep_blank_values=True))
        if self.raw_path.startswith("/-/"):
            return self.control()
        self.bucket, _, self.key = urllib.parse.unquote(self.raw_path)[1:].partition("/")
        host = self.headers.get("Host", "").partition(":")[0]
        if host.endswith(".localhost"):  # the bucket is in the host's name
            self.bucket, self.key = host[:-len(".localhost")], urllib.parse.unquote(self.raw_path)[1:]
        self.verb = "LIST" if self.command == "GET" and not self.key else self.command
        self.fault = self.store._take_fault(self.verb, self.key)
        try:
            self.carry_out()
        except Cut:
            self.cut()
        except Refusal as e:
            self.note(e.status)
            self.refuse(e)

    do_GET = do_HEAD = do_PUT = do_DELETE = do_POST = handle_any

    def carry_out(self):
        f = self.fault or {"kind": ""}
        kind = f["kind"]
        if kind == "reset":
            raise Cut
        if kind == "stall" and not f.get("middle"):
            self.store._wait(f["seconds"])
        body = self.receive(kind)
        if kind == "status":
            raise Refusal(f["status"], f.get("code", "InternalError"), f.get("message", "made to fail"),
                          retry_after=f.get("retry_after"), x_amz_bucket_region=f.get("region"))
        if kind == "garbage":
            return self.answer(f.get("status", 200), b"<html><body>It works!</body></html>")
        self.check_signature(body)
        self.call_hook("before")
        if kind == "duplicate" and "later" in f:
            request = copy.copy(self)  # as it is now: the connection goes on to other ones
            self.store._later(f["later"], lambda: request.do_it(body, kind))
        elif kind == "duplicate":
            self.do_it(body, kind)
        try:
            answer = self.do_it(body, kind)
        except Refusal:
            if kind != "crash":
                raise
        self.call_hook("after")
        if kind == "crash":
            raise Cut
        self.answer(*answer)

    def call_hook(self, when):
        hook = self.store.hook
        if hook and hook(self.verb, self.key, when):
            raise Cut

    def receive(self, kind):
        n = int(self.headers.get("Content-Length") or 0)
        if kind == "torn_upload" and n:
            self.rfile.read(n // 2)
            raise Cut
        body = self.rfile.read(n)
        self.received = len(body)
        if len(body) < n:
            raise Cut
        return flip(body) if kind == "corrupt_upload" else body

    def check_signature(self, body):
        store = self.store
        m = re.fullmatch(r"AWS4-HMAC-SHA256 Credential=([^/]+)/(\d{8})/([^/]+)/s3/aws4_request, ?SignedHeaders=([^,]+), ?"
                         r"Signature=([0-9a-f]{64})", self.headers.get("Authorization", ""))
        if not m:
            raise Refusal(403, "AccessDenied", "no signature")
        access_key, day, region, signed, theirs = m.groups()
        headers = {k.lower(): v for k, v in self.headers.items()}
        stamp, payload = headers.get("x-amz-date", ""), headers.get("x-amz-content-sha256", "")
        names = signed.split(";")
        for name in headers:
            if (name == "host" or name.startswith("x-amz-")) and name not in names:
                raise Refusal(403, "AccessDenied", "%s must be signed" % name)
        secret_key = {**store.other_keys, store.access_key: store.secret_key}.get(access_key)
        if secret_key is None:
            raise Refusal(403, "InvalidAccessKeyId", "The access key does not exist")
        if region != store.region:
            raise Refusal(400, "AuthorizationHeaderMalformed", "the region '%s' is wrong; expecting '%s'" % (region, store.region),
                          x_amz_bucket_region=store.region)
        _, ours = sigv4.signature(secret_key, self.command, self.raw_path, self.raw_query, headers, names, payload, stamp,
                                  region)
        self.who = access_key
        if not hmac.compare_digest(ours, theirs) or not stamp.startswith(day):
            raise Refusal(403, "SignatureDoesNotMatch", "The signature does not match")
        if store.session_token and headers.get("x-amz-security-token") != store.session_token:
            raise Refusal(400, "InvalidToken", "The token is not valid: %s" % headers.get("x-amz-security-token"))
        sent = calendar.timegm(time.strptime(stamp, "%Y%m%dT%H%M%SZ"))
        if abs(sent - store.now()) > 900:
            raise Refusal(403, "RequestTimeTooSkewed", "The difference between the request time and the current time is too large")
        if payload != "UNSIGNED-PAYLOAD" and payload != hashlib.sha256(body).hexdigest():
            raise Refusal(400, "XAmzContentSHA256Mismatch", "The provided x-amz-content-sha256 does not match")
        if payload == "UNSIGNED-PAYLOAD" and not store.tls:
            if store.unsigned != "yes":
                raise Refusal(*REFUSE_UNSIGNED[store.unsigned])
            if body and "content-md5" not in names:
                raise Refusal(400, "InvalidRequest", "nothing in the signature covers the body")

    # ---- what is done: (status, body, headers)

    def do_it(self, body, kind):
        objects = self.store.buckets.get(self.bucket)
        if objects is None:
            raise Refusal(404, "NoSuchBucket", "The specified bucket does not exist")
        with self.store.lock:
            if self.verb == "PUT":
                return self.put(objects, body, kind)
            if self.verb == "DELETE":
                if kind != "lose":
                    objects.pop(self.key, None)
                return 204, b"", {}
            if self.verb == "LIST":
                return self.list(objects, kind)
            if self.verb == "HEAD" and not self.key:
                return 200, b"", {}
            return self.get(objects, kind)

    def put(self, objects, body, kind):
        store = self.store
        md5 = hashlib.md5(body)
        if self.headers.get("Content-MD5", "") != base64.b64encode(md5.digest()).decode():
            raise Refusal(400, "BadDigest", "The Content-MD5 you specified did not match what we received")
        if self.headers.get("If-None-Match"):
            if store.conditions == "no":
                raise Refusal(501, "NotImplemented", "A header you provided implies functionality that is not implemented")
            if store.conditions == "yes" and self.key in objects:
                raise Refusal(412, "PreconditionFailed", "At least one of the pre-conditions you specified did not hold")
        used = sum(len(o.data) for b in store.buckets.values() for o in b.values())
        if store.capacity is not None and used + len(body) > store.capacity:
            raise Refusal(*store.full_answer)
        stored = flip(body) if kind == "corrupt_stored" else body
        etag = (md5 if self.fault and self.fault.get("lie") else hashlib.md5(stored)).hexdigest()
        if not store.md5_etags:
            etag = hashlib.sha1(stored).hexdigest()[:32]
        if kind != "lose":
            objects[self.key] = Object(stored, etag, store.now(), self.headers.get("x-amz-storage-class", ""))
        return 200, b"", {"ETag": '"%s"' % etag}

    def get(self, objects, kind):
        o = objects.get(self.key)
        if o is None:
            raise Refusal(404, "NoSuchKey", "The specified key does not exist.")
        headers = {"ETag": '"%s"' % o.etag, "Last-Modified": email.utils.formatdate(o.modified, usegmt=True)}
        m = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        if not m or kind == "whole" or self.verb == "HEAD":
            return 200, o.data, headers
        first, last = int(m[1]), min(int(m[2]), len(o.data) - 1)
        if first >= len(o.data):
            raise Refusal(416, "InvalidRange", "The requested range is not satisfiable")
        last += {"more": 1, "less": -1}.get(kind, 0)
        headers["Content-Range"] = "bytes %d-%d/%d" % (first, last, max(len(o.data), last + 1))
        return 206, o.data[first:last + 1].ljust(last + 1 - first, b"?"), headers

    def list(self, objects, kind):
        q = self.query
        if q.get("list-type") != "2":
            raise Refusal(400, "InvalidArgument", "only version 2")
        start = bytes.fromhex(q["continuation-token"]).decode() if "continuation-token" in q else q.get("start-after", "")
        keys = sorted((k for k in objects if k.startswith(q.get("prefix", "")) and k > start), key=str.encode)
        page = keys[:min(self.store.page_size, int(q.get("max-keys", "1000")))]
        quote = (lambda k: urllib.parse.quote(k, safe="/*-._")) if q.get("encoding-type") == "url" else xml.sax.saxutils.escape
        out = ['<?xml version="1.0" encoding="UTF-8"?>\n<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">',
               "<Name>%s</Name><Prefix>%s</Prefix>" % (self.bucket, quote(q.get("prefix", "")))]
        if q.get("encoding-type") == "url":
            out.append("<EncodingType>url</EncodingType>")
        for k in reversed(page) if kind == "unordered" else page:
            o = objects[k]
            when = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(o.modified))
            out.append("<Contents><Key>%s</Key><LastModified>%s</LastModified><ETag>&quot;%s&quot;</ETag><Size>%d</Size>"
                       "<StorageClass>STANDARD</StorageClass></Contents>" % (quote(k), when, o.etag, len(o.data)))
        more = len(page) < len(keys) or kind == "endless"
        out.append("<IsTruncated>%s</IsTruncated>" % ("true" if more else "false"))
        if more:
            token = start if kind == "endless" else page[-1]
            out.append("<NextContinuationToken>%s</NextContinuationToken>" % token.encode().hex())
        return 200, "".join(out + ["</ListBucketResult>"]).encode(), {}

    # ---- answers

    def answer(self, status, body, headers=None):
        f = self.fault or {"kind": ""}
        self.note(status, 0 if self.command == "HEAD" else len(body))
        if f["kind"] == "corrupt":
            body = flip(body)
        self.send_head(status, len(body), headers or {})
        if self.command == "HEAD":
            self.close_connection |= f["kind"] == "hangup"
            return
        if f["kind"] == "torn" or f.get("middle"):
            self.wfile.write(body[:len(body) // 2])
            if f["kind"] == "torn":
                return self.cut()
            self.store._wait(f["seconds"])
            body = body[len(body) // 2:]
        self.wfile.write(body)
        self.close_connection |= f["kind"] == "hangup"

    def refuse(self, e):
        body = ("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>%s</Code><Message>%s</Message><RequestId>1</RequestId>"
                "</Error>" % (e.code, xml.sax.saxutils.escape(e.message))).encode()
        self.send_head(e.status, len(body), e.headers)
        if self.command != "HEAD":
            self.wfile.write(body)

    def send_head(self, status, length, headers):
        self.send_response(status)
        for k, v in headers.items():
            self.send_header(k, v)
        if status != 204:
            self.send_header("Content-Length", str(length))
        self.end_headers()

    def note(self, status, sent=0):
        entry = {"verb": self.verb, "key": self.key, "status": status, "fault": self.fault and self.fault["kind"], "who": self.who,
                 "sent": sent, "received": self.received}
        with self.store.lock:
            self.store.requests.append(entry)

    def cut(self):
        """Ends the connection with a reset, as a process that died."""
        self.note(0)
        self.close_connection = True
        try:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
        except OSError:
            pass

    def control(self):
        what = self.raw_path[3:]
        args = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or b"{}")
        self.verb = self.key = ""
        result = {}
        if what == "fault":
            self.store.fault(**args)
        elif what == "clear":
            self.store.clear()
        elif what == "set":
            self.store.set(**args)
        elif what == "requests":
            result = self.store.requests
        body = json.dumps(result).encode()
        self.send_head(200, len(body), {})
        self.wfile.write(body)

    def date_time_string(self, timestamp=None):
        return super().date_time_string(self.server.store.now() if timestamp is None else timestamp)

    def log_message(self, *args):
        pass


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def finish_request(self, request, address):
        with self.store.lock:
            self.store.connections += 1
        # TLS in the connection's own thread: a client that does not shake hands keeps nobody waiting.
        with self.store.tls.wrap_socket(request, server_side=True) if self.store.tls else request as s:
            self.store.open.add(s)
            try:
                self.RequestHandlerClass(s, address, self)
            finally:
                self.store.open.discard(s)

    def handle_error(self, request, address):
        if not isinstance(sys.exc_info()[1], (OSError, ValueError)):
            super().handle_error(request, address)


class FakeS3:
    """tls: (certificate file, key file)."""

    def __init__(self, bucket="cold", access_key="fakekey", secret_key="fakesecret", region="us-east-1", port=0, tls=None):
        self.bucket, self.buckets = bucket, {bucket: {}}
        self.access_key, self.secret_key, self.region, self.session_token = access_key, secret_key, region, ""
        self.clock_offset, self.capacity, self.conditions, self.md5_etags, self.page_size = 0, None, "yes", True, 1000
        self.full_answer = (403, "QuotaExceeded", "no room")
        self.requests, self.faults, self.connections, self.open = [], [], 0, set()
        self.other_keys, self.hook, self.unsigned = {}, None, "yes"
        self.lock = threading.RLock()
        self.closing = threading.Event()
        self.tls = None
        if tls:
            self.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self.tls.load_cert_chain(*tls)
        self.server = Server(("127.0.0.1", port), Handler)
        self.server.store = self
        self.port = self.server.server_address[1]
        self.endpoint = "%s://127.0.0.1:%d" % ("https" if tls else "http", self.port)
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True)
        self.thread.start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        self.closing.set()
        self.server.shutdown()
        self.server.server_close()
        with self.lock:
            for s in list(self.open):
                try:
                    s.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass

    def now(self):
        return time.time() + self.clock_offset

    def fault(self, kind, verb="*", times=1, after=0, key="", **args):
        with self.lock:
            self.faults.append(dict(args, kind=kind, verb=verb, times=times, after=after, key=key))

    def clear(self):
        with self.lock:
            self.faults.clear()

    def set(self, **args):
        for k, v in args.items():
            if k not in SETTINGS:
                raise ValueError(k)
            setattr(self, k, v)

    def credentials(self, path):
        """Writes a file of credentials for this store."""
        write_credentials(path, self.access_key, self.secret_key)
        return path

    def count(self, verb):
        with self.lock:
            return sum(r["verb"] == verb for r in self.requests)

    def _take_fault(self, verb, key):
        with self.lock:
            for f in self.faults:
                if f["verb"] not in ("*", verb) or f["key"] not in key or f["times"] <= 0:
                    continue
                if f["after"] > 0:
                    f["after"] -= 1
                    continue
                f["times"] -= 1
                return f
        return None

    def _wait(self, seconds):
        if self.closing.wait(seconds):
            raise Cut

    def _later(self, seconds, act):
        def run():
            if not self.closing.wait(seconds):
                try:
                    act()
                except Refusal:
                    pass
        threading.Thread(target=run, daemon=True).start()


def write_credentials(path, access_key, secret_key, session_token=""):
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with open(fd, "w") as f:
        f.write("access_key = %s\nsecret_key = %s\n" % (access_key, secret_key))
        if session_token:
            f.write("session_token = %s\n" % session_token)


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--port", type=int, default=0)
    p.add_argument("--bucket", default="cold")
    a = p.parse_args()
    with FakeS3(bucket=a.bucket, port=a.port) as s:
        print(s.endpoint, flush=True)
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            pass


if __name__ == "__main__":
    main()
