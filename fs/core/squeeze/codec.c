/*
 * codec.c: the two algorithms behind one pair of calls.
 *
 * LZ4 (https://github.com/lz4/lz4/blob/dev/doc/lz4_Block_format.md) and Zstandard (RFC 8878) as their libraries do them; only
 * calls that are told how much room there is.  Zstandard would take about half a megabyte anew at each call, so both of its
 * contexts are kept.
 */
#include "fs/core/squeeze/codec.h"

#include <errno.h>
#include <lz4.h>
#include <string.h>
#include <zstd.h>

struct codec {
	ZSTD_CCtx *compress; /* made when first needed */
	ZSTD_DCtx *expand;
};

int codec_new(struct codec **ret)
{
	struct codec *c = calloc(1, sizeof(*c));

	if (!c)
		return -ENOMEM;
	*ret = c;
	return 0;
}

struct codec *codec_free(struct codec *c)
{
	if (!c)
		return NULL;
	ZSTD_freeCCtx(c->compress);
	ZSTD_freeDCtx(c->expand);
	free(c);
	return NULL;
}

static int make_zstd(struct codec *c, int level, const uint8_t *data, size_t len, uint8_t *p, size_t cap, uint32_t *ret_bytes)
{
	if (!c->compress)
		c->compress = ZSTD_createCCtx();
	if (!c->compress)
		return -ENOMEM;
	size_t n = ZSTD_compressCCtx(c->compress, p, cap, data, len, level);
	*ret_bytes = ZSTD_isError(n) ? 0 : (uint32_t)n;
	return 0;
}

int codec_pack(struct codec *c, enum pack_algorithm algorithm, int level, const uint8_t *data, size_t len, uint8_t *p, size_t cap,
	       uint32_t *ret_bytes)
{
	if (algorithm == PACK_ZSTD)
		return make_zstd(c, level, data, len, p, cap, ret_bytes);
	int n = LZ4_compress_default((const char *)data, (char *)p, (int)len, (int)cap);
	*ret_bytes = n > 0 ? (uint32_t)n : 0;
	return 0;
}

static int open_zstd(struct codec *c, const uint8_t *p, uint32_t bytes, uint8_t *data, size_t *ret_len)
{
	if (!c->expand)
		c->expand = ZSTD_createDCtx();
	if (!c->expand)
		return -ENOMEM;
	size_t n = ZSTD_decompressDCtx(c->expand, data, LEAF_DATA_BYTES, p, bytes);
	if (ZSTD_isError(n))
		return -EBADMSG;
	*ret_len = n;
	return 0;
}

static int open_lz4(const uint8_t *p, uint32_t bytes, uint8_t *data, size_t *ret_len)
{
	int n = LZ4_decompress_safe((const char *)p, (char *)data, (int)bytes, (int)LEAF_DATA_BYTES);

	if (n < 0)
		return -EBADMSG;
	*ret_len = (size_t)n;
	return 0;
}

int codec_unpack(struct codec *c, enum pack_algorithm algorithm, const uint8_t *p, uint32_t bytes, uint8_t *data)
{
	size_t len;
	int r = bytes == 0 || bytes > PACK_BLOCKS_MAX * BLOCK_SIZE ? -EBADMSG
		: algorithm == PACK_ZSTD                           ? open_zstd(c, p, bytes, data, &len)
		: algorithm == PACK_LZ4                            ? open_lz4(p, bytes, data, &len)
								   : -EBADMSG;

	if (r < 0)
		return r;
	if (len == 0 || len % BLOCK_SIZE != 0)
		return -EBADMSG;
	memset(data + len, 0, LEAF_DATA_BYTES - len);
	return 0;
}
