/*
 * simlog.h: inside of simstore.c and simcut.c: files, and the log of events.
 */
#pragma once

#include "base/lock.h"
#include "tests/lib/cow.h"
#include "tests/lib/simstore.h"

enum sim_kind {
	SIM_WRITE,
	SIM_MAPPED, /* pages of mapped memory that changed before this event began */
	SIM_FLUSH,
	SIM_CREATE,
	SIM_REMOVE,
	SIM_SYNC_NAMES,
	SIM_INDEX,
	SIM_MARK,
};

struct sim_entry {
	uint64_t event; /* 0: unflushed when this store began */
	uint8_t kind;
	bool durable; /* WRITE: with DISK_DURABLE */
	bool failed;
	uint32_t file;
	uint64_t first_sector, n_sectors; /* WRITE, MAPPED */
	struct cow_page **pages;          /* those the sectors lie in, as they were afterwards; NULL: zeros */
};
static inline uint64_t sim_first_page(const struct sim_entry *e)
{
	return e->first_sector / COW_SECTORS;
}
static inline uint64_t sim_end_page(const struct sim_entry *e)
{
	return div_round_up(e->first_sector + e->n_sectors, COW_SECTORS);
}
/* Which sectors of page `n` the entry wrote. */
static inline unsigned sim_mask(const struct sim_entry *e, uint64_t n)
{
	unsigned mask = 0;

	for (unsigned i = 0; i < COW_SECTORS; i++) {
		uint64_t sector = n * COW_SECTORS + i;

		if (sector >= e->first_sector && sector < e->first_sector + e->n_sectors)
			mask |= 1u << i;
	}
	return mask;
}

struct sim_file {
	char name[64];
	bool exists;
	struct cow live; /* as the running host sees it */
	uint8_t *map;    /* shared memory over it, NULL when not mapped */
	size_t map_len;
	/* When this store began: */
	bool base_exists, base_named; /* there at all; its name is durable */
	struct cow base;
};

struct simstore {
	struct mutex lock;
	bool record;
	uint64_t n_events, n_reads, n_failures;
	uint64_t fail_first, fail_count, fail_reads_first, fail_reads_count;
	uint64_t fail_index_count;
	int fail_error, fail_reads_error, fail_index_error;
	uint64_t space_total;
	void (*on_durable_write)(void *ctx);
	void *on_durable_write_ctx;
	struct rng rng; /* what a failed write leaves */
	struct sim_file *files;
	size_t n_files, files_cap;
	struct sim_entry *log;
	size_t n_log, log_cap;
};
uint32_t sim_file_add(struct simstore *s, const char *name, uint64_t size);
void sim_entry_free(struct sim_entry *e);
struct sim_entry *sim_entry_add(struct simstore *s, enum sim_kind kind, uint32_t file);
void sim_entry_share_pages(struct sim_entry *to, const struct sim_entry *from);
