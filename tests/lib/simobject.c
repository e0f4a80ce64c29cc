/*
 * simobject.c: object stores in memory, with faults and a history.
 *
 * Objects are versions in one array: born with an event, gone with another one (0: still there).  Nothing is ever taken out, so
 * any moment can be made again; bytes are shared between a simobject and those made from it, and counted.
 */
#include "tests/lib/simobject.h"

#include <assert.h>
#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#include "base/lock.h"

#define FAULTS_MAX 64u

struct bytes {
	_Atomic uint64_t users;
	size_t len;
	uint8_t b[];
};
struct version {
	char store[STORE_NAME_MAX + 1];
	char *key;
	struct bytes *bytes;
	int64_t modified_ns;
	uint64_t born, gone; /* events; gone 0: it is there */
	bool is_gone;
};
struct fault {
	enum object_kind kind;
	uint64_t first, count;
	enum simobject_how how;
	int error;
};
/* A change that comes late. */
struct late {
	bool any, removes;
	char store[STORE_NAME_MAX + 1];
	char key[OBJECT_KEY_MAX + 1];
	struct bytes *bytes;
};
struct simobject {
	struct mutex lock;
	struct cond released;
	struct simstore *sim;
	const struct clock *clock;
	/* guarded by lock */
	struct version *v;
	size_t n, cap;
	struct fault fault[FAULTS_MAX];
	size_t n_faults;
	struct late late;
	bool conditions, verifies, lies;
	uint64_t space;
	char refused[STORE_NAME_MAX + 1];
	bool refuses_all;
	int refusal;
	uint64_t calls[OBJECT_KINDS + 1], met, hanging, releases;
	void (*on_call)(void *ctx, enum object_kind kind, const char *key);
	void *on_call_ctx;
};
/* One call as it is being served. */
struct served {
	enum object_kind kind;
	bool faulty;
	struct fault fault;
};
struct handle {
	struct object_store base;
	struct simobject *so;
	char name[STORE_NAME_MAX + 1];
};

static void *need(void *p)
{
	if (!p)
		abort();
	return p;
}

/* ---- bytes ---- */

static struct bytes *bytes_new(size_t len)
{
	struct bytes *b = need(malloc(sizeof(*b) + len));

	atomic_init(&b->users, 1);
	b->len = len;
	return b;
}

static struct bytes *bytes_share(struct bytes *b)
{
	atomic_fetch_add(&b->users, 1);
	return b;
}

static void bytes_drop(struct bytes *b)
{
	if (b && atomic_fetch_sub(&b->users, 1) == 1)
		free(b);
}

static struct bytes *gather(const struct iovec *iov, int n_iov)
{
	size_t len = 0, at = 0;

	for (int i = 0; i < n_iov; i++)
		len += iov[i].iov_len;
	struct bytes *b = bytes_new(len);
	for (int i = 0; i < n_iov; at += iov[i++].iov_len)
		if (iov[i].iov_len)
			memcpy(b->b + at, iov[i].iov_base, iov[i].iov_len);
	return b;
}

/* ---- versions ---- */

static struct version *find(struct simobject *so, const char *store, const char *key) REQUIRES(so->lock)
{
	for (size_t i = so->n; i-- > 0;)
		if (!so->v[i].is_gone && strcmp(so->v[i].store, store) == 0 && strcmp(so->v[i].key, key) == 0)
			return &so->v[i];
	return NULL;
}

static struct version *next_slot(struct simobject *so) REQUIRES(so->lock)
{
	if (so->n == so->cap) {
		so->cap = so->cap ? so->cap * 2 : 64;
		so->v = need(realloc(so->v, so->cap * sizeof(*so->v)));
	}
	return &so->v[so->n++];
}

static uint64_t event(struct simobject *so)
{
	return so->sim ? simstore_mark(so->sim) : 0;
}

static void bury(struct simobject *so, const char *store, const char *key, uint64_t at) REQUIRES(so->lock)
{
	struct version *v = find(so, store, key);

	if (!v)
		return;
	v->is_gone = true;
	v->gone = at;
}

/* Takes `b` over. */
static void set(struct simobject *so, const char *store, const char *key, struct bytes *b, uint64_t at, int64_t modified_ns)
    REQUIRES(so->lock)
{
	bury(so, store, key, at);
	struct version *v = next_slot(so);
	*v = (struct version){.key = need(strdup(key)), .bytes = b, .modified_ns = modified_ns, .born = at};
	memcpy(v->store, store, strlen(store) + 1);
}

static uint64_t used(struct simobject *so) REQUIRES(so->lock)
{
	uint64_t n = 0;

	for (size_t i = 0; i < so->n; i++)
		n += so->v[i].is_gone ? 0 : so->v[i].bytes->len;
	return n;
}

/* ---- a call ---- */

static void do_late(struct simobject *so) REQUIRES(so->lock)
{
	struct late *l = &so->late;

	if (!l->any)
		return;
	if (l->removes)
		bury(so, l->store, l->key, event(so));
	else
		set(so, l->store, l->key, TAKE_PTR(l->bytes), event(so), clock_real_ns(so->clock));
	l->any = false;
}

static void look_up_fault(struct simobject *so, struct served *s) REQUIRES(so->lock)
{
	uint64_t of_kind = ++so->calls[s->kind], of_all = ++so->calls[OBJECT_KINDS];

	for (size_t i = 0; i < so->n_faults && !s->faulty; i++) {
		const struct fault *f = &so->fault[i];
		uint64_t no = f->kind == OBJECT_KINDS ? of_all : of_kind;

		if (f->kind != OBJECT_KINDS && f->kind != s->kind)
			continue;
		s->faulty = no >= f->first && no - f->first < f->count;
		s->fault = *f;
	}
	so->met += s->faulty;
}

static void hang(struct simobject *so) REQUIRES(so->lock)
{
	uint64_t until = so->releases + 1;

	so->hanging++;
	while (so->releases < until)
		cond_wait(&so->released, &so->lock);
	so->hanging--;
}

/* True: the call goes on, with so->lock held; false: *ret_error is its answer. */
static bool enter(struct handle *h, enum object_kind kind, const char *key, struct object_call *call, struct served *s,
		  int *ret_error) NO_THREAD_SAFETY
{
	struct simobject *so = h->so;

	*s = (struct served){.kind = kind};
	call->retry_after_ns = 0;
	call->verified = false;
	call->status = 0;
	call->message[0] = '\0';
	mutex_lock(&so->lock);
	void (*on_call)(void *, enum object_kind, const char *) = so->on_call;
	void *ctx = so->on_call_ctx;
	mutex_unlock(&so->lock);
	if (on_call)
		on_call(ctx, kind, key);
	mutex_lock(&so->lock);
	do_late(so);
	look_up_fault(so, s);
	if (s->faulty && s->fault.how == SIMOBJECT_HANG) {
		hang(so);
		if (s->fault.error)
			s->fault.how = SIMOBJECT_FAIL;
		else
			s->faulty = false;
	}
	*ret_error = s->faulty ? s->fault.error : 0;
	if (!s->faulty || s->fault.how != SIMOBJECT_FAIL)
		return true;
	mutex_unlock(&so->lock);
	snprintf(call->message, OBJECT_MESSAGE_MAX, "store %s: made to fail: %s", h->name, strerror(-s->fault.error));
	return false;
}

static int leave(struct handle *h, struct object_call *call, int r) NO_THREAD_SAFETY
{
	mutex_unlock(&h->so->lock);
	if (r < 0 && !*call->message)
		snprintf(call->message, OBJECT_MESSAGE_MAX, "store %s: %s", h->name, strerror(-r));
	return r;
}

static bool is(const struct served *s, enum simobject_how how)
{
	return s->faulty && s->fault.how == how;
}

static int no_fault(const struct served *s, int r)
{
	return is(s, SIMOBJECT_AFTER) && r == 0 ? s->fault.error : r;
}

static int bad_key(const struct handle *h, struct object_call *call)
{
	snprintf(call->message, OBJECT_MESSAGE_MAX, "store %s: no key", h->name);
	return -EINVAL;
}

static struct handle *handle_of(struct object_store *store)
{
	return container_of(store, struct handle, base);
}

/* ---- the table ---- */

static void keep_for_later(struct handle *h, const char *key, struct bytes *b) REQUIRES(h->so->lock)
{
	struct late *l = &h->so->late;

	*l = (struct late){.any = true, .removes = !b, .bytes = b};
	snprintf(l->store, sizeof(l->store), "%s", h->name);
	snprintf(l->key, sizeof(l->key), "%s", key);
}

/* Takes `b` over; between enter() and leave(), which clang's analysis cannot follow. */
static int put_bytes(struct handle *h, struct object_call *call, const char *key, struct bytes *b,
		     const struct served *s) NO_THREAD_SAFETY
{
	struct simobject *so = h->so;

	if (is(s, SIMOBJECT_LATE)) {
		keep_for_later(h, key, b);
		return s->fault.error;
	}
	call->verified = so->verifies && (!s->faulty || so->lies);
	if (is(s, SIMOBJECT_LOSE)) {
		bytes_drop(b);
		return 0;
	}
	if (is(s, SIMOBJECT_TEAR))
		b->len /= 2;
	if (is(s, SIMOBJECT_CORRUPT) && b->len)
		b->b[b->len / 2] ^= 0x40;
	set(so, h->name, key, b, event(so), clock_real_ns(so->clock));
	return is(s, SIMOBJECT_TEAR) ? s->fault.error : no_fault(s, 0);
}

static int sim_put(struct object_store *store, struct object_call *call, const char *key, const struct iovec *iov, int n_iov,
		   unsigned flags) NO_THREAD_SAFETY
{
	struct handle *h = handle_of(store);
	struct served s;
	int r;

	if (!object_key_valid(key))
		return bad_key(h, call);
	struct bytes *b = gather(iov, n_iov);
	if (!enter(h, OBJECT_PUT, key, call, &s, &r)) {
		bytes_drop(b);
		return r;
	}
	r = 0;
	if ((flags & OBJECT_CREATE) && !h->so->conditions)
		r = -EOPNOTSUPP;
	else if ((flags & OBJECT_CREATE) && find(h->so, h->name, key))
		r = -EEXIST;
	else if (used(h->so) + b->len > h->so->space)
		r = -ENOSPC;
	if (r < 0)
		bytes_drop(b);
	else
		r = put_bytes(h, call, key, b, &s);
	return leave(h, call, r);
}

static int sim_get(struct object_store *store, struct object_call *call, const char *key, uint64_t off, size_t len,
		   void *p) NO_THREAD_SAFETY
{
	struct handle *h = handle_of(store);
	const struct version *v;
	struct served s;
	int r;

	if (!object_key_valid(key))
		return bad_key(h, call);
	if (!enter(h, OBJECT_GET, key, call, &s, &r))
		return r;
	v = find(h->so, h->name, key);
	if (!v)
		return leave(h, call, -ENOENT);
	if (is(&s, SIMOBJECT_TEAR) || off > v->bytes->len || len > v->bytes->len - off)
		return leave(h, call, -EBADMSG);
	if (is(&s, SIMOBJECT_LATE))
		return leave(h, call, s.fault.error);
	memcpy(p, v->bytes->b + off, len);
	if (is(&s, SIMOBJECT_LOSE))
		memset(p, 0, len);
	if (is(&s, SIMOBJECT_CORRUPT) && len)
		((uint8_t *)p)[len / 2] ^= 0x40;
	return leave(h, call, no_fault(&s, 0));
}

static int sim_head(struct object_store *store, struct object_call *call, const char *key,
		    struct object_info *ret) NO_THREAD_SAFETY
{
	struct handle *h = handle_of(store);
	const struct version *v;
	struct served s;
	int r;

	if (!object_key_valid(key))
		return bad_key(h, call);
	if (!enter(h, OBJECT_HEAD, key, call, &s, &r))
		return r;
	v = find(h->so, h->name, key);
	if (!v || is(&s, SIMOBJECT_LOSE))
		return leave(h, call, -ENOENT);
	if (is(&s, SIMOBJECT_LATE))
		return leave(h, call, s.fault.error);
	*ret = (struct object_info){.size = v->bytes->len, .modified_ns = v->modified_ns};
	return leave(h, call, no_fault(&s, 0));
}

static int sim_remove(struct object_store *store, struct object_call *call, const char *key) NO_THREAD_SAFETY
{
	struct handle *h = handle_of(store);
	struct served s;
	int r;

	if (!object_key_valid(key))
		return bad_key(h, call);
	if (!enter(h, OBJECT_REMOVE, key, call, &s, &r))
		return r;
	if (is(&s, SIMOBJECT_LATE)) {
		keep_for_later(h, key, NULL);
		return leave(h, call, s.fault.error);
	}
	if (is(&s, SIMOBJECT_LOSE))
		return leave(h, call, 0);
	if (!find(h->so, h->name, key))
		return leave(h, call, -ENOENT);
	bury(h->so, h->name, key, event(h->so));
	return leave(h, call, no_fault(&s, 0));
}

static int by_key(const void *a, const void *b)
{
	const struct simobject_entry *x = a, *y = b;
	int r = strcmp(x->store, y->store);

	return r ? r : strcmp(x->key, y->key);
}

/* All entries, by store and key; freed by the caller. */
static struct simobject_entry *sorted(struct simobject *so, size_t *ret_n) REQUIRES(so->lock)
{
	struct simobject_entry *e = need(calloc(so->n + 1, sizeof(*e)));
	size_t n = 0;

	for (size_t i = 0; i < so->n; i++) {
		const struct version *v = &so->v[i];

		if (v->is_gone)
			continue;
		e[n] = (struct simobject_entry){.size = v->bytes->len, .modified_ns = v->modified_ns};
		memcpy(e[n].store, v->store, sizeof(e[n].store));
		snprintf(e[n].key, sizeof(e[n].key), "%s", v->key);
		n++;
	}
	qsort(e, n, sizeof(*e), by_key);
	*ret_n = n;
	return e;
}

static int sim_list(struct object_store *store, struct object_call *call, const char *prefix, const char *after,
		    object_list_fn *fn, void *ctx) NO_THREAD_SAFETY
{
	struct handle *h = handle_of(store);
	struct served s;
	size_t n;
	int r;

	if (!enter(h, OBJECT_LIST, prefix, call, &s, &r))
		return r;
	if (is(&s, SIMOBJECT_LOSE))
		return leave(h, call, 0);
	if (is(&s, SIMOBJECT_LATE) || is(&s, SIMOBJECT_TEAR))
		return leave(h, call, s.fault.error ? s.fault.error : -EPROTO);
	struct simobject_entry *e = sorted(h->so, &n);
	r = leave(h, call, no_fault(&s, 0)); /* fn may call the store */
	for (size_t i = 0; i < n && r == 0; i++) {
		const struct object_info info = {.size = e[i].size, .modified_ns = e[i].modified_ns};

		if (strcmp(e[i].store, h->name) == 0 && strncmp(e[i].key, prefix, strlen(prefix)) == 0 &&
		    strcmp(e[i].key, after) > 0)
			r = fn(ctx, e[i].key, &info);
	}
	free(e);
	return r > 0 ? 0 : r;
}

static void sim_close(struct object_store *store)
{
	free(handle_of(store));
}

static const struct object_store_ops sim_ops = {
    .put = sim_put,
    .get = sim_get,
    .head = sim_head,
    .remove = sim_remove,
    .list = sim_list,
    .close = sim_close,
};

struct object_store *simobject_open(struct simobject *so, const char *name)
{
	struct handle *h = need(calloc(1, sizeof(*h)));

	assert(strlen(name) <= STORE_NAME_MAX);
	*h = (struct handle){.base.ops = &sim_ops, .so = so};
	snprintf(h->name, sizeof(h->name), "%s", name);
	return &h->base;
}

int simobject_hook(void *simobject, const char *name, const struct store_definition *d, struct object_store **ret_store,
		   char *message)
{
	struct simobject *so = simobject;

	(void)d;
	mutex_lock(&so->lock);
	int r = so->refusal && (so->refuses_all || strcmp(so->refused, name) == 0) ? so->refusal : 0;
	mutex_unlock(&so->lock);
	if (r < 0) {
		snprintf(message, OBJECT_MESSAGE_MAX, "store %s: made to refuse: %s", name, strerror(-r));
		return r;
	}
	*ret_store = simobject_open(so, name);
	return 0;
}

/* ---- life ---- */

struct simobject *simobject_new(struct simstore *sim, const struct clock *clock)
{
	struct simobject *so = need(calloc(1, sizeof(*so)));

	mutex_init(&so->lock);
	cond_init(&so->released);
	so->sim = sim;
	so->clock = clock ? clock : &clock_system;
	so->conditions = so->verifies = true;
	so->space = UINT64_MAX;
	return so;
}

void simobject_free(struct simobject *so) NO_THREAD_SAFETY
{
	if (!so)
		return;
	assert(so->hanging == 0);
	for (size_t i = 0; i < so->n; i++) {
		free(so->v[i].key);
		bytes_drop(so->v[i].bytes);
	}
	if (so->late.any)
		bytes_drop(so->late.bytes);
	free(so->v);
	cond_destroy(&so->released);
	mutex_destroy(&so->lock);
	free(so);
}

struct simobject *simobject_at(struct simobject *so, uint64_t at, bool next, struct simstore *sim) NO_THREAD_SAFETY
{
	struct simobject *ret = simobject_new(sim, so->clock);
	uint64_t last = at + next;

	mutex_lock(&so->lock);
	ret->conditions = so->conditions;
	ret->verifies = so->verifies;
	ret->space = so->space;
	for (size_t i = 0; i < so->n; i++) {
		const struct version *v = &so->v[i];

		if (v->born > last || (v->is_gone && v->gone <= last))
			continue;
		struct version *to = next_slot(ret);
		*to = *v;
		to->key = need(strdup(v->key));
		to->bytes = bytes_share(v->bytes);
		to->born = to->gone = 0;
		to->is_gone = false;
	}
	mutex_unlock(&so->lock);
	return ret;
}

/* ---- settings ---- */

static void set_flag(struct simobject *so, bool *flag, bool yes)
{
	mutex_lock(&so->lock);
	*flag = yes;
	mutex_unlock(&so->lock);
}

void simobject_set_conditions(struct simobject *so, bool yes)
{
	set_flag(so, &so->conditions, yes);
}

void simobject_set_verifies(struct simobject *so, bool yes)
{
	set_flag(so, &so->verifies, yes);
}

void simobject_set_lies(struct simobject *so, bool yes)
{
	set_flag(so, &so->lies, yes);
}

void simobject_set_space(struct simobject *so, uint64_t bytes)
{
	mutex_lock(&so->lock);
	so->space = bytes;
	mutex_unlock(&so->lock);
}

void simobject_refuse(struct simobject *so, const char *name, int error)
{
	mutex_lock(&so->lock);
	so->refusal = error;
	so->refuses_all = !name;
	snprintf(so->refused, sizeof(so->refused), "%s", name ? name : "");
	mutex_unlock(&so->lock);
}

void simobject_fault(struct simobject *so, enum object_kind kind, uint64_t first, uint64_t count, enum simobject_how how,
		     int error)
{
	mutex_lock(&so->lock);
	assert(so->n_faults < FAULTS_MAX);
	so->fault[so->n_faults++] = (struct fault){kind, first, count, how, error};
	mutex_unlock(&so->lock);
}

static void release_locked(struct simobject *so) REQUIRES(so->lock)
{
	so->releases++;
	cond_broadcast(&so->released);
}

void simobject_clear(struct simobject *so)
{
	mutex_lock(&so->lock);
	so->n_faults = 0;
	release_locked(so);
	mutex_unlock(&so->lock);
}

void simobject_release(struct simobject *so)
{
	mutex_lock(&so->lock);
	release_locked(so);
	mutex_unlock(&so->lock);
}

static uint64_t get_count(struct simobject *so, const uint64_t *count)
{
	mutex_lock(&so->lock);
	uint64_t n = *count;
	mutex_unlock(&so->lock);
	return n;
}

uint64_t simobject_calls(struct simobject *so, enum object_kind kind)
{
	return get_count(so, &so->calls[kind]);
}

uint64_t simobject_faults(struct simobject *so)
{
	return get_count(so, &so->met);
}

uint64_t simobject_hanging(struct simobject *so)
{
	return get_count(so, &so->hanging);
}

void simobject_on_call(struct simobject *so, void (*fn)(void *ctx, enum object_kind kind, const char *key), void *ctx)
{
	mutex_lock(&so->lock);
	so->on_call = fn;
	so->on_call_ctx = ctx;
	mutex_unlock(&so->lock);
}

/* ---- looking in ---- */

bool simobject_entry(struct simobject *so, uint64_t n, struct simobject_entry *ret)
{
	size_t count;

	mutex_lock(&so->lock);
	struct simobject_entry *e = sorted(so, &count);
	mutex_unlock(&so->lock);
	bool there = n < count;
	if (there)
		*ret = e[n];
	free(e);
	return there;
}

uint64_t simobject_count(struct simobject *so)
{
	uint64_t n = 0;

	mutex_lock(&so->lock);
	for (size_t i = 0; i < so->n; i++)
		n += !so->v[i].is_gone;
	mutex_unlock(&so->lock);
	return n;
}

uint64_t simobject_bytes(struct simobject *so)
{
	mutex_lock(&so->lock);
	uint64_t n = used(so);
	mutex_unlock(&so->lock);
	return n;
}

int64_t simobject_peek(struct simobject *so, const char *store, const char *key, void *p, size_t cap)
{
	int64_t size = -1;

	mutex_lock(&so->lock);
	const struct version *v = find(so, store, key);
	if (v) {
		size = (int64_t)v->bytes->len;
		if (cap)
			memcpy(p, v->bytes->b, min_u64(cap, v->bytes->len));
	}
	mutex_unlock(&so->lock);
	return size;
}

/* Behind everybody's back: as if it had always been so. */
static void plant_locked(struct simobject *so, const char *store, const char *key, struct bytes *b, int64_t modified_ns)
    REQUIRES(so->lock)
{
	struct version *v = find(so, store, key);

	if (v) {
		bytes_drop(v->bytes);
		v->bytes = b;
		v->modified_ns = modified_ns;
	} else {
		set(so, store, key, b, 0, modified_ns);
	}
}

void simobject_plant(struct simobject *so, const char *store, const char *key, const void *p, size_t len, int64_t modified_ns)
{
	struct bytes *b = bytes_new(len);

	assert(object_key_valid(key));
	if (len)
		memcpy(b->b, p, len);
	mutex_lock(&so->lock);
	plant_locked(so, store, key, b, modified_ns);
	mutex_unlock(&so->lock);
}

void simobject_corrupt(struct simobject *so, const char *store, const char *key, uint64_t off)
{
	mutex_lock(&so->lock);
	struct version *v = find(so, store, key);
	assert(v && off < v->bytes->len);
	struct bytes *b = bytes_new(v->bytes->len);
	memcpy(b->b, v->bytes->b, b->len);
	b->b[off] ^= 0x40;
	plant_locked(so, store, key, b, v->modified_ns);
	mutex_unlock(&so->lock);
}

void simobject_erase(struct simobject *so, const char *store, const char *key)
{
	mutex_lock(&so->lock);
	assert(find(so, store, key));
	bury(so, store, key, 0);
	mutex_unlock(&so->lock);
}
