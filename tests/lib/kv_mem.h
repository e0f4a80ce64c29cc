/*
 * kv_mem.h: an exact index in memory for the simulator: struct kv with the durability rule of fs/store/kv.h and no other.
 *
 * Durability: what kv_freeze() caught is durable once kv_flush_frozen() returned 0, which is an event of the simstore the disk
 * belongs to: a crash leaves the newest version flushed before it, or either while the flush is under way.  Making and removing a
 * snapshot are such events, too.
 * Ownership: the test owns the kv_disk; it outlives every kv opened on it.  Versions share their entries.
 * Threads: any within one kv_disk; disks taken from one another belong to one thread together.
 * Errors: those of kv.h; a flush fails when the simstore says so.  Running out of memory aborts.
 */
#pragma once

#include "fs/store/kv.h"
#include "tests/lib/simstore.h"

struct kv_disk;

/* Empty; `sim` (may be NULL) numbers its flushes. */
struct kv_disk *kv_disk_new(struct simstore *sim);
void kv_disk_free(struct kv_disk *d);
/* As a crash after event `event` of d's simstore leaves it, for the image `sim`. */
struct kv_disk *kv_disk_at(const struct kv_disk *d, uint64_t event, struct simstore *sim);
/* For struct fs_config: kv_open with the kv_disk as its context; -EEXIST to create over an index that was flushed. */
int kv_mem_open(void *kv_disk, bool create, struct kv **ret_kv);
/* As if the index itself had found entry `n` (in key order) damaged: reading it gives -EBADMSG.  Counted from 0. */
void kv_disk_damage(struct kv_disk *d, uint64_t n);
uint64_t kv_disk_entries(const struct kv_disk *d);
