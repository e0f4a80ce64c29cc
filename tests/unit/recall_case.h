/*
 * recall_case.h: the one world of recall_world.h that all cases of a program have, each a new one, without threads.
 */
#pragma once

#include "tests/unit/recall_world.h"

static struct recall_world w;

static inline int open_world(void **state)
{
	(void)state;
	world_open(&w, false);
	return 0;
}

static inline int close_world(void **state)
{
	(void)state;
	world_close(&w);
	return 0;
}
