/*
 * replica_history.c: a list of batches, each with the one before it: there are a few hundred, so looking is cheap enough.
 */
#include "tests/crash/replica_history.h"

#include <assert.h>

#include "tests/lib/cow.h"

uint32_t batches_find(const struct histories *h, uint64_t hash)
{
	for (size_t i = h->n_batches; i-- > 0;)
		if (h->batch[i].hash == hash)
			return (uint32_t)i;
	return NO_BATCH;
}

bool batches_add(struct histories *h, const struct known_batch *b, uint32_t *ret)
{
	if (!batches_is_split(h, b->epoch))
		for (size_t i = 0; i < h->n_batches; i++)
			if (h->batch[i].seq == b->seq && h->batch[i].epoch == b->epoch && !h->batch[i].doubtful)
				return false;
	h->batch = test_grow(h->batch, h->n_batches, &h->batches_cap, sizeof(*h->batch));
	h->batch[h->n_batches] = *b;
	*ret = (uint32_t)h->n_batches++;
	return true;
}

bool batches_contain(const struct histories *h, uint32_t tip, uint32_t b)
{
	assert(b < h->n_batches);
	while (tip != NO_BATCH && h->batch[tip].seq > h->batch[b].seq)
		tip = h->batch[tip].parent;
	return tip == b;
}

void batches_split(struct histories *h, uint64_t epoch)
{
	if (!batches_is_split(h, epoch) && h->n_split < ARRAY_SIZE(h->split))
		h->split[h->n_split++] = epoch;
}

bool batches_is_split(const struct histories *h, uint64_t epoch)
{
	for (size_t i = 0; i < h->n_split; i++)
		if (h->split[i] == epoch)
			return true;
	return false;
}

void acks_add(struct histories *h, unsigned level, uint32_t batch, bool waived)
{
	h->ack = test_grow(h->ack, h->n_acks, &h->acks_cap, sizeof(*h->ack));
	h->ack[h->n_acks++] = (struct known_ack){.level = level, .batch = batch, .waived = waived};
}

void histories_free(struct histories *h)
{
	for (size_t i = 0; i < h->n_batches; i++)
		model_free(h->batch[i].model);
	free(h->batch);
	free(h->ack);
	*h = (struct histories){0};
}
