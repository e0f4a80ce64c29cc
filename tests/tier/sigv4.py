"""sigv4: AWS Signature Version 4 in Python, for the tests' own requests and for the fake store that checks ours.

Written from AWS's description and apart from tier/s3/sigv4.c, so that a mistake in one is seen by the other.
"""

import hashlib
import hmac
import http.client
import ssl
import time
import urllib.parse

EMPTY = hashlib.sha256(b"").hexdigest()


def _hmac(key, text):
    return hmac.new(key, text.encode(), hashlib.sha256).digest()


def canonical_query(raw):
    pairs = urllib.parse.parse_qsl(raw, keep_blank_values=True)
    quoted = sorted((urllib.parse.quote(k, safe="-._~"), urllib.parse.quote(v, safe="-._~")) for k, v in pairs)
    return "&".join("%s=%s" % p for p in quoted)


def signature(secret, method, raw_path, raw_query, headers, signed, payload, stamp, region, service="s3"):
    """`headers`: a dict of small names; `signed`: the names that are signed, in order."""
    lines = "".join("%s:%s\n" % (name, " ".join(headers.get(name, "").split())) for name in signed)
    canonical = "\n".join((method, raw_path, canonical_query(raw_query), lines, ";".join(signed), payload))
    scope = "%s/%s/%s/aws4_request" % (stamp[:8], region, service)
    text = "\n".join(("AWS4-HMAC-SHA256", stamp, scope, hashlib.sha256(canonical.encode()).hexdigest()))
    key = _hmac(("AWS4" + secret).encode(), stamp[:8])
    for part in (region, service, "aws4_request"):
        key = _hmac(key, part)
    return scope, hmac.new(key, text.encode(), hashlib.sha256).hexdigest()


class Client:
    """Signed requests to a store, for what the store under test has no verb for: making buckets, looking inside."""

    def __init__(self, endpoint, access_key, secret_key, region="us-east-1", ca=None):
        self.url = urllib.parse.urlsplit(endpoint)
        self.access_key, self.secret_key, self.region = access_key, secret_key, region
        self.context = ssl.create_default_context(cafile=ca) if self.url.scheme == "https" else None

    def request(self, method, path, query="", body=b"", headers=None, timeout=60):
        """(status, headers, body)"""
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        raw_path = urllib.parse.quote(path, safe="/-._~")
        payload = hashlib.sha256(body).hexdigest()
        own = {"host": self.url.netloc, "x-amz-date": stamp, "x-amz-content-sha256": payload}
        own.update({k.lower(): v for k, v in (headers or {}).items()})
        signed = sorted(own)
        scope, sign = signature(self.secret_key, method, raw_path, query, own, signed, payload, stamp, self.region)
        own["authorization"] = "AWS4-HMAC-SHA256 Credential=%s/%s, SignedHeaders=%s, Signature=%s" % (
            self.access_key, scope, ";".join(signed), sign)
        if self.context:
            connection = http.client.HTTPSConnection(self.url.hostname, self.url.port, timeout=timeout, context=self.context)
        else:
            connection = http.client.HTTPConnection(self.url.hostname, self.url.port, timeout=timeout)
        try:
            connection.request(method, raw_path + ("?" + canonical_query(query) if query else ""), body, own)
            answer = connection.getresponse()
            return answer.status, dict(answer.getheaders()), answer.read()
        finally:
            connection.close()

    def make_bucket(self, name):
        status, _, body = self.request("PUT", "/" + name)
        if status not in (200, 201):
            raise RuntimeError("bucket %s: %d %s" % (name, status, body[:300]))
