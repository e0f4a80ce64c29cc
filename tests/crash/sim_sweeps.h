/*
 * sim_sweeps.h: the simulator's other two sweeps: injected I/O errors and damaged bytes.
 * Errors: both return what main() exits with, after a line for each failure and one with the counts.
 */
#pragma once

#include <stdint.h>

/* G6: the n-th store operation fails, for every n of a small workload, once and for ever.  only >= 0: that n alone, with a trace.
 */
int sim_faults(uint64_t seed, uint64_t n_seeds, uint64_t n_ops, int64_t only);
/* G8: a flipped bit, zeros or another block's bytes at random places of clean and dirty stores. */
int sim_damage(uint64_t seed, uint64_t n_seeds);
