/*
 * found.c: the first node of a volume: DIR/peers with a CA, its own certificate and a list of one.
 *
 * Each step makes only what is not there, keys before the certificates over them and the list last: a crash anywhere leaves what
 * the next call goes on from, and files that an admin brought are never written over.
 */
#include "replicate/net/join.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "replicate/peerfile.h"
#include "replicate/net/pki.h"

static int64_t now_s(void)
{
	return clock_real_ns(&clock_system) / NSEC_PER_SEC;
}

static int read_or_make_key(const char *dir, const char *name, struct buf *ret)
{
	secret_reserve(ret, PEERFILE_MAX);
	int r = peerfile_read(dir, name, PEERFILE_SECRET, ret);
	if (r != -ENOENT)
		return r;
	r = pki_make_key(ret);
	return r < 0 ? r : peerfile_write(dir, name, buf_slice(ret));
}

static int found_ca(const char *dir, const uint8_t volume[16])
{
	CLEANUP_SECRET struct buf key = {0};
	CLEANUP_BUF struct buf certificate = {0};
	struct pki_span span = pki_ca_span(now_s());

	int r = peerfile_read(dir, FILE_CA_CERTIFICATE, PEERFILE_PLAIN, &certificate);
	if (r != -ENOENT)
		return r;
	r = read_or_make_key(dir, FILE_CA_KEY, &key);
	if (r == 0)
		r = pki_make_ca(buf_slice(&key), volume, &span, &certificate);
	return r < 0 ? r : peerfile_write(dir, FILE_CA_CERTIFICATE, buf_slice(&certificate));
}

static int sign_node(const char *dir, const uint8_t node[16], struct slice key, struct buf *ret)
{
	CLEANUP_SECRET struct buf ca_key = {0};
	CLEANUP_BUF struct buf ca = {0};
	CLEANUP_BUF struct buf request = {0};
	struct pki_span span = pki_node_span(now_s());

	secret_reserve(&ca_key, PEERFILE_MAX);
	int r = peerfile_read(dir, FILE_CA_KEY, PEERFILE_SECRET, &ca_key);
	if (r == -ENOENT)
		log_error("%s/peers: %s is there without %s: bring the certificate of this node, or the key to sign one", dir,
			  FILE_CA_CERTIFICATE, FILE_CA_KEY);
	if (r == 0)
		r = peerfile_read(dir, FILE_CA_CERTIFICATE, PEERFILE_PLAIN, &ca);
	if (r == 0)
		r = pki_make_request(key, node, &request);
	if (r == 0)
		r = pki_sign(buf_slice(&ca), buf_slice(&ca_key), buf_slice(&request), node, &span, ret);
	return r == -ENOENT ? -EUCLEAN : r;
}

static int found_node(const char *dir, const uint8_t node[16])
{
	CLEANUP_SECRET struct buf key = {0};
	CLEANUP_BUF struct buf certificate = {0};

	int r = peerfile_read(dir, FILE_NODE_CERTIFICATE, PEERFILE_PLAIN, &certificate);
	if (r != -ENOENT)
		return r;
	r = read_or_make_key(dir, FILE_NODE_KEY, &key);
	if (r == 0)
		r = sign_node(dir, node, buf_slice(&key), &certificate);
	return r < 0 ? r : peerfile_write(dir, FILE_NODE_CERTIFICATE, buf_slice(&certificate));
}

static int found_list(const char *dir, const uint8_t node[16], uint32_t node_id, const char *name, const char *address)
{
	struct peers p = {.next_id = node_id};
	uint32_t id;

	int r = peers_add(&p, node, name, address ? address : "", &id);
	if (r < 0) {
		log_error("%s/peers: \"%s\" at \"%s\" cannot be in the list of peers: %s", dir, name, address ? address : "",
			  strerror(-r));
		return r;
	}
	return peers_save(dir, &p);
}

int peers_found(const char *dir, const uint8_t volume[16], const uint8_t node[16], uint32_t node_id, const char *name,
		const char *address)
{
	struct peers there;

	int r = peers_load(dir, &there);
	if (r != -ENOENT)
		return r;
	r = found_ca(dir, volume);
	if (r == 0)
		r = found_node(dir, node);
	if (r == 0)
		r = found_list(dir, node, node_id, name, address);
	if (r == -EUCLEAN || r == -EKEYREJECTED) {
		log_error("%s/peers: keys and certificates there are damaged or do not belong together", dir);
		r = -EUCLEAN;
	}
	return r;
}
