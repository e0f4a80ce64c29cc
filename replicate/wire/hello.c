/* hello.c: HELLO, WELCOME and REFUSE: who a peer is, what it has, and why it is not let in. */
#include "replicate/wire/pieces.h"

#include <assert.h>
#include <errno.h>

#define ERRNO_MAX   4095u
#define NODE_ID_MAX ((1u << EPOCH_NODE_BITS) - 1)
#define FLAGS_ALL   (uint32_t)(HELLO_ANNOUNCE | HELLO_RESYNCING | HELLO_DIFFERS | HELLO_RESYNC_WANTED)

/* Text that goes to logs and terminals: nothing that they would obey. */
static bool text_ok(const uint8_t *p, size_t len)
{
	for (size_t i = 0; i < len; i++)
		if (p[i] < 0x20 || p[i] == 0x7f)
			return false;
	return true;
}

/* `len` bytes of text, terminated in `ret`, which holds max + 1. */
static bool take_text(struct slice *left, size_t len, size_t max, char *ret)
{
	const uint8_t *p = len <= max ? take(left, len) : NULL;

	if (!p || !text_ok(p, len))
		return false;
	memcpy(ret, p, len);
	ret[len] = '\0';
	return true;
}

static size_t text_len(const char *text, size_t max)
{
	size_t len = strnlen(text, max + 1);

	assert(len <= max && text_ok((const uint8_t *)text, len));
	return len;
}

static bool hello_ok(const struct hello *m)
{
	return m->node_id >= 1 && m->node_id <= NODE_ID_MAX && m->role <= ROLE_FOLLOWER && !(m->flags & ~FLAGS_ALL);
}

void hello_put(struct buf *out, const struct hello *m)
{
	size_t name_len = text_len(m->name, WIRE_NAME_MAX), address_len = text_len(m->address, WIRE_TEXT_MAX);
	struct wire_hello w = {
	    .version = le32_make(m->version),
	    .node_id = le32_make(m->node_id),
	    .role = le32_make(m->role),
	    .flags = le32_make(m->flags),
	    .promised = le64_make(m->promised),
	    .history = le64_make(m->history),
	    .seq = le64_make(m->seq),
	    .hash = le64_make(m->hash),
	    .fence = le64_make(m->fence),
	    .name_len = le16_make((uint16_t)name_len),
	    .address_len = le16_make((uint16_t)address_len),
	};

	assert(m->version == WIRE_VERSION && hello_ok(m));
	memcpy(w.volume, m->volume, sizeof(w.volume));
	memcpy(w.node, m->node, sizeof(w.node));
	buf_put(out, &w, sizeof(w));
	buf_put(out, m->name, name_len);
	buf_put(out, m->address, address_len);
}

/* The version says what the rest is, so it is looked at alone. */
static int check_version(struct slice body)
{
	const le32 *version = take(&body, sizeof(*version));

	if (!version)
		return -EUCLEAN;
	return le32_get(*version) == WIRE_VERSION ? 0 : -EPROTONOSUPPORT;
}

int hello_get(struct slice body, struct hello *ret)
{
	struct slice left = body;
	int r = check_version(body);

	if (r)
		return r;
	const struct wire_hello *w = take(&left, sizeof(*w));
	if (!w || le32_get(w->zero))
		return -EUCLEAN;
	struct hello m = {
	    .version = le32_get(w->version),
	    .node_id = le32_get(w->node_id),
	    .role = le32_get(w->role),
	    .flags = le32_get(w->flags),
	    .promised = le64_get(w->promised),
	    .history = le64_get(w->history),
	    .seq = le64_get(w->seq),
	    .hash = le64_get(w->hash),
	    .fence = le64_get(w->fence),
	};
	memcpy(m.volume, w->volume, sizeof(m.volume));
	memcpy(m.node, w->node, sizeof(m.node));
	if (!hello_ok(&m) || !take_text(&left, le16_get(w->name_len), WIRE_NAME_MAX, m.name) ||
	    !take_text(&left, le16_get(w->address_len), WIRE_TEXT_MAX, m.address) || left.len)
		return -EUCLEAN;
	*ret = m;
	return 0;
}

void welcome_put(struct buf *out, const struct welcome *m)
{
	const struct wire_welcome w = {le32_make(m->action), le32_make(m->leader_id)};

	assert(m->action <= WELCOME_NOTED);
	assert(m->leader_id <= NODE_ID_MAX);
	buf_put(out, &w, sizeof(w));
	hello_put(out, &m->self);
}

int welcome_get(struct slice body, struct welcome *ret)
{
	struct slice left = body;
	const struct wire_welcome *w = take(&left, sizeof(*w));
	struct welcome m = {0};

	if (!w)
		return -EUCLEAN;
	int r = hello_get(left, &m.self);
	if (r)
		return r;
	if (le32_get(w->action) > WELCOME_NOTED || le32_get(w->leader_id) > NODE_ID_MAX)
		return -EUCLEAN;
	m.action = (enum welcome_action)le32_get(w->action);
	m.leader_id = le32_get(w->leader_id);
	*ret = m;
	return 0;
}

void refuse_put(struct buf *out, const struct refuse *m)
{
	size_t len = text_len(m->text, WIRE_TEXT_MAX);
	const struct wire_refuse w = {le32_make((uint32_t)-m->error), le16_make((uint16_t)len), le16_make(0)};

	assert(m->error < 0 && m->error >= -(int)ERRNO_MAX);
	buf_put(out, &w, sizeof(w));
	buf_put(out, m->text, len);
}

int refuse_get(struct slice body, struct refuse *ret)
{
	struct slice left = body;
	const struct wire_refuse *w = take(&left, sizeof(*w));
	struct refuse m;

	if (!w || le16_get(w->zero) || le32_get(w->error) < 1 || le32_get(w->error) > ERRNO_MAX ||
	    !take_text(&left, le16_get(w->text_len), WIRE_TEXT_MAX, m.text) || left.len)
		return -EUCLEAN;
	m.error = -(int)le32_get(w->error);
	*ret = m;
	return 0;
}
