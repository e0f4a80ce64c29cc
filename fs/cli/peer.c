/*
 * peer.c: who holds the volume: inviting, joining, listing, removing and renaming peers.
 *
 * Joining makes a follower's volume here: the directory is prepared first, because the token works once; then the other machine
 * is asked (replicate/net/join.h); then the volume is made as that one's is, and DIR/peers last.
 */
#include "fs/cli/acts.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "replicate/net/join.h"

#define TOKEN_TEXT_MAX 4096

int verb_peer_invite(const struct args *a)
{
	const char *path = a->operand[0], *name = a->name ? a->name : "";
	CLEANUP_BUF struct buf value = {0}, text = {0};
	struct token token;

	buf_printf(&value, "%s %s %" PRIu64, *name ? name : "-", a->address ? a->address : "-",
		   a->ttl_ns / (uint64_t)NSEC_PER_SEC);
	buf_put_u8(&value, '\0');
	int r = value.failed ? -ENOMEM : attribute_set(path, "peer.invite", (const char *)value.p);
	if (r == 0)
		r = attribute_read(path, "peer.invite", &text);
	if (r < 0) {
		complain_admin("nobody invited", path, r);
		return EXIT_FAILED;
	}
	if (token_parse((const char *)text.p, &token) < 0 || (*name && strcmp(token.name, name) != 0)) {
		complain("nobody invited: somebody else made an invitation at the same moment; try again");
		return EXIT_FAILED;
	}
	token_wipe(&token);
	printf("%s\n", (const char *)text.p);
	return EXIT_OK;
}

/* From the command line or, for "-", from standard input, where other users cannot see it. */
static int token_read(const char *operand, struct token *ret)
{
	char text[TOKEN_TEXT_MAX];

	if (strcmp(operand, "-") != 0)
		return token_parse(operand, ret);
	if (!fgets(text, sizeof(text), stdin))
		return -EINVAL;
	text[strcspn(text, " \r\n")] = '\0';
	int r = token_parse(text, ret);
	explicit_bzero(text, sizeof(text));
	return r;
}

/* The first entry of the new volume's audit log. */
static int enter(const struct format_target *t, const struct joined *j)
{
	const struct peer *self = peers_by_id(&j->peers, j->node_id);
	struct act act;
	int r = act_begin_in("peer join", t->v.fs.store, self ? self->name : "", &act);

	if (r < 0)
		volume_complain("cannot begin the audit log of", t->v.dir, r);
	else
		act_end(&act, 0, NULL);
	return r;
}

static int make_follower(const struct args *a, struct format_target *t, const struct joined *j)
{
	const struct volume_geometry *g = &j->geometry;
	const struct volume_sizes usual = {.journal_bytes = g->journal_segments * (g->journal_segment_kib * KIB),
					   .segment_bytes = g->journal_segment_kib * KIB,
					   .chunk_bytes = g->chunk_kib * KIB};
	struct fs_format_options o;
	int r = format_plan(a, &usual, &o);

	if (r < 0)
		return r;
	memcpy(o.volume, j->volume, sizeof(o.volume));
	memcpy(o.node, j->node, sizeof(o.node));
	o.label = g->label;
	o.node_id = j->node_id;
	o.epoch = j->epoch;
	o.follower = true;
	r = format_volume(a, t, &o);
	if (r == 0)
		r = join_store(t->v.dir, j);
	return r < 0 ? r : enter(t, j);
}

/* Between an empty directory and a follower's volume in it. */
static int join(const struct args *a, const struct token *token, struct format_target *t)
{
	const struct join_options o = {.address = a->address, .name = a->name};
	struct joined j;
	int r = join_dial(token, &o, &j);

	if (r < 0)
		return r;
	r = make_follower(a, t, &j);
	if (r < 0) {
		const struct peer *self = peers_by_id(&j.peers, j.node_id);

		complain(
		    "the others know this node as %s all the same: `clawfs peer remove %s MOUNTPOINT` there, then invite anew",
		    self ? self->name : "?", self ? self->name : "NAME");
	}
	joined_free(&j);
	return r;
}

int verb_peer_join(const struct args *a)
{
	const char *dir = a->operand[1];
	struct format_target t;
	struct token token;
	enum encryption mode;

	if (format_encryption(a, &mode) < 0 || !format_force_is_right(a, dir))
		return EXIT_USAGE;
	if (token_read(a->operand[0], &token) < 0) {
		complain(
		    "that is no token: `clawfs peer invite MOUNTPOINT` on the leader prints one, beginning with " TOKEN_PREFIX);
		return EXIT_USAGE;
	}
	int r = format_begin(a, dir, &t);
	if (r == 0)
		r = format_end(&t, join(a, &token, &t));
	token_wipe(&token);
	if (r < 0)
		return EXIT_FAILED;
	text_print(dir);
	printf(": a follower's volume now; mount it with: clawfs mount ");
	text_print(dir);
	printf(" MOUNTPOINT\n");
	return EXIT_OK;
}

static const char *text_of(const json_t *peer, const char *key)
{
	const char *text = json_string_value(json_object_get(peer, key));

	return text && *text ? text : "-";
}

static void peer_print(const json_t *peer)
{
	const json_t *lag = json_object_get(peer, "lag_seconds");

	printf("%-16s %4" JSON_INTEGER_FORMAT "  %-8s  %-13s %-24s", text_of(peer, "name"),
	       json_integer_value(json_object_get(peer, "id")),
	       json_is_true(json_object_get(peer, "leads")) ? "leader" : "follower",
	       json_is_true(json_object_get(peer, "self")) ? "this node" : text_of(peer, "state"), text_of(peer, "address"));
	if (lag)
		printf(" %.3f s behind", json_number_value(lag));
	putchar('\n');
}

int verb_peer_list(const struct args *a)
{
	const json_t *peer;
	json_t *peers = NULL;
	size_t i;
	int r = attribute_json(a->operand[0], "peers", &peers);

	if (r == 0 && !json_is_array(peers))
		r = -EPROTO;
	if (r < 0)
		complain_admin("no peers", a->operand[0], r);
	else if (a->json)
		json_print(peers);
	else
		json_array_foreach(peers, i, peer) peer_print(peer);
	json_decref(peers);
	return r < 0 ? EXIT_FAILED : EXIT_OK;
}

int verb_peer_remove(const struct args *a)
{
	int r = attribute_set(a->operand[1], "peer.remove", a->operand[0]);

	if (r < 0)
		complain_admin("not removed", a->operand[1], r);
	return r < 0 ? EXIT_FAILED : EXIT_OK;
}

int verb_peer_rename(const struct args *a)
{
	CLEANUP_BUF struct buf value = {0};

	if (!peer_name_ok(a->operand[1])) {
		complain("%s: a name has letters, digits, '-', '_' and '.', up to 64, the first a letter or digit",
			 a->operand[1]);
		return EXIT_USAGE;
	}
	buf_printf(&value, "%s %s", a->operand[0], a->operand[1]);
	buf_put_u8(&value, '\0');
	int r = value.failed ? -ENOMEM : attribute_set(a->operand[2], "peer.rename", (const char *)value.p);
	if (r < 0)
		complain_admin("not renamed", a->operand[2], r);
	return r < 0 ? EXIT_FAILED : EXIT_OK;
}
