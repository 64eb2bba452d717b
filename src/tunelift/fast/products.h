/* Matrix products that are too small for a library: of a strip of rows, with a depth or a width of a few vectors.

   They run on `unit`s, the smallest run along the summed index that the processor multiplies at once: two bfloat16 where
   it has AVX512-BF16, else one float. */

#include "elements.h"

#ifdef _OPENMP
#include <omp.h>
#else
static inline int omp_get_thread_num(void) { return 0; } /* one thread does all, in the order of the loops */
#endif

#if defined(BFLOAT16) && defined(__AVX512BF16__)
#include <immintrin.h>
#define DEPTH 2
typedef uint32_t unit __attribute__((may_alias, aligned(2))); /* elements are read and written as units */
#else
#define DEPTH 1
typedef float unit __attribute__((may_alias));
#endif

#if defined(__AVX512F__)
#define LANES 16
#define WIDE 4 /* vectors of columns of one small product: 6 x 4 sums fit into 32 registers */
#elif defined(__AVX__)
#define LANES 8
#define WIDE 2
#else
#define LANES 4
#define WIDE 2
#endif
#define HIGH 6 /* its rows */
#define TALL 12 /* its rows where a single vector is all there is of columns */

typedef float vector __attribute__((vector_size(4 * LANES), aligned(4)));

static inline vector multiplied(vector sum, unit a, const unit *b) {
#if DEPTH == 2
    return (vector)_mm512_dpbf16_ps((__m512)sum, (__m512bh)_mm512_set1_epi32((int)a), (__m512bh)_mm512_loadu_si512(b));
#else
    return sum + a * *(const vector *)b;
#endif
}

/* c (rows, vecs * LANES) = or += a (rows, depth) b (depth, vecs * LANES); unit (i, p) of a is a[i * a_row + p * a_deep]. */
static inline __attribute__((always_inline)) void small_product(int high, int vecs, int64_t rows, int64_t depth,
                                                                const unit *a, int64_t a_row, int64_t a_deep,
                                                                const unit *b, int64_t b_deep, float *c, int64_t c_row,
                                                                int add) {
    vector sums[TALL][WIDE];
    const unit *from[TALL]; /* rows beyond the last are the last once more */
    for (int i = 0; i < high; i++) {
        from[i] = a + (i < rows ? i : rows - 1) * a_row;
        for (int v = 0; v < vecs; v++) sums[i][v] = (vector){0};
    }
    for (int64_t p = 0; p < depth; p++) {
#pragma GCC unroll 12
        for (int i = 0; i < high; i++) {
            unit own = from[i][p * a_deep];
#pragma GCC unroll 4
            for (int v = 0; v < vecs; v++) sums[i][v] = multiplied(sums[i][v], own, b + p * b_deep + v * LANES);
        }
    }
    for (int i = 0; i < high && i < rows; i++)
        for (int v = 0; v < vecs; v++) {
            vector *to = (vector *)(c + i * c_row + v * LANES);
            *to = add ? *to + sums[i][v] : sums[i][v];
        }
}

/* The same for any number of rows and for columns a multiple of LANES. */
static void product(int64_t rows, int64_t columns, int64_t depth, const unit *a, int64_t a_row, int64_t a_deep,
                    const unit *b, int64_t b_deep, float *c, int64_t c_row, int add) {
    for (int64_t j = 0; j < columns; j += WIDE * LANES) {
        int vecs = columns - j < WIDE * LANES ? (int)((columns - j) / LANES) : WIDE;
        for (int64_t i = 0; i < rows; i += vecs == 1 ? TALL : HIGH) {
#define SMALL(high, vecs)                                                                                         \
    small_product(high, vecs, rows - i, depth, a + i * a_row, a_row, a_deep, b + j, b_deep, c + i * c_row + j, c_row, \
                  add)
            switch (vecs) {
            case 1: SMALL(TALL, 1); break;
            case 2: SMALL(HIGH, 2); break;
#if WIDE == 4
            case 3: SMALL(HIGH, 3); break;
            case 4: SMALL(HIGH, 4); break;
#endif
            }
#undef SMALL
        }
    }
}

static inline unit packed(float first, float second) {
#if DEPTH == 2
    return (unit)store(first) | (unit)store(second) << 16;
#else
    (void)second;
    return first;
#endif
}

/* to[i] = one unit of first[i * step] and second[i * step]. */
static inline void pack(unit *to, const float *first, const float *second, int64_t step, int64_t count) {
    if (step == 1) {
#pragma omp simd
        for (int64_t i = 0; i < count; i++) to[i] = packed(first[i], second[i]);
    } else {
#pragma omp simd
        for (int64_t i = 0; i < count; i++) to[i] = packed(first[i * step], second[i * step]);
    }
}

static inline int64_t padded_to(int64_t count, int64_t step) { return (count + step - 1) / step * step; }
