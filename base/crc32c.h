/*
 * crc32c.h: CRC-32C (Castagnoli), as iSCSI (RFC 3720, appendix B.4) and ext4 use it.
 * crc32c(0, "123456789", 9) == 0xe3069283.  Threads: any.  Errors: none.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

/* CRC-32C of `len` bytes, continuing from `crc` (0 to begin). */
uint32_t crc32c(uint32_t crc, const void *p, size_t len);
