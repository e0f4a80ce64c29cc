/* page.h: the files of the status page (fs/metrics/page/), as embed.py makes them part of the program. */
#pragma once

#include <stddef.h>

extern const unsigned char page_html[], page_css[], page_js[];
extern const size_t page_html_len, page_css_len, page_js_len;
