/*
 * fs.h: a mounted volume, as operations on inode numbers.  The FUSE face, the simulator, fsck and dump stand on this.
 *
 * Durability: an operation that returned 0 survives kill -9; after fs_sync() returned 0 everything that returned before it
 * was called survives power loss; what a crash leaves is an exact prefix of the operations.
 * Ownership: struct fs owns journal, arena, index and kv.  Threads: every fs_ function but open and close from any thread.
 * Errors: -errno as POSIX names it for the call; -EIO for anything found damaged (logged with the path), -EROFS once the
 * volume stopped after a failed write.  Nothing here checks permissions: the kernel does (default_permissions).
 * Names: any bytes but '/' and NUL, 1 to 255; "." and ".." only in fs_lookup.
 */
#pragma once

#include "base/clock.h"
#include "base/disk.h"
#include "journal/journal.h"
#include "journal/replica.h"
#include "fs/store/crypt/key.h"
#include "fs/store/kv.h"

#define FS_ROOT_INO 1u

struct diverged_sink;
struct fs;
struct object_store;
struct store_definition;

/* Who asks. */
struct fs_cred {
	uint32_t uid, gid, pid;
	uint32_t umask;
	uint64_t unique; /* FUSE request id */
};

struct fs_attr {
	uint64_t ino, size, blocks_512; /* as st_blocks */
	uint32_t mode, nlink, uid, gid;
	uint64_t rdev;
	int64_t atime_ns, mtime_ns, ctime_ns, btime_ns;
};

/* What the audit log has (fs/core/audit/audit.h): nothing, what admins do, also every change.  A read-only mount has none. */
enum fs_audit { FS_AUDIT_OFF, FS_AUDIT_ADMIN, FS_AUDIT_CHANGES };

struct fs_config {
	struct store *store;        /* owned from a successful fs_open on */
	enum encryption encryption; /* what `store` and the kv do to what they are given; the superblock must say the same */
	struct batch_signer signer; /* of the journal, with an encryption that signs */
	const char *source;         /* what admins call it, for status ("source"); borrowed, may be NULL */
	/* Opens (or, for format, creates) the index; the product gives RocksDB below the store, the simulator its own. */
	int (*kv_open)(void *ctx, bool create, struct kv **ret_kv);
	void *kv_ctx;
	struct diverged_sink *diverged; /* where a resync keeps what only this node had (fs/store/diverged.h); NULL: nowhere */
	/*
	 * Opens the store that a definition names, with this node's credentials for `name`; NULL: there are no stores, cold data cannot
	 * be read.  *message (OBJECT_MESSAGE_MAX) says why not.  Never called with a lock held.
	 */
	int (*object_store_open)(void *ctx, const char *name, const struct store_definition *d, struct object_store **ret_store,
				 char *message);
	void *object_store_ctx;
	uint64_t recall_rate;       /* bytes a second that reads of cold data may fetch; 0: no limit */
	uint64_t scrub_rate;        /* bytes a second that a scrub reads unless it is told otherwise; 0: default */
	uint32_t high_water;        /* percent of space used above which the coldest files are aged out, whatever their age; 0: never */
	bool audited;               /* there is an audit log, even with FS_AUDIT_OFF: levels can be set while mounted */
	enum fs_audit audit;        /* of what no directory says otherwise (the policy "audit") */
	bool audit_as_before;       /* what the log says is logged goes on: of who opens a volume and is no mount */
	bool audit_strict;          /* an act that cannot be logged is refused */
	uint64_t audit_keep;        /* bytes of the audit log beyond which its oldest part goes; 0: default */
	int64_t audit_keep_ns;      /* and the age; 0: whatever it is */
	const struct clock *clock;  /* NULL: the system's */
	bool read_only;
	bool noatime;
	uint32_t n_workers;         /* most threads that call fs_ functions at once */
	uint32_t n_receivers;       /* of those, threads that receive requests; 0: not said */
	uint64_t memory_bytes;      /* budget: inode cache and memtables; 0: 512 MiB */
	int64_t commit_interval_ns; /* age at which an open batch is committed by the timer; 0: default */
	int64_t checkpoint_interval_ns;
	bool lead_later;            /* a leader changes nothing, and nothing is recorded of this mount, before fs_lead() */
	bool no_threads;            /* no homer, committer, checkpointer, reaper: the caller steps (simulator, fsck) */
	unsigned sabotage;          /* FS_SABOTAGE_*: breaks one rule on purpose; tests only */
};
enum {
	FS_SABOTAGE_R1_SKIP_FLUSH = 1 << 0,   /* direct data is not flushed before its batch */
	FS_SABOTAGE_R2_HOME_EARLY = 1 << 1,   /* homes batches that are not durable */
	FS_SABOTAGE_R3_REUSE_NOW = 1 << 2,    /* freed blocks are allocated before the next checkpoint */
	FS_SABOTAGE_R4_CKPT_NO_FLUSH = 1 << 3,/* checkpoint without fdatasync of the arena */
	FS_SABOTAGE_R5_TRIM_EARLY = 1 << 4,   /* tail from memory, not from the persisted index */
	FS_SABOTAGE_APPLY_IN_WINDOW = 1 << 5, /* a follower applies batches before the fence of their data is durable */
	FS_SABOTAGE_SNAP_IN_PLACE = 1 << 7,   /* blocks of snapshots are written in place */
	FS_SABOTAGE_SNAP_FREE = 1 << 8,       /* and freed when they go from the live tree */
	FS_SABOTAGE_SHARE_IN_PLACE = 1 << 9,  /* blocks that clones share are written in place */
	FS_SABOTAGE_SHARE_FREE = 1 << 10,     /* and freed when the first of them lets go */
	FS_SABOTAGE_SHARE_TRIM = 1 << 11,     /* the ring does not keep what a clone shares there */
	FS_SABOTAGE_ROLL_APPLIED = 1 << 12,   /* checkpoints on the way back to a snapshot say that it is over */
	FS_SABOTAGE_PACK_REUSE = 1 << 13,     /* homes that a packed leaf had are used again before the next checkpoint */
	FS_SABOTAGE_KEEP_REPLACED = 1 << 14,  /* a resync keeps aside what it replaces, and nothing that goes later */
	FS_SABOTAGE_TIER_DROP_EARLY = 1 << 6, /* homes of tiered data go, and are used again, before the TIER record is durable */
};

struct fs_format_options {
	uint8_t volume[16];         /* all zero: random */
	struct journal_geometry journal;
	uint64_t chunk_bytes;
	uint64_t max_bytes;         /* 0: no limit */
	uint64_t host_reserve;
	uint32_t root_uid, root_gid, root_mode;
	const char *label;
	uint8_t node[16];           /* of this copy, as its certificate says; all zero: random */
	uint32_t node_id;           /* 0: 1, the first node of a new volume */
	uint64_t epoch;             /* 0: the first; of a follower: none heard of yet */
	bool follower;              /* `volume` is that of a leader: empty until its first resync, and says so */
};
/* Makes a volume in an empty store: super (last), journal, first chunk, index with the root directory. -EEXIST. */
MUST_CHECK int fs_format(const struct fs_config *c, const struct fs_format_options *o);

/* Opens a volume and recovers it.  Unattended after any crash; writes nothing before everything read was validated. */
MUST_CHECK int fs_open(const struct fs_config *c, struct fs **ret_fs);
/*
 * After fs_open() with lead_later: a leader logs its EPOCH record, durably, and takes changes from then on.  Until then another one
 * may make it a follower (replica_ops.note_epoch), which then has nothing that its new leader has not.  Does nothing to a follower,
 * nor to a leader that offered the lead to another node and does not know what came of it: that one takes no change (-EROFS).
 */
MUST_CHECK int fs_lead(struct fs *fs);
/* Checkpoint, mark clean, close.  Returns the error that kept it from being clean, after closing all the same. */
int fs_close(struct fs *fs);
/* As after kill -9: closes without writing anything; for the simulator and after a failure. */
void fs_abandon(struct fs *fs);

struct fs_recovery {
	uint64_t batches, records, staged_records, bytes, orphans;
	int64_t nanoseconds;
	bool was_clean;
};
void fs_get_recovery(struct fs *fs, struct fs_recovery *ret);

/* Namespace.  Each that returns attributes also counts one kernel reference (nlookup), to be given back by fs_forget. */
MUST_CHECK int fs_lookup(struct fs *fs, uint64_t parent, const char *name, struct fs_attr *ret);
void fs_forget(struct fs *fs, uint64_t ino, uint64_t nlookup);
/* A mount ended, and the kernel's references with it: forgets all of them. */
MUST_CHECK int fs_forget_all(struct fs *fs);
/* Whether the kernel refers to `ino`, and so may have cached something of it; of the root it always may. */
/* Of an inode that the kernel knows: another one from then on that it became another file (fs_snap_rollback()). */
uint64_t fs_generation(struct fs *fs, uint64_t ino);
bool fs_is_known(struct fs *fs, uint64_t ino);
/* Calls fn for each such inode, with no lock held. */
MUST_CHECK int fs_known_each(struct fs *fs, void (*fn)(void *ctx, uint64_t ino), void *ctx);
/* Regular files, directories, fifos, sockets, devices by mode's type.  Applies umask or the parent's default ACL, and
 * the parent's set-group-ID. */
MUST_CHECK int fs_mknod(struct fs *fs, const struct fs_cred *cred, uint64_t parent, const char *name, uint32_t mode, uint64_t rdev,
			struct fs_attr *ret);
MUST_CHECK int fs_symlink(struct fs *fs, const struct fs_cred *cred, uint64_t parent, const char *name, const char *target,
			  struct fs_attr *ret);
MUST_CHECK int fs_link(struct fs *fs, const struct fs_cred *cred, uint64_t ino, uint64_t parent, const char *name, struct fs_attr *ret);
MUST_CHECK int fs_unlink(struct fs *fs, const struct fs_cred *cred, uint64_t parent, const char *name);
MUST_CHECK int fs_rmdir(struct fs *fs, const struct fs_cred *cred, uint64_t parent, const char *name);
/* flags: RENAME_NOREPLACE, RENAME_EXCHANGE, RENAME_WHITEOUT of linux/fs.h. */
MUST_CHECK int fs_rename(struct fs *fs, const struct fs_cred *cred, uint64_t parent, const char *name, uint64_t new_parent,
			 const char *new_name, unsigned flags);
/* NUL-terminates; cap >= 4096. */
MUST_CHECK int fs_readlink(struct fs *fs, uint64_t ino, char *p, size_t cap);

/*
 * Entries of a directory after `cookie` (0: from the start), in the order of their cookies, which are stable for as long
 * as the entry exists and never used twice: nothing is skipped or shown twice while entries come and go.  "." and ".."
 * have cookies 1 and 2.  With want_attr, `attr` is set and the callback must return 1 to count a reference for that entry
 * (not for "." and ".."); 0: taken, no reference; negative: did not fit, stop.
 */
struct fs_dirent {
	uint64_t ino, cookie;
	uint32_t type; /* mode's type bits */
	const char *name;
	const struct fs_attr *attr;
};
typedef int fs_readdir_cb(void *ctx, const struct fs_dirent *e);
MUST_CHECK int fs_readdir(struct fs *fs, uint64_t ino, uint64_t cookie, bool want_attr, fs_readdir_cb *cb, void *ctx);

/* Attributes. */
MUST_CHECK int fs_getattr(struct fs *fs, uint64_t ino, struct fs_attr *ret);
/* in->mask as ATTR_*; times are explicit (the face resolves UTIME_NOW).  Without ATTR_CTIME, ctime becomes now. */
MUST_CHECK int fs_setattr(struct fs *fs, const struct fs_cred *cred, uint64_t ino, const struct record_attr *in, struct fs_attr *ret);
/* Of fs_setxattr(), beside XATTR_CREATE and XATTR_REPLACE: an access ACL takes the setgid bit along. */
#define FS_XATTR_DROP_SGID (1 << 30)
/* flags: as above.  POSIX ACLs keep the mode in step.  clawfs.* never gets here: control.h. */
MUST_CHECK int fs_setxattr(struct fs *fs, const struct fs_cred *cred, uint64_t ino, const char *name, const void *value, size_t len,
			   int flags);
/* cap 0 asks for the length; -ERANGE when short, -ENODATA. */
MUST_CHECK int fs_getxattr(struct fs *fs, uint64_t ino, const char *name, void *value, size_t cap, size_t *ret_len);
MUST_CHECK int fs_listxattr(struct fs *fs, uint64_t ino, char *list, size_t cap, size_t *ret_len);
MUST_CHECK int fs_removexattr(struct fs *fs, const struct fs_cred *cred, uint64_t ino, const char *name);

/*
 * Data.  fs_read gives up to len bytes at off, fewer only at the end of the file; `p` must have room for len rounded out to
 * whole blocks plus one block and be aligned to DISK_BLOCK when it should be read without a copy.
 * *ret_p points at the first byte, inside p.
 */
MUST_CHECK int fs_read(struct fs *fs, uint64_t ino, uint64_t off, size_t len, void *p, void **ret_p, size_t *ret_len);
/* At most 1 MiB a call, all or nothing.  Bytes aligned in memory and file go to disk without a copy above 64 KiB.
 * kernel_times: the kernel owns mtime and ctime (writeback cache) and will set them itself. */
MUST_CHECK int fs_write(struct fs *fs, const struct fs_cred *cred, uint64_t ino, uint64_t off, size_t len, const void *p,
			bool kernel_times);
/* mode: FALLOC_FL_* of linux/falloc.h; -EOPNOTSUPP for collapse, insert, unshare. */
MUST_CHECK int fs_fallocate(struct fs *fs, const struct fs_cred *cred, uint64_t ino, int mode, uint64_t off, uint64_t len);
MUST_CHECK int fs_lseek(struct fs *fs, uint64_t ino, uint64_t off, int whence, uint64_t *ret_off); /* SEEK_DATA, SEEK_HOLE */
/*
 * Up to 16 MiB a call; *ret_len may be shorter than asked, each call is one operation.  Blocks that lie alike in both are shared and not
 * copied (share/share.h).  -EINVAL: ranges of one file that overlap.
 */
MUST_CHECK int fs_copy_range(struct fs *fs, const struct fs_cred *cred, uint64_t from, uint64_t from_off, uint64_t to, uint64_t to_off,
			     size_t len, size_t *ret_len);

/* A barrier: everything that returned before is durable (guarantee G2), here and on as many followers as the durability
 * policy of the root directory says. */
MUST_CHECK int fs_sync(struct fs *fs);
/*
 * The same without waiting, at the level that the policy of `ino` says (durability.c): calls w->done once, now or later,
 * perhaps from another thread; see journal_commit_async().
 */
void fs_sync_async(struct fs *fs, uint64_t ino, struct journal_waiter *w);
/* The same, and waits. */
MUST_CHECK int fs_sync_inode(struct fs *fs, uint64_t ino);
/*
 * Nobody wants to wait any more for what `w` was given to: fs_sync_async() or fs_wait_pos_async().  True: it waited, for followers
 * or a position, and w->done is not called.  Else it is or was called, at once or when the commit under way is done: with
 * -EINTR where it would have waited then.  `w` is compared and not looked at: it may be gone.
 */
MUST_CHECK bool fs_interrupt(struct fs *fs, const struct journal_waiter *w);

/*
 * After an operation of this thread returned -EINPROGRESS: it needs data that lies in an object store, and has changed nothing.
 * w->done is called once, now or later, perhaps from another thread: 0, call the operation again; -EACCES, the policy refuses
 * recalls here; -EIO (logged), the store did not give it within its time; -ENOMEM.
 */
void fs_recall_async(struct fs *fs, struct journal_waiter *w);
/*
 * What was fetched for `w` stays in memory until this is called, once for a `w` that was given to fs_recall_async() once or several
 * times (an operation that comes upon more): so an operation that is called again gets on, however short memory is.
 */
void fs_recall_end(struct fs *fs, struct journal_waiter *w);
/* One that waits is answered, with -EINTR, before this returns; one that was answered already is not touched. */
void fs_recall_cancel(struct fs *fs, struct journal_waiter *w);
/* The same as fs_recall_async(), waiting: for callers that hold nothing and are no FUSE worker. */
MUST_CHECK int fs_recall(struct fs *fs);

struct fs_statfs {
	uint64_t total_blocks, free_blocks, files, free_files; /* blocks of BLOCK_SIZE */
};
void fs_statfs(struct fs *fs, struct fs_statfs *ret);
/* The same below a directory, or where a file is: no more than the quotas above leave. */
void fs_statfs_at(struct fs *fs, uint64_t ino, struct fs_statfs *ret);

/*
 * What is below a directory, without itself, exactly as it is now; the time does not depend on how much that is.  A file with
 * several names counts once, where its newest one is.  -ENODATA: no directory, or nothing is counted (usage/usage.h).
 */
struct fs_usage {
	uint64_t bytes;   /* sizes, as stat(2) tells them: holes count, space beyond the end does not */
	uint64_t files;   /* whatever is no directory */
	uint64_t subdirs;
	int64_t ctime_ns; /* the newest change, of the directory itself too; never goes back */
};
MUST_CHECK int fs_dir_usage(struct fs *fs, uint64_t ino, struct fs_usage *ret);

/*
 * Quotas: limits on that, of any directory, for everyone, root too.  What would go beyond one is refused with -EDQUOT, and what
 * makes less is not, nor what moves inside.
 */
enum fs_quota_kind { QUOTA_BYTES, QUOTA_FILES }; /* files: with directories */
/* "10G", "none" or (files) "1000"; NULL unsets, -ENODATA when there was none.  -ENOTDIR, -EINVAL, -ERANGE. */
MUST_CHECK int fs_set_quota(struct fs *fs, const struct fs_cred *cred, uint64_t ino, enum fs_quota_kind kind, const char *value);
struct fs_quota {
	uint64_t ino, max_bytes, max_files; /* UINT64_MAX: no limit */
	uint64_t bytes, files;              /* in use */
};
typedef void fs_quota_fn(void *ctx, const struct fs_quota *q); /* a lock is held: calls nothing of the volume */
/* Those at or above `ino`, the nearest first; of all directories. */
MUST_CHECK int fs_quotas_above(struct fs *fs, uint64_t ino, fs_quota_fn *fn, void *ctx);
MUST_CHECK int fs_quotas_each(struct fs *fs, fs_quota_fn *fn, void *ctx);
/* The same as a JSON array. */
MUST_CHECK int fs_quotas_text(struct fs *fs, uint64_t ino, struct buf *out);
MUST_CHECK int fs_quotas_text_unnamed(struct fs *fs, uint64_t ino, struct buf *out); /* "path" is null: for who may not know it */
MUST_CHECK int fs_quotas_list(struct fs *fs, struct buf *out);

/* Background work as steps; with threads these are called by them. *ret_more: call again. */
MUST_CHECK int fs_home_step(struct fs *fs, uint32_t max_blocks, bool *ret_more);
MUST_CHECK int fs_checkpoint(struct fs *fs);
MUST_CHECK int fs_reap_step(struct fs *fs, bool *ret_more);
MUST_CHECK int fs_squeeze_step(struct fs *fs, bool *ret_more);

/*
 * Compression (squeeze/), as the policy "compression" of a directory or file says, of what is written from then on.  fs_compress() puts
 * all that a file has in line to be made as its policy says now, and does not wait: -EINVAL (no file), -EROFS (of a snapshot), -ENOENT, -EAGAIN (try later).
 * fs_compression_text(): "data=BYTES packed=BYTES frames=BYTES" of a file: what it has, what of that is packed, and what that takes.
 */
MUST_CHECK int fs_compress(struct fs *fs, uint64_t ino);
MUST_CHECK int fs_compression_text(struct fs *fs, uint64_t ino, struct buf *out);

/*
 * Snapshots (snap/): the volume as it was at one point of the order of operations, under a name of 1 to 255 bytes without '/' and
 * control characters, neither "." nor "..".  fs_snap_root() is the number of its root directory; fs_lookup() goes on from there, and
 * every call that reads takes such numbers, calls that change get -EROFS.  No references are counted for them.
 * Create and delete return when that is durable, as fs_sync() says it.  -EEXIST, -EMLINK (there are 1024), -EINVAL, -ENAMETOOLONG,
 * -ENOENT, -EROFS, -ENOSPC.
 */
struct fs_snap {
	uint64_t gen, seq;   /* its number; the batch of its record: it is the state before that */
	int64_t time_ns;
	bool held;           /* this node has it, and can show it */
	uint64_t only_bytes; /* of data that nothing else has: what deleting it frees; 0 unless counted */
	uint64_t root;       /* of one that is held */
	char name[RECORD_NAME_MAX + 1];
};
MUST_CHECK int fs_snap_create(struct fs *fs, const struct fs_cred *cred, const char *name);
MUST_CHECK int fs_snap_delete(struct fs *fs, const struct fs_cred *cred, const char *name);
/* The same, durable on this node only: the caller goes on with fs_sync_async(). */
MUST_CHECK int fs_snap_create_here(struct fs *fs, const struct fs_cred *cred, const char *name);
MUST_CHECK int fs_snap_delete_here(struct fs *fs, const struct fs_cred *cred, const char *name);
/*
 * The tree becomes again what the snapshot has, in place; other snapshots stay, and with `keep` one is made of what it was,
 * before-rollback-YYYYMMDD-HHMMSS (UTC).  Nobody reads or writes meanwhile.  What is open and is not in the snapshot is gone.  The
 * caller tells the kernel that everything changed.  -ENOENT; -ENODATA: this node does not have it; -EIO, -EUCLEAN, -EBADMSG: its
 * index is damaged, and nothing was changed; -EMLINK: there is no room for the snapshot to keep; -ENOSPC.  _here: not yet where the
 * durability level wants it.
 */
MUST_CHECK int fs_snap_rollback(struct fs *fs, const struct fs_cred *cred, const char *name, bool keep);
MUST_CHECK int fs_snap_rollback_here(struct fs *fs, const struct fs_cred *cred, const char *name, bool keep);
/* A time that moves whenever a snapshot comes or goes. */
int64_t fs_snap_changed_ns(struct fs *fs);
/* In the order they were made, no lock held; `count`: only_bytes, which may take a walk of the deadlists. */
MUST_CHECK int fs_snap_each(struct fs *fs, bool count, int (*fn)(void *ctx, const struct fs_snap *s), void *ctx);
/*
 * The same as JSON, those from number `gen` on, as many as fit into 60,000 bytes: {"snapshots": [{"name", "gen", "seq", "time_ns",
 * "held", "only_bytes"}], "next": GEN}, "next" only when there are more.  A name that is not UTF-8 is "name_hex" instead.
 */
MUST_CHECK int fs_snap_list_json(struct fs *fs, uint64_t gen, struct buf *out);
/*
 * What changed from one snapshot to another, or (UINT64_MAX) to the live tree, a page of it from inode `ino` on, 0 first:
 * {"changes": [{"change": "created" | "deleted" | "modified" | "renamed", "path", "from" (of renamed)}], "next": INO}, "next" only when
 * there may be more.  A path that is not UTF-8 is {"hex": BYTES}.  -ENOENT.
 */
MUST_CHECK int fs_snap_diff_json(struct fs *fs, uint64_t from_gen, uint64_t to_gen, uint64_t ino, struct buf *out);
/* -ENOENT also when this node does not hold it. */
MUST_CHECK int fs_snap_root(struct fs *fs, const char *name, uint64_t *ret_ino);
bool fs_is_snap(uint64_t ino); /* a number of an inode in a snapshot */
/* Background work as a step: blocks of deleted snapshots are freed. */
MUST_CHECK int fs_snap_step(struct fs *fs, bool *ret_more);
/* The same: takes and drops what the policy "snap.schedule" of the root says (snap/schedule.h); *ret_acted: there is one to follow. */
MUST_CHECK int fs_snap_schedule_step(struct fs *fs, bool *ret_acted);

/*
 * Replication.  fs_replica() is the volume as replicate/ sees it, borrowed; hooks are set once, after fs_open() and before
 * anything is shipped or mounted.
 */
struct replica_volume *fs_replica(struct fs *fs);
enum fs_change_kind {
	CHANGE_ATTR,  /* attributes of ino */
	CHANGE_DATA,  /* and bytes [off, off + len); len 0: to the end */
	CHANGE_ENTRY, /* `name` in directory ino, and its attributes */
	CHANGE_ALL,   /* anything: a resync, or the way back to a snapshot */
	CHANGE_SOON,  /* nothing yet; what the kernel has not written is wanted now */
};
struct fs_change {
	enum fs_change_kind kind;
	uint64_t ino, off, len;
	struct slice name; /* borrowed */
};
struct fs_hooks {
	void *ctx;
	/* A batch is durable.  No locks held; must not block. */
	void (*durable)(void *ctx, uint64_t seq);
	/*
	 * A block is wanted that this volume cannot read (replica_ops.next_wanted): how many peers can be asked for it now, and wakes
	 * their connections.  Each answers once, or its connection ends.  Must not block.  NULL: nobody.
	 */
	uint32_t (*ask_block)(void *ctx);
	/* Adds members to the status object (json_t). */
	void (*status)(void *ctx, void *json_object);
};
void fs_set_hooks(struct fs *fs, const struct fs_hooks *h);
/* A follower applied a change, or the tree went back: for the kernel's caches.  No locks held; may wait for room in a queue but not
 * for a request of who caused it.
 * NULL takes it away; returns once no call is under way. */
void fs_set_watcher(struct fs *fs, void (*changed)(void *ctx, const struct fs_change *c), void *ctx);
enum replica_role fs_role(struct fs *fs);
/* Whether it leads, and knows that it does: no other node was offered the lead without a word about it since (replica_ops.offer). */
bool fs_takes_changes(struct fs *fs);
/*
 * 0, or why the volume cannot be read now: -EIO: it stopped on the way back to a snapshot; of a follower -EBUSY (between two states,
 * behind its fence, different from its leader).
 */
int fs_readable(struct fs *fs);
/* The oldest batch any known peer still needs: a little of the ring is kept for it, also over a restart.  0: none. */
void fs_set_ship_floor(struct fs *fs, uint64_t seq);
/* Newest batch whose changes this node shows: on the leader the one being built. */
uint64_t fs_pos(struct fs *fs);
/* Calls w->done(w, 0) once fs_pos() >= seq, now or later and perhaps from another thread; -ETIMEDOUT, -ENOMEM, -EIO at the end. */
void fs_wait_pos_async(struct fs *fs, uint64_t seq, int64_t timeout_ns, struct journal_waiter *w);
/* The same once batch `seq` is settled: durable and, on a follower, applied (fs/core/feed/feed.h). */
void fs_wait_settled_async(struct fs *fs, uint64_t seq, int64_t timeout_ns, struct journal_waiter *w);
/* Without threads: answers those whose time is over.  *ret_next_ns: until the next one's is. */
void fs_wait_step(struct fs *fs, int64_t *ret_next_ns);
/* When a mount ends and nothing new comes from it: whoever waits in fs_sync_async() or fs_wait_pos_async() is answered before
 * this returns, with -EIO where it would go on waiting. */
void fs_end_waits(struct fs *fs);
/* node_hooks.acked: what the followers have durably, highest first; the first n_live are connected. */
void fs_acked(struct fs *fs, const uint64_t *durable, uint32_t n_known, uint32_t n_live);

/*
 * Policies: settings of a directory or file that everything below inherits (policy.c): "durability" so far.  Kept in the index
 * (table P), replicated, not among the xattrs that listxattr shows.
 */
#define FS_POLICY_MAX 1000u
MUST_CHECK int fs_set_policy(struct fs *fs, const struct fs_cred *cred, uint64_t ino, const char *key, const char *value); /* NULL: unset */
/* Whether there is any, so that an fsync may wait for followers; one load. */
bool fs_has_policies(struct fs *fs);
/* Of `ino` itself (-ENODATA: inherits) or, with `inherited`, of it or the nearest directory above that has one. */
MUST_CHECK int fs_get_policy(struct fs *fs, uint64_t ino, const char *key, bool inherited, char ret_value[FS_POLICY_MAX + 1]);

/*
 * An admin is about to do `what` with `ino` (0: none) and `value` (NULL: none, or nobody's business): durably in the audit log when this
 * returns.  *ret_act goes to fs_audit_result() once it is done, before it is answered.  -EIO: it could not be logged and must not be
 * done; else a log that fails is counted and *ret_act 0.
 */
MUST_CHECK int fs_audit_act(struct fs *fs, const struct fs_cred *who, const char *what, uint64_t ino, const struct slice *value,
			    uint64_t *ret_act);
/* The same of an act that changes what is logged: whatever the level of `ino`, and refused (-EIO) when it cannot be logged. */
MUST_CHECK int fs_audit_act_always(struct fs *fs, const struct fs_cred *who, const char *what, uint64_t ino, const struct slice *value,
				   uint64_t *ret_act);
void fs_audit_result(struct fs *fs, uint64_t act, int result); /* 0 or -errno; nothing with act 0 */
MUST_CHECK int fs_audit_ended(struct fs *fs, uint64_t act, const char *result); /* the same in words; -errno when it was not logged */
/* Somebody who may not do `what` tried to; `always`: whatever the level.  Many of them are counted, not entered one by one. */
void fs_audit_refused(struct fs *fs, const struct fs_cred *who, const char *what, uint64_t ino, bool always, int error);
/* Levels were set: the log says so durably before this returns. */
void fs_audit_level_changed(struct fs *fs);
const char *fs_audit_level_name(struct fs *fs, uint64_t ino); /* that holds for `ino`; static */

/* Members that somebody else adds to the status (json_t); set before the mount is there, taken away (NULL) when it is gone. */
void fs_set_status(struct fs *fs, void (*add)(void *ctx, void *json_object), void *ctx);
/* The status as a new object (json_t); what tells of peers only, which costs little, with `peers_only`.  NULL: no memory. */
void *fs_status_object(struct fs *fs, bool peers_only);
/* Status as JSON text (object), for `clawfs status`, the xattr clawfs.status and tests. */
void fs_status_json(struct fs *fs, struct buf *out);
/* Sticky: why the volume stopped writing, empty when well. */
void fs_failure(struct fs *fs, char *ret_text, size_t cap);
/* "/a/b" of an inode, by its parent links; "inode 17" when it cannot be told. */
void fs_path(struct fs *fs, uint64_t ino, char *ret_path, size_t cap);

/* Offline cross-check of everything: index, bitmap, leaves, link counts, data checksums. */
enum { FSCK_CLEAN = 0, FSCK_REPAIRED = 1, FSCK_DAMAGED = 4 };
struct fs_check_result {
	uint64_t inodes, directories, entries, leaves, blocks, bytes_verified;
	uint64_t objects, cold_blocks; /* in object stores; of files, that only those have: not verified */
	uint64_t damaged_blocks, structure_errors, accounting_errors;
};
/* Each finding goes to `report` as one line naming path or inode, what is wrong and what would repair it. */
MUST_CHECK int fs_check(struct fs *fs, bool verify_data, void (*report)(void *ctx, const char *line), void *ctx,
			struct fs_check_result *ret);
