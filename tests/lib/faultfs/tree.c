/*
 * tree.c: nodes, entries, and the list of pending operations, oldest first.
 */
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "tests/lib/faultfs/tree.h"

static void node_free(struct tree *t, struct node *n)
{
	char name[32];

	if (n->undo.fd >= 0) {
		undo_free(&n->undo);
		close(n->undo.fd);
		snprintf(name, sizeof(name), "%" PRIu64, n->id);
		unlinkat(t->objects, name, 0);
	}
	*n->prev = n->next;
	if (n->next)
		n->next->prev = n->prev;
	pthread_mutex_destroy(&n->lock);
	free(n);
}

void node_put(struct tree *t, struct node *n, uint64_t refs, uint64_t lookups)
{
	if (!n)
		return;
	n->refs -= refs;
	n->lookups -= lookups;
	if (n->refs || n->lookups || n == t->root)
		return;
	while (n->entries) {
		struct entry *e = n->entries;
		n->entries = e->next;
		e->node->links--;
		node_put(t, e->node, 1, 0);
		free(e);
	}
	node_free(t, n);
}

static struct node *node_get(struct node *n)
{
	if (n)
		n->refs++;
	return n;
}

struct node *node_new(struct tree *t, mode_t mode, uid_t uid, gid_t gid)
{
	struct node *n = calloc(1, sizeof(*n));
	char name[32];

	if (!n)
		abort();
	n->id = ++t->next_id;
	n->mode = mode;
	n->uid = uid;
	n->gid = gid;
	n->undo.fd = -1;
	clock_gettime(CLOCK_REALTIME, &n->changed);
	pthread_mutex_init(&n->lock, NULL);
	if (S_ISREG(mode)) {
		snprintf(name, sizeof(name), "%" PRIu64, n->id);
		n->undo.fd = openat(t->objects, name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
		if (n->undo.fd < 0)
			abort();
	}
	n->prev = &t->nodes;
	n->next = t->nodes;
	if (n->next)
		n->next->prev = &n->next;
	t->nodes = n;
	return n;
}

static struct entry **entry_find(struct node *dir, const char *name)
{
	struct entry **e = &dir->entries;

	while (*e && strcmp((*e)->name, name) != 0)
		e = &(*e)->next;
	return e;
}

struct node *tree_find(struct node *dir, const char *name)
{
	struct entry *e = *entry_find(dir, name);

	return e ? e->node : NULL;
}

/* Makes `name` lead to `now`, or to nothing. */
static void entry_set(struct tree *t, struct node *dir, const char *name, struct node *now)
{
	struct entry **at = entry_find(dir, name), *e = *at;
	struct node *was = e ? e->node : NULL;

	node_get(now);
	if (now) {
		now->links++;
		snprintf(now->path, sizeof(now->path), "%.700s%s%.255s", dir->path, *dir->path ? "/" : "", name);
		if (!e) {
			e = calloc(1, sizeof(*e));
			if (!e)
				abort();
			snprintf(e->name, sizeof(e->name), "%s", name);
			*at = e;
		}
		e->node = now;
	} else if (e) {
		*at = e->next;
		free(e);
	}
	clock_gettime(CLOCK_REALTIME, &dir->changed);
	if (was) {
		was->links--;
		node_put(t, was, 1, 0);
	}
}

static void name_op_put(struct tree *t, struct name_op *op)
{
	for (int i = 0; i < op->n; i++) {
		node_put(t, op->slot[i].was, 1, 0);
		node_put(t, op->slot[i].now, 1, 0);
		node_put(t, op->slot[i].dir, 1, 0);
	}
}

void tree_do(struct tree *t, const struct name_op *op)
{
	struct name_op *grown = realloc(t->pending, (t->n_pending + 1) * sizeof(*grown));

	if (!grown)
		abort();
	t->pending = grown;
	for (int i = 0; i < op->n; i++) {
		node_get(op->slot[i].dir);
		node_get(op->slot[i].was);
		node_get(op->slot[i].now);
	}
	for (int i = 0; i < op->n; i++)
		entry_set(t, op->slot[i].dir, op->slot[i].name, op->slot[i].now);
	t->pending[t->n_pending++] = *op;
}

struct slot slot_make(struct node *dir, const char *name, struct node *now)
{
	struct slot s = {.dir = dir, .was = tree_find(dir, name), .now = now};

	snprintf(s.name, sizeof(s.name), "%s", name);
	return s;
}

static bool ops_share_slot(const struct name_op *a, const struct name_op *b)
{
	for (int i = 0; i < a->n; i++)
		for (int k = 0; k < b->n; k++)
			if (a->slot[i].dir == b->slot[k].dir && strcmp(a->slot[i].name, b->slot[k].name) == 0)
				return true;
	return false;
}

static void pending_drop_chosen(struct tree *t)
{
	size_t kept = 0;

	for (size_t i = 0; i < t->n_pending; i++)
		if (t->pending[i].chosen)
			name_op_put(t, &t->pending[i]);
		else
			t->pending[kept++] = t->pending[i];
	t->n_pending = kept;
}

void tree_flush(struct tree *t, const struct node *dir)
{
	for (size_t i = t->n_pending; i-- > 0;) {
		struct name_op *op = &t->pending[i];
		op->chosen = op->slot[0].dir == dir || (op->n > 1 && op->slot[1].dir == dir);
		for (size_t k = i + 1; !op->chosen && k < t->n_pending; k++)
			op->chosen = t->pending[k].chosen && ops_share_slot(op, &t->pending[k]);
	}
	pending_drop_chosen(t);
}

/* A cut: an operation is lost by chance, or because one before it on the same name was. */
void tree_cut(struct tree *t, enum cut_mode mode, struct dice *d, unsigned odds)
{
	for (size_t i = 0; i < t->n_pending; i++) {
		struct name_op *op = &t->pending[i];
		op->chosen = mode == CUT_ALL || dice_roll(d) % 16 < odds;
		for (size_t k = 0; !op->chosen && k < i; k++)
			op->chosen = t->pending[k].chosen && ops_share_slot(op, &t->pending[k]);
	}
	for (size_t i = t->n_pending; i-- > 0;)
		for (int k = t->pending[i].n; t->pending[i].chosen && k-- > 0;) {
			struct slot *s = &t->pending[i].slot[k];
			entry_set(t, s->dir, s->name, s->was);
		}
	for (size_t i = 0; i < t->n_pending; i++)
		t->pending[i].chosen = true;
	pending_drop_chosen(t);
}

void tree_init(struct tree *t, int objects)
{
	*t = (struct tree){.objects = objects};
	pthread_mutex_init(&t->lock, NULL);
	t->root = node_new(t, S_IFDIR | 0755, 0, 0);
}
