/* Weights in four bits (bitsandbytes): y[i] = code[nibble i] * absmax[i / block], the higher half of each byte first. */

#include "elements.h"

/* y (count,) are the numbers from `first` on. */
void four_bits_wide(const uint8_t *packed, const float *absmax, const float *code, element *y, int64_t first,
                    int64_t count, int64_t block, int threads) {
    int64_t end = first + count, blocks = count ? (end - 1) / block - first / block + 1 : 0;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t b = first / block; b < first / block + blocks; b++) {
        int64_t from = b * block > first ? b * block : first, to = (b + 1) * block < end ? (b + 1) * block : end;
        element of[16];
        for (int n = 0; n < 16; n++) of[n] = store(code[n] * absmax[b]);
        int64_t i = from;
        if (i < to && i % 2) y[i++ - first] = of[packed[from / 2] & 15];
        for (; i + 1 < to; i += 2) {
            uint8_t both = packed[i / 2];
            y[i - first] = of[both >> 4];
            y[i + 1 - first] = of[both & 15];
        }
        if (i < to) y[i - first] = of[packed[i / 2] >> 4];
    }
}
