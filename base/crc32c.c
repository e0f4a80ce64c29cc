/*
 * crc32c.c: by isa-l where the build has it (39 GB/s and more), else by table.
 */
#include "base/crc32c.h"

#ifdef HAVE_ISAL
#include <isa-l/crc.h>

uint32_t crc32c(uint32_t crc, const void *p, size_t len)
{
	const uint8_t *at = p;

	while (len) { /* isa-l counts in int */
		int n = len > 1 << 30 ? 1 << 30 : (int)len;
		crc = ~crc32_iscsi((unsigned char *)(uintptr_t)at, n, ~crc);
		at += n;
		len -= (size_t)n;
	}
	return crc;
}

#else
#include <pthread.h>

static uint32_t table[256];

static void table_make(void)
{
	for (uint32_t i = 0; i < 256; i++) {
		uint32_t c = i;
		for (int k = 0; k < 8; k++)
			c = c & 1 ? c >> 1 ^ 0x82f63b78u : c >> 1;
		table[i] = c;
	}
}

uint32_t crc32c(uint32_t crc, const void *p, size_t len)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;
	const uint8_t *at = p;

	pthread_once(&once, table_make);
	crc = ~crc;
	for (; len; len--)
		crc = crc >> 8 ^ table[(crc ^ *at++) & 0xff];
	return ~crc;
}
#endif
