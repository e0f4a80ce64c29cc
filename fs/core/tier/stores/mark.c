/*
 * mark.c: which volume a store belongs to, said by an object in it ("clawfs.volume").
 *
 * The mark is made when the store is added and looked for when it is opened.  So a bucket that is another volume's is refused,
 * and so is the empty directory below which nobody has mounted the disk today.
 *
 * Format: text, one "name=value" a line, the first of which is "volume=UUID"; all but that is for people.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "fs/core/tier/stores/impl.h"

#define MARK_KEY       "clawfs.volume"
#define MARK_BYTES_MAX 1024u
#define MARK_VOLUME    "volume="
#define BIND_NS        (30 * NSEC_PER_SEC)

/* Ends at `len`; anything a terminal would not take quietly is a dot. */
static void make_printable(char *text, size_t len)
{
	for (size_t i = 0; i < len; i++)
		if (text[i] != '\n' && (text[i] < ' ' || text[i] > '~'))
			text[i] = '.';
	text[len] = '\0';
}

static int get_mark(struct object_store *store, struct object_call *call, char text[MARK_BYTES_MAX + 1])
{
	struct object_info info;
	int r = store->ops->head(store, call, MARK_KEY, &info);

	if (r < 0)
		return r;
	size_t len = (size_t)min_u64(info.size, MARK_BYTES_MAX);
	r = len ? store->ops->get(store, call, MARK_KEY, 0, len, text) : 0;
	if (r < 0)
		return r;
	make_printable(text, len);
	return 0;
}

/* The rest of the line that begins with `name`, or "". */
static void line_of(const char *text, const char *name, char *ret, size_t cap)
{
	const char *at = text;

	*ret = '\0';
	while (at && strncmp(at, name, strlen(name)) != 0) {
		at = strchr(at, '\n');
		at = at ? at + 1 : NULL;
	}
	if (at)
		snprintf(ret, cap, "%.*s", (int)min_u64(strcspn(at + strlen(name), "\n"), cap - 1), at + strlen(name));
}

static int judge_mark(struct fs *fs, const char *text, char *message)
{
	char ours[UUID_TEXT], theirs[UUID_TEXT], label[72];

	uuid_text(fs->super.volume, ours);
	line_of(text, MARK_VOLUME, theirs, sizeof(theirs));
	line_of(text, "label=", label, sizeof(label));
	if (strcmp(ours, theirs) == 0)
		return 0;
	if (!*theirs)
		snprintf(message, OBJECT_MESSAGE_MAX, "its %s is not one that clawfs made: remove it if nothing needs it",
			 MARK_KEY);
	else
		snprintf(message, OBJECT_MESSAGE_MAX, "it belongs to another volume (%s%s%s): give this one a prefix of its own",
			 theirs, *label ? ", " : "", label);
	return -EPERM;
}

int stores_check_mark(struct fs *fs, struct object_store *store, struct object_call *call)
{
	char text[MARK_BYTES_MAX + 1];
	int r = get_mark(store, call, text);

	if (r == -ENOENT) {
		snprintf(call->message, sizeof(call->message),
			 "it does not have the mark of this volume (%s): is this the right place, and is it mounted?  If it is, "
			 "`clawfs tier add` marks it",
			 MARK_KEY);
		return -ENODATA;
	}
	return r < 0 ? r : judge_mark(fs, text, call->message);
}

/* Where the store has no conditions, two volumes that are added at the same moment are told apart by reading it again. */
static int put_mark(struct fs *fs, struct object_store *store, struct object_call *call)
{
	char text[MARK_BYTES_MAX], volume[UUID_TEXT], label[sizeof(fs->super.label)];

	uuid_text(fs->super.volume, volume);
	snprintf(label, sizeof(label), "%s", fs->super.label);
	make_printable(label, strcspn(label, "\n"));
	int n = snprintf(text, sizeof(text), MARK_VOLUME "%s\nlabel=%s\ncreated_ns=%lld\n", volume, label,
			 (long long)clock_real_ns(fs->clock));
	struct iovec iov = {text, (size_t)n};
	int r = store->ops->put(store, call, MARK_KEY, &iov, 1, OBJECT_CREATE);
	if (r == -EOPNOTSUPP)
		r = store->ops->put(store, call, MARK_KEY, &iov, 1, 0);
	return r == -EEXIST ? 0 : r;
}

int stores_bind(struct fs *fs, struct object_store *store, char *message)
{
	struct object_call call = {.deadline_ns = clock_mono_ns(fs->clock) + BIND_NS, .purpose = OBJECT_FOREGROUND};
	int r = stores_check_mark(fs, store, &call);

	if (r == -ENODATA) {
		call.message[0] = '\0';
		r = put_mark(fs, store, &call);
		if (r == 0)
			r = stores_check_mark(fs, store, &call);
	}
	snprintf(message, OBJECT_MESSAGE_MAX, "%s", r < 0 ? call.message : "");
	return r;
}
