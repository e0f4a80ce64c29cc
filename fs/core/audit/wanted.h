/*
 * wanted.h: which records of the journal go into the audit log (wanted.c), and what is to be logged of an inode (level.c).
 *
 * Threads: any; the lock here is taken for a moment, under stripes and the gate too, and nothing else is taken under it but that of the
 * policies.  Errors: none; when in doubt a record is wanted.
 */
#pragma once

#include <stdatomic.h>

#include "base/lock.h"
#include "fs/core/core.h"

/* What the volume logs, as its policies and the mount say. */
enum audit_scope {
	AUDIT_NOTHING,
	AUDIT_ACTS, /* of admins */
	AUDIT_SOME, /* and changes, of a part of the tree */
	AUDIT_ALL,  /* and all changes */
};
static inline bool audit_has_changes(enum audit_scope s) { return s >= AUDIT_SOME; }

struct audit_wanted {
	_Atomic int scope; /* enum audit_scope */
	_Atomic uint64_t generation; /* of the policies that it is from */
	_Atomic uint64_t all_until;  /* records of batches up to this one are wanted whatever they are of */
	_Atomic uint64_t began, ended; /* batch since which changes are logged or, when they are not, since which not */
	struct mutex lock;
	/* guarded by lock */
	struct audit_note {
		uint64_t seq, ino; /* seq 0: a free place */
	} * note;                  /* owned; `cap` places, a power of two or none */
	size_t n, cap;
};

static inline enum audit_scope audit_scope_of(const struct audit_wanted *w)
{
	return (enum audit_scope)atomic_load_explicit(&w->scope, memory_order_relaxed);
}

/* Policies are loaded, and the journal is recovered. */
void audit_wanted_open(struct fs *fs, struct audit_wanted *w);
void audit_wanted_close(struct audit_wanted *w);
struct audit_wanted *audit_wanted_of(struct fs *fs); /* NULL: there is no log */
/* Whether a record that the archive came to goes into the log. */
bool audit_wants(struct audit_wanted *w, uint64_t seq, const struct record *r);
/* The archive is behind batch `seq`. */
void audit_wanted_passed(struct audit_wanted *w, uint64_t seq);

/* level.c */
MUST_CHECK int audit_level_parse(const char *value, enum fs_audit *ret); /* "off", "admin", "changes"; -EINVAL */
/*
 * What is to be logged of `ino` (0: of the volume); `held`: inodes whose stripes the caller has.  -ENOENT: that cannot be told, or of a
 * file with several names not by its number.
 */
MUST_CHECK int audit_level_at(struct fs *fs, uint64_t ino, const uint64_t *held, uint32_t n_held, enum fs_audit *ret);
/* The same for who holds nothing: changes, where it cannot be told. */
enum fs_audit audit_level_of(struct fs *fs, uint64_t ino);
