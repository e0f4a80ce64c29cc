/*
 * faultfs.c: a FUSE filesystem to put under a store, whose unflushed writes can be lost at a chosen moment.
 *
 *     faultfs OBJECTS CONTROL MOUNTPOINT
 *
 * Names live in memory (tree.h); the bytes of each regular file live in OBJECTS/<id> on the host, always in their newest
 * state, with what they were before they were last durable kept beside them (undo.h).  fsync of a file makes its bytes
 * durable, a write with O_DSYNC the sectors it covers, fsync of a directory its names.  Trusted is exactly what base/disk.h
 * trusts, and nothing else.
 *
 * A power cut puts old sectors and names back, all of them or a random part, and answers EIO to everything until
 * "restore", so that what the dying process still had in its mapped pages is lost as well.
 *
 * Commands come as lines over the unix socket CONTROL, each answered by one line once it is done:
 *
 *     powercut MODE SEED              MODE all: everything unflushed is lost; pages: each 4 KiB page and each name by
 *                                     itself; torn: each 512-byte sector and each name by itself
 *     restore                         serve again, as after a boot
 *     rule OP ACTION GLOB SKIP COUNT  OP read|write|fsync|name|any; ACTION an errno name, lose (a write or fsync that
 *                                     reports success and does nothing), tear (a write of which only some sectors arrive,
 *                                     then EIO), flip (one bit of what is read), cut-MODE (powercut in the middle of the
 *                                     work); GLOB of the path below the mount; the first SKIP hits pass, then COUNT act
 *                                     (-1: for ever)
 *     clear                           forget all rules
 *     corrupt PATH OFFSET MASK        XOR one stored byte
 *     stats                           counters as NAME=VALUE
 *     ping
 *
 *     seed N                          of what rules do by chance
 *
 * Mapped pages work: they come back as plain writes, durable with the next fsync.  O_DIRECT works: such descriptors bypass
 * the kernel's cache (which forbids them mmap, so others do not).
 *
 * Locks, in this order: power (shared by every operation, exclusive for a cut), tree.lock, node.lock, rules_lock.
 */
#define FUSE_USE_VERSION 314

#include <errno.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <fuse_lowlevel.h>
#include <inttypes.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/un.h>

#include "tests/lib/faultfs/tree.h"

enum { OP_READ = 1, OP_WRITE = 2, OP_FSYNC = 4, OP_NAME = 8, OP_ANY = 15 };
enum action { ACT_NONE, ACT_ERROR, ACT_LOSE, ACT_TEAR, ACT_FLIP, ACT_CUT };
struct rule {
	int ops, error;
	enum action action;
	enum cut_mode mode;
	char glob[256];
	long skip, count;
};

static struct {
	pthread_rwlock_t power;
	/* guarded by power */
	bool dead;
	uint64_t era;
	struct tree tree;
	pthread_mutex_t rules_lock;
	/* guarded by rules_lock */
	struct rule rules[64];
	int n_rules;
	struct dice dice;
	uint64_t n_reads, n_writes, n_fsyncs, n_hits, n_cuts;
	int control;
	struct fuse_session *session;
} faultfs = {
    .power = PTHREAD_RWLOCK_WRITER_NONRECURSIVE_INITIALIZER_NP, .rules_lock = PTHREAD_MUTEX_INITIALIZER, .dice = {.state = 1}};

/*
 * The kernel's number of a node: its address, with the era in the 16 bits above.  After a power cut every file has another
 * number, so the kernel makes its inodes anew and remembers neither pages nor errors from before, as after a boot.
 */
static struct node *node_of(fuse_ino_t ino)
{
	return ino == FUSE_ROOT_ID ? faultfs.tree.root : (struct node *)(uintptr_t)(ino & ((UINT64_C(1) << 48) - 1));
}

static fuse_ino_t ino_of(const struct node *n)
{
	return n == faultfs.tree.root ? FUSE_ROOT_ID : (uintptr_t)n | faultfs.era << 48;
}

static uint64_t rule_dice(void)
{
	pthread_mutex_lock(&faultfs.rules_lock);
	uint64_t roll = dice_roll(&faultfs.dice);
	pthread_mutex_unlock(&faultfs.rules_lock);
	return roll;
}

/* ---- power ---- */

static void power_cut(enum cut_mode mode, uint64_t seed)
{
	static const unsigned char odds_of_16[] = {2, 8, 14};
	struct dice d;

	dice_seed(&d, seed);
	unsigned odds = odds_of_16[dice_roll(&d) % ARRAY_SIZE(odds_of_16)];
	pthread_rwlock_wrlock(&faultfs.power);
	if (!faultfs.dead) {
		faultfs.dead = true;
		faultfs.n_cuts++;
		for (struct node *n = faultfs.tree.nodes; n; n = n->next)
			if (n->undo.fd >= 0)
				undo_cut(&n->undo, mode, &d, odds);
		pthread_mutex_lock(&faultfs.tree.lock);
		tree_cut(&faultfs.tree, mode, &d, odds);
		pthread_mutex_unlock(&faultfs.tree.lock);
	}
	pthread_rwlock_unlock(&faultfs.power);
}

/* Lets the kernel forget its pages while writes still fail, then serves again. */
static void power_restore(void)
{
	size_t n_inos = 0;

	pthread_mutex_lock(&faultfs.tree.lock);
	for (struct node *n = faultfs.tree.nodes; n; n = n->next)
		n_inos += n->lookups > 0;
	CLEANUP_FREE fuse_ino_t *inos = calloc(n_inos + 1, sizeof(*inos));
	n_inos = 0;
	for (struct node *n = faultfs.tree.nodes; inos && n; n = n->next)
		if (n->lookups > 0)
			inos[n_inos++] = ino_of(n);
	pthread_mutex_unlock(&faultfs.tree.lock);
	for (size_t i = 0; i < n_inos; i++)
		(void)!fuse_lowlevel_notify_inval_inode(faultfs.session, inos[i], 0, 0);
	pthread_rwlock_wrlock(&faultfs.power);
	faultfs.dead = false;
	faultfs.era = (faultfs.era + 1) & 0xffff;
	pthread_rwlock_unlock(&faultfs.power);
}

/* ---- rules ---- */

static struct rule rule_hit(const struct node *n, int op)
{
	struct rule hit = {.action = ACT_NONE};

	pthread_mutex_lock(&faultfs.rules_lock);
	faultfs.n_reads += op == OP_READ;
	faultfs.n_writes += op == OP_WRITE;
	faultfs.n_fsyncs += op == OP_FSYNC;
	for (int i = 0; i < faultfs.n_rules && !hit.action; i++) {
		struct rule *r = &faultfs.rules[i];
		if (!(r->ops & op) || r->count == 0 || fnmatch(r->glob, n->path, 0) != 0)
			continue;
		if (r->skip > 0) {
			r->skip--;
			continue;
		}
		r->count -= r->count > 0;
		faultfs.n_hits++;
		hit = *r;
	}
	pthread_mutex_unlock(&faultfs.rules_lock);
	return hit;
}

/*
 * Opens an operation: takes power shared, or replies the error that a rule or a cut asks for and returns false.
 * The rule that hit is left in *ret_rule for the operation to obey.
 */
static bool op_begin(fuse_req_t req, const struct node *n, int op, struct rule *ret_rule)
{
	*ret_rule = (struct rule){.action = ACT_NONE};
	if (op)
		*ret_rule = rule_hit(n, op);
	if (ret_rule->action == ACT_CUT)
		power_cut(ret_rule->mode, rule_dice());
	pthread_rwlock_rdlock(&faultfs.power);
	int error = faultfs.dead ? EIO : ret_rule->action == ACT_ERROR ? ret_rule->error : 0;
	if (!error)
		return true;
	if (op == OP_FSYNC && !faultfs.dead && n->undo.fd >= 0) {
		struct node *w = node_of(ino_of(n));
		pthread_mutex_lock(&w->lock);
		undo_flush_failed(&w->undo);
		pthread_mutex_unlock(&w->lock);
	}
	pthread_rwlock_unlock(&faultfs.power);
	fuse_reply_err(req, error);
	return false;
}

static bool op_begin_plain(fuse_req_t req)
{
	struct rule none;

	return op_begin(req, faultfs.tree.root, 0, &none);
}

static void op_end(void)
{
	pthread_rwlock_unlock(&faultfs.power);
}

/* ---- the FUSE calls ---- */

static void attr_of(struct node *n, struct stat *ret)
{
	memset(ret, 0, sizeof(*ret));
	if (n->undo.fd < 0 || fstat(n->undo.fd, ret) < 0)
		ret->st_atim = ret->st_mtim = ret->st_ctim = n->changed;
	ret->st_ino = n->id;
	ret->st_mode = n->mode;
	ret->st_uid = n->uid;
	ret->st_gid = n->gid;
	ret->st_nlink = S_ISDIR(n->mode) ? 2 : n->links;
}

static struct fuse_entry_param entry_param(struct node *n)
{
	struct fuse_entry_param e = {.ino = ino_of(n), .generation = n->id, .attr_timeout = 3600};

	attr_of(n, &e.attr);
	n->lookups++;
	return e;
}

static void ff_lookup(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	if (!op_begin_plain(req))
		return;
	pthread_mutex_lock(&faultfs.tree.lock);
	struct node *n = tree_find(node_of(parent), name);
	struct fuse_entry_param e = n ? entry_param(n) : (struct fuse_entry_param){0};
	pthread_mutex_unlock(&faultfs.tree.lock);
	op_end();
	if (n)
		fuse_reply_entry(req, &e);
	else
		fuse_reply_err(req, ENOENT);
}

static void ff_forget(fuse_req_t req, fuse_ino_t ino, uint64_t nlookup)
{
	pthread_rwlock_rdlock(&faultfs.power);
	pthread_mutex_lock(&faultfs.tree.lock);
	node_put(&faultfs.tree, node_of(ino), 0, nlookup);
	pthread_mutex_unlock(&faultfs.tree.lock);
	pthread_rwlock_unlock(&faultfs.power);
	fuse_reply_none(req);
}

static void ff_getattr(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct stat st;

	(void)fi;
	if (!op_begin_plain(req))
		return;
	attr_of(node_of(ino), &st);
	op_end();
	fuse_reply_attr(req, &st, 3600);
}

/* Cutting a file short changes what a later read of the cut part, or a power cut, must give back: keep it. */
static int resize(struct node *n, off_t size)
{
	struct stat st;
	int r;

	pthread_mutex_lock(&n->lock);
	if (fstat(n->undo.fd, &st) == 0 && size < st.st_size)
		undo_save(&n->undo, (uint64_t)size, (uint64_t)(st.st_size - size));
	r = ftruncate(n->undo.fd, size) < 0 ? errno : 0;
	pthread_mutex_unlock(&n->lock);
	return r;
}

static void set_times(struct node *n, const struct stat *in, int set)
{
	struct timespec t[2] = {{.tv_nsec = UTIME_OMIT}, {.tv_nsec = UTIME_OMIT}};

	if (set & FUSE_SET_ATTR_ATIME)
		t[0] = in->st_atim;
	if (set & FUSE_SET_ATTR_MTIME)
		t[1] = in->st_mtim;
	if (set & FUSE_SET_ATTR_ATIME_NOW)
		t[0].tv_nsec = UTIME_NOW;
	if (set & FUSE_SET_ATTR_MTIME_NOW)
		t[1].tv_nsec = UTIME_NOW;
	if (n->undo.fd >= 0)
		(void)!futimens(n->undo.fd, t);
}

static void ff_setattr(fuse_req_t req, fuse_ino_t ino, struct stat *in, int set, struct fuse_file_info *fi)
{
	struct node *n = node_of(ino);
	struct rule rule;
	struct stat st;
	int r = 0;

	(void)fi;
	if (!op_begin(req, n, set & FUSE_SET_ATTR_SIZE ? OP_WRITE : 0, &rule))
		return;
	if (set & FUSE_SET_ATTR_MODE)
		n->mode = (n->mode & S_IFMT) | (in->st_mode & 07777);
	if (set & FUSE_SET_ATTR_UID)
		n->uid = in->st_uid;
	if (set & FUSE_SET_ATTR_GID)
		n->gid = in->st_gid;
	if (set & FUSE_SET_ATTR_SIZE)
		r = n->undo.fd >= 0 ? resize(n, in->st_size) : EISDIR;
	set_times(n, in, set);
	attr_of(n, &st);
	op_end();
	if (r)
		fuse_reply_err(req, r);
	else
		fuse_reply_attr(req, &st, 3600);
}

/* Makes a file or directory; with `fi` also replies as CREATE. */
static void make_node(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode, struct fuse_file_info *fi)
{
	struct node *dir = node_of(parent);
	struct fuse_entry_param e = {0};
	struct rule rule;
	int r = 0;

	if (!op_begin(req, dir, OP_NAME, &rule))
		return;
	pthread_mutex_lock(&faultfs.tree.lock);
	if (!S_ISREG(mode) && !S_ISDIR(mode)) {
		r = EPERM;
	} else if (tree_find(dir, name)) {
		r = EEXIST;
	} else {
		struct node *n = node_new(&faultfs.tree, mode, fuse_req_ctx(req)->uid, fuse_req_ctx(req)->gid);
		struct name_op op = {.n = 1, .slot[0] = slot_make(dir, name, n)};
		tree_do(&faultfs.tree, &op);
		e = entry_param(n);
	}
	pthread_mutex_unlock(&faultfs.tree.lock);
	op_end();
	if (fi)
		fi->direct_io = fi->flags & O_DIRECT ? 1 : 0;
	if (r)
		fuse_reply_err(req, r);
	else if (fi)
		fuse_reply_create(req, &e, fi);
	else
		fuse_reply_entry(req, &e);
}

static void ff_mknod(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode, dev_t rdev)
{
	(void)rdev;
	make_node(req, parent, name, mode, NULL);
}

static void ff_mkdir(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode)
{
	make_node(req, parent, name, S_IFDIR | mode, NULL);
}

static void ff_create(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode, struct fuse_file_info *fi)
{
	make_node(req, parent, name, S_IFREG | (mode & 07777), fi);
}

static void remove_name(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	struct node *dir = node_of(parent);
	struct rule rule;
	int r = 0;

	if (!op_begin(req, dir, OP_NAME, &rule))
		return;
	pthread_mutex_lock(&faultfs.tree.lock);
	struct name_op op = {.n = 1, .slot[0] = slot_make(dir, name, NULL)};
	if (!op.slot[0].was)
		r = ENOENT;
	else if (op.slot[0].was->entries)
		r = ENOTEMPTY;
	else
		tree_do(&faultfs.tree, &op);
	pthread_mutex_unlock(&faultfs.tree.lock);
	op_end();
	fuse_reply_err(req, r);
}

static void ff_rename(fuse_req_t req, fuse_ino_t parent, const char *name, fuse_ino_t new_parent, const char *new_name,
		      unsigned flags)
{
	struct node *dir = node_of(parent), *new_dir = node_of(new_parent);
	struct rule rule;
	int r = 0;

	if (!op_begin(req, new_dir, OP_NAME, &rule))
		return;
	pthread_mutex_lock(&faultfs.tree.lock);
	struct node *n = tree_find(dir, name), *target = tree_find(new_dir, new_name);
	if (flags & ~1u) /* only RENAME_NOREPLACE */
		r = EINVAL;
	else if (!n)
		r = ENOENT;
	else if (target && flags)
		r = EEXIST;
	else if (target && target->entries)
		r = ENOTEMPTY;
	if (!r && n != target) {
		struct name_op op = {.n = 2, .slot = {slot_make(dir, name, NULL), slot_make(new_dir, new_name, n)}};
		tree_do(&faultfs.tree, &op);
	}
	pthread_mutex_unlock(&faultfs.tree.lock);
	op_end();
	fuse_reply_err(req, r);
}

static void ff_link(fuse_req_t req, fuse_ino_t ino, fuse_ino_t new_parent, const char *new_name)
{
	struct node *dir = node_of(new_parent), *n = node_of(ino);
	struct fuse_entry_param e = {0};
	struct rule rule;
	int r = 0;

	if (!op_begin(req, dir, OP_NAME, &rule))
		return;
	pthread_mutex_lock(&faultfs.tree.lock);
	if (tree_find(dir, new_name)) {
		r = EEXIST;
	} else {
		struct name_op op = {.n = 1, .slot[0] = slot_make(dir, new_name, n)};
		tree_do(&faultfs.tree, &op);
		e = entry_param(n);
	}
	pthread_mutex_unlock(&faultfs.tree.lock);
	op_end();
	if (r)
		fuse_reply_err(req, r);
	else
		fuse_reply_entry(req, &e);
}

static void ff_open(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	int r = 0;

	if (!op_begin_plain(req))
		return;
	if (fi->flags & O_TRUNC)
		r = resize(node_of(ino), 0);
	op_end();
	/* mmap of a descriptor with direct_io is refused by the kernel, so only those that asked for O_DIRECT have it. */
	fi->direct_io = fi->flags & O_DIRECT ? 1 : 0;
	if (r)
		fuse_reply_err(req, r);
	else
		fuse_reply_open(req, fi);
}

static void ff_read(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi)
{
	struct node *n = node_of(ino);
	struct rule rule;

	(void)fi;
	if (!op_begin(req, n, OP_READ, &rule))
		return;
	CLEANUP_FREE uint8_t *p = malloc(size + 1);
	ssize_t len = p ? pread(n->undo.fd, p, size, off) : -1;
	op_end();
	if (len > 0 && rule.action == ACT_FLIP) {
		uint64_t bit = rule_dice() % ((uint64_t)len * 8);
		p[bit / 8] ^= (uint8_t)(1u << bit % 8);
	}
	if (len < 0)
		fuse_reply_err(req, EIO);
	else
		fuse_reply_buf(req, (char *)p, (size_t)len);
}

/* How much of a torn write arrives: whole sectors, less than all. */
static size_t torn_length(size_t size)
{
	return rule_dice() % div_round_up(size, UNDO_SECTOR) * UNDO_SECTOR;
}

static void ff_write(fuse_req_t req, fuse_ino_t ino, const char *p, size_t size, off_t off, struct fuse_file_info *fi)
{
	struct node *n = node_of(ino);
	struct rule rule;
	int r = 0;

	if (!op_begin(req, n, OP_WRITE, &rule))
		return;
	size_t len = rule.action == ACT_TEAR ? torn_length(size) : rule.action == ACT_LOSE ? 0 : size;
	pthread_mutex_lock(&n->lock);
	undo_save(&n->undo, (uint64_t)off, len);
	ssize_t done = len ? pwrite(n->undo.fd, p, len, off) : 0;
	if (done != (ssize_t)len)
		r = done < 0 ? errno : ENOSPC;
	else if (len && fi->flags & O_DSYNC) /* O_SYNC contains it */
		undo_flush_range(&n->undo, (uint64_t)off, len);
	pthread_mutex_unlock(&n->lock);
	op_end();
	if (rule.action == ACT_TEAR)
		r = EIO;
	if (r)
		fuse_reply_err(req, r);
	else
		fuse_reply_write(req, size);
}

static void ff_fsync(fuse_req_t req, fuse_ino_t ino, int datasync, struct fuse_file_info *fi)
{
	struct node *n = node_of(ino);
	struct rule rule;

	(void)datasync;
	(void)fi;
	if (!op_begin(req, n, OP_FSYNC, &rule))
		return;
	if (rule.action != ACT_LOSE) {
		pthread_mutex_lock(&n->lock);
		undo_flush(&n->undo);
		pthread_mutex_unlock(&n->lock);
	}
	op_end();
	fuse_reply_err(req, 0);
}

static void ff_fallocate(fuse_req_t req, fuse_ino_t ino, int mode, off_t off, off_t len, struct fuse_file_info *fi)
{
	struct node *n = node_of(ino);
	struct rule rule;

	(void)fi;
	if (!op_begin(req, n, OP_WRITE, &rule))
		return;
	pthread_mutex_lock(&n->lock);
	if (mode & (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE))
		undo_save(&n->undo, (uint64_t)off, (uint64_t)len);
	int r = mode & ~(FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE) ? EOPNOTSUPP
		: fallocate(n->undo.fd, mode, off, len) < 0                                 ? errno
											    : 0;
	pthread_mutex_unlock(&n->lock);
	op_end();
	fuse_reply_err(req, r);
}

static void ff_lseek(fuse_req_t req, fuse_ino_t ino, off_t off, int whence, struct fuse_file_info *fi)
{
	(void)fi;
	if (!op_begin_plain(req))
		return;
	off_t at = lseek(node_of(ino)->undo.fd, off, whence);
	int r = errno;
	op_end();
	if (at < 0)
		fuse_reply_err(req, r);
	else
		fuse_reply_lseek(req, at);
}

struct snapshot_entry {
	mode_t mode;
	char name[256];
};

static void ff_opendir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct node *dir = node_of(ino);
	size_t n = 0;

	if (!op_begin_plain(req))
		return;
	pthread_mutex_lock(&faultfs.tree.lock);
	for (struct entry *e = dir->entries; e; e = e->next)
		n++;
	/* A snapshot, ended by an entry without a name: names may change while it is read. */
	struct snapshot_entry *list = calloc(n + 1, sizeof(*list)), *out = list;
	for (struct entry *e = dir->entries; list && e; e = e->next, out++) {
		out->mode = e->node->mode;
		memcpy(out->name, e->name, sizeof(out->name));
	}
	pthread_mutex_unlock(&faultfs.tree.lock);
	op_end();
	fi->fh = (uintptr_t)list;
	fuse_reply_open(req, fi);
}

static void ff_readdir(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi)
{
	struct snapshot_entry *list = (struct snapshot_entry *)(uintptr_t)fi->fh;
	size_t used = 0;

	(void)ino;
	if (!op_begin_plain(req))
		return;
	CLEANUP_FREE char *p = malloc(size);
	for (off_t i = off; p && list && list[i].name[0]; i++) {
		struct stat st = {.st_ino = (ino_t)i + 100, .st_mode = list[i].mode};
		size_t need = fuse_add_direntry(req, p + used, size - used, list[i].name, &st, i + 1);
		if (need > size - used)
			break;
		used += need;
	}
	op_end();
	fuse_reply_buf(req, p, used);
}

static void ff_releasedir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	(void)ino;
	free((void *)(uintptr_t)fi->fh);
	fuse_reply_err(req, 0);
}

static void ff_fsyncdir(fuse_req_t req, fuse_ino_t ino, int datasync, struct fuse_file_info *fi)
{
	struct node *dir = node_of(ino);
	struct rule rule;

	(void)datasync;
	(void)fi;
	if (!op_begin(req, dir, OP_FSYNC, &rule))
		return;
	if (rule.action != ACT_LOSE) {
		pthread_mutex_lock(&faultfs.tree.lock);
		tree_flush(&faultfs.tree, dir);
		pthread_mutex_unlock(&faultfs.tree.lock);
	}
	op_end();
	fuse_reply_err(req, 0);
}

static void ff_statfs(fuse_req_t req, fuse_ino_t ino)
{
	struct statvfs st;

	(void)ino;
	if (!op_begin_plain(req))
		return;
	int r = fstatvfs(faultfs.tree.objects, &st) < 0 ? errno : 0;
	op_end();
	if (r)
		fuse_reply_err(req, r);
	else
		fuse_reply_statfs(req, &st);
}

static const struct fuse_lowlevel_ops operations = {
    .lookup = ff_lookup,
    .forget = ff_forget,
    .getattr = ff_getattr,
    .setattr = ff_setattr,
    .mknod = ff_mknod,
    .mkdir = ff_mkdir,
    .create = ff_create,
    .unlink = remove_name,
    .rmdir = remove_name,
    .rename = ff_rename,
    .link = ff_link,
    .open = ff_open,
    .read = ff_read,
    .write = ff_write,
    .fsync = ff_fsync,
    .fallocate = ff_fallocate,
    .lseek = ff_lseek,
    .opendir = ff_opendir,
    .readdir = ff_readdir,
    .releasedir = ff_releasedir,
    .fsyncdir = ff_fsyncdir,
    .statfs = ff_statfs,
};

/* ---- commands ---- */

static int cut_mode_of(const char *name, enum cut_mode *ret_mode)
{
	static const char *const names[] = {"all", "pages", "torn"};

	for (unsigned i = 0; i < ARRAY_SIZE(names); i++)
		if (strcmp(name, names[i]) == 0) {
			*ret_mode = (enum cut_mode)i;
			return 0;
		}
	return -EINVAL;
}

static int rule_action(struct rule *r, const char *name)
{
	static const struct {
		const char *name;
		enum action action;
		int error;
	} actions[] = {
	    {"EIO", ACT_ERROR, EIO}, {"ENOSPC", ACT_ERROR, ENOSPC}, {"EROFS", ACT_ERROR, EROFS}, {"EDQUOT", ACT_ERROR, EDQUOT},
	    {"lose", ACT_LOSE, 0},   {"tear", ACT_TEAR, 0},         {"flip", ACT_FLIP, 0},
	};

	for (unsigned i = 0; i < ARRAY_SIZE(actions); i++)
		if (strcmp(name, actions[i].name) == 0) {
			r->action = actions[i].action;
			r->error = actions[i].error;
			return 0;
		}
	r->action = ACT_CUT;
	return strncmp(name, "cut-", 4) == 0 ? cut_mode_of(name + 4, &r->mode) : -EINVAL;
}

static int rule_ops(const char *name)
{
	static const struct {
		const char *name;
		int ops;
	} ops[] = {
	    {"read", OP_READ}, {"write", OP_WRITE}, {"fsync", OP_FSYNC}, {"name", OP_NAME}, {"any", OP_ANY},
	};

	for (unsigned i = 0; i < ARRAY_SIZE(ops); i++)
		if (strcmp(name, ops[i].name) == 0)
			return ops[i].ops;
	return 0;
}

static int command_rule(const char *args)
{
	struct rule r = {0};
	char op[16], action[16];

	if (sscanf(args, "%15s %15s %255s %ld %ld", op, action, r.glob, &r.skip, &r.count) != 5)
		return -EINVAL;
	r.ops = rule_ops(op);
	if (!r.ops || rule_action(&r, action) < 0)
		return -EINVAL;
	pthread_mutex_lock(&faultfs.rules_lock);
	int ok = faultfs.n_rules < (int)ARRAY_SIZE(faultfs.rules) ? 0 : -ENOSPC;
	if (!ok)
		faultfs.rules[faultfs.n_rules++] = r;
	pthread_mutex_unlock(&faultfs.rules_lock);
	return ok;
}

static struct node *path_find(char *path)
{
	struct node *n = faultfs.tree.root;
	char *at = NULL;

	for (char *part = strtok_r(path, "/", &at); n && part; part = strtok_r(NULL, "/", &at))
		n = tree_find(n, part);
	return n;
}

static int command_corrupt(const char *args)
{
	char path[1024];
	int mask;
	int64_t off;
	uint8_t byte = 0;
	int r = -ENOENT;

	if (sscanf(args, "%1023s %" SCNd64 " %i", path, &off, &mask) != 3)
		return -EINVAL;
	pthread_mutex_lock(&faultfs.tree.lock);
	struct node *n = path_find(path);
	if (n && n->undo.fd >= 0)
		r = pread(n->undo.fd, &byte, 1, off) == 1 ? 0 : -EINVAL;
	byte ^= (uint8_t)mask;
	if (!r && pwrite(n->undo.fd, &byte, 1, off) != 1)
		r = -EIO;
	fuse_ino_t ino = r ? 0 : ino_of(n);
	pthread_mutex_unlock(&faultfs.tree.lock);
	if (ino)
		fuse_lowlevel_notify_inval_inode(faultfs.session, ino, 0, 0);
	return r;
}

static void stats_text(char *ret_text, size_t cap)
{
	uint64_t pages = 0;

	pthread_rwlock_wrlock(&faultfs.power);
	for (struct node *n = faultfs.tree.nodes; n; n = n->next)
		pages += n->undo.n_pages;
	pthread_mutex_lock(&faultfs.rules_lock);
	snprintf(ret_text, cap,
		 "ok reads=%" PRIu64 " writes=%" PRIu64 " fsyncs=%" PRIu64 " hits=%" PRIu64 " cuts=%" PRIu64 " dead=%d "
		 "unflushed_pages=%" PRIu64 " unflushed_names=%zu\n",
		 faultfs.n_reads, faultfs.n_writes, faultfs.n_fsyncs, faultfs.n_hits, faultfs.n_cuts, faultfs.dead, pages,
		 faultfs.tree.n_pending);
	pthread_mutex_unlock(&faultfs.rules_lock);
	pthread_rwlock_unlock(&faultfs.power);
}

static int command_powercut(const char *args)
{
	enum cut_mode mode;
	uint64_t seed;
	char name[16];

	if (sscanf(args, "%15s %" SCNu64, name, &seed) != 2 || cut_mode_of(name, &mode) < 0)
		return -EINVAL;
	power_cut(mode, seed);
	return 0;
}

static void command_run(const char *line, char *ret_text, size_t cap)
{
	char verb[16] = "";
	int at = 0, r = 0;

	if (sscanf(line, "%15s %n", verb, &at) < 1)
		verb[0] = 0;
	if (strcmp(verb, "stats") == 0) {
		stats_text(ret_text, cap);
		return;
	}
	if (strcmp(verb, "powercut") == 0) {
		r = command_powercut(line + at);
	} else if (strcmp(verb, "restore") == 0) {
		power_restore();
	} else if (strcmp(verb, "rule") == 0) {
		r = command_rule(line + at);
	} else if (strcmp(verb, "clear") == 0) {
		pthread_mutex_lock(&faultfs.rules_lock);
		faultfs.n_rules = 0;
		pthread_mutex_unlock(&faultfs.rules_lock);
	} else if (strcmp(verb, "seed") == 0) {
		pthread_mutex_lock(&faultfs.rules_lock);
		dice_seed(&faultfs.dice, strtoull(line + at, NULL, 10));
		pthread_mutex_unlock(&faultfs.rules_lock);
	} else if (strcmp(verb, "corrupt") == 0) {
		r = command_corrupt(line + at);
	} else if (strcmp(verb, "ping") != 0) {
		r = -EINVAL;
	}
	if (r)
		snprintf(ret_text, cap, "error %s\n", strerror(-r));
	else
		snprintf(ret_text, cap, "ok\n");
}

static void *control_thread(void *arg)
{
	char line[2048], answer[512];

	(void)arg;
	for (;;) {
		CLEANUP_FD int c = accept4(faultfs.control, NULL, NULL, SOCK_CLOEXEC);
		if (c < 0)
			return NULL;
		ssize_t len = recv(c, line, sizeof(line) - 1, 0);
		if (len <= 0)
			continue;
		line[len] = 0;
		command_run(line, answer, sizeof(answer));
		(void)!send(c, answer, strlen(answer), MSG_NOSIGNAL);
	}
}

static int control_listen(const char *path)
{
	struct sockaddr_un a = {.sun_family = AF_UNIX};

	if (snprintf(a.sun_path, sizeof(a.sun_path), "%s", path) >= (int)sizeof(a.sun_path))
		return -ENAMETOOLONG;
	faultfs.control = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	if (faultfs.control < 0 || bind(faultfs.control, (struct sockaddr *)&a, sizeof(a)) < 0 || listen(faultfs.control, 8) < 0)
		return -errno;
	return 0;
}

static int serve(const char *program, const char *mountpoint)
{
	char *argv[] = {(char *)(uintptr_t)program, (char *)(uintptr_t) "-odefault_permissions,allow_other,fsname=faultfs", NULL};
	struct fuse_args args = FUSE_ARGS_INIT(2, argv);
	struct fuse_loop_config *config = NULL;
	pthread_t thread;
	int r = -EIO;

	faultfs.session = fuse_session_new(&args, &operations, sizeof(operations), NULL);
	if (!faultfs.session)
		goto out;
	if (fuse_set_signal_handlers(faultfs.session) < 0)
		goto err_after_session;
	if (fuse_session_mount(faultfs.session, mountpoint) < 0)
		goto err_after_session;
	if (pthread_create(&thread, NULL, control_thread, NULL) != 0)
		goto err_after_mount;
	config = fuse_loop_cfg_create();
	r = fuse_session_loop_mt(faultfs.session, config);
	fuse_loop_cfg_destroy(config);
	shutdown(faultfs.control, SHUT_RDWR);
	pthread_join(thread, NULL);
err_after_mount:
	fuse_session_unmount(faultfs.session);
err_after_session:
	fuse_remove_signal_handlers(faultfs.session);
	fuse_session_destroy(faultfs.session);
out:
	fuse_opt_free_args(&args);
	return r;
}

int main(int argc, char **argv)
{
	struct rlimit limit = {.rlim_cur = 65536, .rlim_max = 65536};

	if (argc != 4) {
		fprintf(stderr, "usage: faultfs OBJECTS CONTROL MOUNTPOINT\n");
		return 2;
	}
	setrlimit(RLIMIT_NOFILE, &limit);
	CLEANUP_FD int objects = open(argv[1], O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (objects < 0) {
		fprintf(stderr, "faultfs: %s: %s\n", argv[1], strerror(errno));
		return 1;
	}
	int r = control_listen(argv[2]);
	if (r < 0) {
		fprintf(stderr, "faultfs: %s: %s\n", argv[2], strerror(-r));
		return 1;
	}
	tree_init(&faultfs.tree, objects);
	r = serve(argv[0], argv[3]);
	unlink(argv[2]);
	return r ? 1 : 0;
}
