/* Rows of a weight that lie in blocks of few bits, widened. Our int8 is laid out as ggml's q8_0; int4 has 64 numbers, a
   step and the least of them in half precision. The others are ggml's (src/ggml-common.h in its repository). */

#include "elements.h"

#define LARGEST_BLOCK 256

static inline float half(const uint8_t *from) {
    uint32_t h = from[0] | (uint32_t)from[1] << 8, sign = (h & 0x8000u) << 16, exponent = h >> 10 & 31, rest = h & 1023;
    uint32_t bits = sign | (exponent == 31 ? 0x7F800000u : (exponent + 112) << 23) | rest << 13;
    float value;
    if (exponent == 0) {
        value = (float)rest * 0x1p-24f;
        return sign ? -value : value;
    }
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* 16 bytes, the lower halves first, with the fifth bits in `high` */
static inline void nibbles(const uint8_t *of, uint32_t high, float scale, float begin, float *y) {
    for (int i = 0; i < 16; i++) {
        y[i] = scale * (float)((of[i] & 15) | (high >> i & 1) << 4) + begin;
        y[i + 16] = scale * (float)((of[i] >> 4) | (high >> (i + 16) & 1) << 4) + begin;
    }
}

static inline uint32_t word(const uint8_t *of) {
    return of[0] | (uint32_t)of[1] << 8 | (uint32_t)of[2] << 16 | (uint32_t)of[3] << 24;
}

static void int8(const uint8_t *of, float *y) {
    float scale = half(of);
    for (int i = 0; i < 32; i++) y[i] = scale * (float)(int8_t)of[2 + i];
}

static void int4(const uint8_t *of, float *y) {
    float step = half(of), least = half(of + 2);
    for (int i = 0; i < 32; i++) y[i] = step * (float)(of[4 + i] & 15) + least;
    for (int i = 0; i < 32; i++) y[i + 32] = step * (float)(of[4 + i] >> 4) + least;
}

static void q4_0(const uint8_t *of, float *y) {
    float scale = half(of);
    nibbles(of + 2, 0, scale, -8 * scale, y);
}

static void q4_1(const uint8_t *of, float *y) { nibbles(of + 4, 0, half(of), half(of + 2), y); }

static void q5_0(const uint8_t *of, float *y) {
    float scale = half(of);
    nibbles(of + 6, word(of + 2), scale, -16 * scale, y);
}

static void q5_1(const uint8_t *of, float *y) { nibbles(of + 8, word(of + 4), half(of), half(of + 2), y); }

/* the scale and the least of the j-th 32 numbers, of six bits each, from 12 bytes */
static inline void six_bits(const uint8_t *of, int j, float *scale, float *least) {
    if (j < 4) {
        *scale = of[j] & 63, *least = of[j + 4] & 63;
        return;
    }
    *scale = (of[j + 4] & 15) | (of[j - 4] >> 6) << 4;
    *least = (of[j + 4] >> 4) | (of[j] >> 6) << 4;
}

/* `high` holds the fifth bits, or is none */
static inline void eights(const uint8_t *of, const uint8_t *high, const uint8_t *low, float *y) {
    float scale = half(of), least = half(of + 2);
    for (int j = 0; j < 8; j++) {
        float by, from;
        six_bits(of + 4, j, &by, &from);
        by *= scale, from *= least;
        for (int i = 0; i < 32; i++) {
            int four = j % 2 ? low[j / 2 * 32 + i] >> 4 : low[j / 2 * 32 + i] & 15;
            y[j * 32 + i] = by * (float)(four + (high ? (high[i] >> j & 1) << 4 : 0)) - from;
        }
    }
}

static void q4_k(const uint8_t *of, float *y) { eights(of, 0, of + 16, y); }

static void q5_k(const uint8_t *of, float *y) { eights(of, of + 16, of + 48, y); }

static void q6_k(const uint8_t *of, float *y) {
    const uint8_t *low = of, *high = of + 128;
    float scale = half(of + 208);
    for (int n = 0; n < 8; n++) { /* 32 numbers each */
        int part = n / 4, place = n % 4;
        for (int i = 0; i < 32; i++) {
            uint8_t both = low[part * 64 + place % 2 * 32 + i];
            int six = (place < 2 ? both & 15 : both >> 4) | (high[part * 32 + i] >> 2 * place & 3) << 4;
            y[n * 32 + i] = scale * (float)(int8_t)of[192 + n * 2 + i / 16] * (float)(six - 32);
        }
    }
}

static const struct {
    int block, bytes;
    void (*widen)(const uint8_t *of, float *y);
} kinds[] = {{32, 34, int8}, {64, 36, int4},   {32, 18, q4_0},    {32, 20, q4_1},    {32, 22, q5_0},
             {32, 24, q5_1}, {32, 34, int8},   {256, 144, q4_k},  {256, 176, q5_k},  {256, 210, q6_k}};

/* y (rows, size) from rows of whole blocks, of which the last may be filled up */
void blocks_wide(const uint8_t *packed, element *y, int64_t rows, int64_t size, int64_t kind, int threads) {
    int64_t block = kinds[kind].block, bytes = kinds[kind].bytes, blocks = (size + block - 1) / block;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t r = 0; r < rows; r++) {
        for (int64_t b = 0; b < blocks; b++) {
            float of[LARGEST_BLOCK];
            kinds[kind].widen(packed + (r * blocks + b) * bytes, of);
            element *to = y + r * size + b * block;
            int64_t count = size - b * block < block ? size - b * block : block;
            for (int64_t i = 0; i < count; i++) to[i] = store(of[i]);
        }
    }
}
