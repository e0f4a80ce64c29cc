/*
 * fuzz_wire.c: libFuzzer target over the decoders of replicate/wire/wire.h.
 *
 * The first byte chooses: frames as they come from a connection, or the body of one message, so that the CRC of frames does not
 * keep a fuzzer out.  What is accepted is within the limits and comes out as the same bytes again (wire_any.h).
 */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "base/crc32c.h"
#include "tests/unit/wire_any.h"

enum kind { RAW_FRAMES, FRAMES_WITH_CRC, BODIES };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void put_crc(uint8_t *p, size_t len)
{
	const le32 crc =
	    le32_make(crc32c(crc32c(0, p, offsetof(struct frame_header, crc)), p + FRAME_HEADER_BYTES, len - FRAME_HEADER_BYTES));

	memcpy(p + offsetof(struct frame_header, crc), &crc, sizeof(crc));
}

/* One frame, in memory of its own as a session has it; false when it ends the connection. */
static bool try_frame(const uint8_t *p, size_t len, bool mend)
{
	CLEANUP_FREE uint8_t *copy = malloc(len);
	enum message_type type;
	struct slice body;

	memcpy(copy, p, len);
	if (mend)
		put_crc(copy, len);
	return frame_open(copy, len, &type, &body) == 0 && any_decode(type, body) == 0;
}

static void try_frames(const uint8_t *p, size_t len, bool mend)
{
	size_t need = 0;

	for (uint64_t number = 0; frame_peek(p, len, number, &need) == 0 && need <= len; number++) {
		assert(need >= FRAME_HEADER_BYTES);
		if (!try_frame(p, need, mend))
			return;
		p += need;
		len -= need;
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (size < 1)
		return 0;
	unsigned kind = data[0];
	CLEANUP_FREE uint8_t *p = malloc(size);
	memcpy(p, data + 1, size - 1);
	if (kind < BODIES)
		try_frames(p, size - 1, kind == FRAMES_WITH_CRC);
	else
		any_decode(1 + (kind - BODIES) % MESSAGE_TYPE_MAX, (struct slice){p, size - 1});
	return 0;
}
