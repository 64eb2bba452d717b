/* Products with a frozen weight in eight bits: y (rows, out) is the sum over groups of columns of
   s_row,group * s_out,group * sum(q_row q_out), the inner sums in 32 bits.

   Each group of a row is brought to 8 bits by its own largest number, so that a row's result depends on no other. Rows
   are kept as 128 + q, which is what processors multiply with signed weights; the sums begin with what takes the 128
   back. A group that holds no finite numbers gives none. Processors without such products run the same sums slowly
   (int8_lanes is negative there). */

#include "elements.h"

#define ZERO 128
#define LARGEST 127.0f
#define SMALLEST 1e-30f /* rows of no larger number are taken for zeros: 127 over it would be infinite */

#if defined(__AVX512VNNI__) && defined(__AVX512F__)
#include <immintrin.h>
#define LANES 16
#define WIDE 4
#define NATIVE 1
#elif defined(__AVXVNNI__)
#include <immintrin.h>
#define LANES 8
#define WIDE 2
#define NATIVE 1
#else
#define LANES 8
#define WIDE 2
#define NATIVE 0
#endif
#define HIGH 6

typedef int32_t sums __attribute__((vector_size(4 * LANES), aligned(4)));
typedef float floats __attribute__((vector_size(4 * LANES), aligned(4)));

/* How many outputs lie beside each other in a packed weight; its sign says that this processor has no such products. */
int int8_lanes(void) { return NATIVE ? LANES : -LANES; }

static inline sums added(sums to, const uint8_t *four, const int8_t *weights) {
#if NATIVE
    int32_t all;
    memcpy(&all, four, sizeof all);
#if LANES == 16
    return (sums)_mm512_dpbusd_epi32((__m512i)to, _mm512_set1_epi32(all), _mm512_loadu_si512(weights));
#else
    return (sums)_mm256_dpbusd_avx_epi32((__m256i)to, _mm256_set1_epi32(all),
                                         _mm256_loadu_si256((const __m256i *)weights));
#endif
#else
    for (int o = 0; o < LANES; o++)
        for (int d = 0; d < 4; d++) to[o] += (int32_t)four[d] * weights[4 * o + d];
    return to;
#endif
}

/* q (rows, deep) = 128 + x / scale in integers, scale (rows, groups) = largest / 127 of each `group` columns; x (rows,
   size) is multiplied by `by` (size,) first, if that is given. What is beyond size, up to deep, a multiple of 4, is
   zero. */
void int8_rows(const element *x, const float *by, uint8_t *q, float *scale, int64_t rows, int64_t size, int64_t deep,
               int64_t group, int threads) {
    int64_t groups = (deep + group - 1) / group;
#pragma omp parallel for num_threads(threads)
    for (int64_t row = 0; row < rows; row++)
        for (int64_t g = 0; g < groups; g++) {
            const int64_t first = g * group, stop = first + group < size ? first + group : size;
            const element *from = x + row * size;
            uint8_t *to = q + row * deep;
            int32_t bits = 0; /* of the largest number without its sign, which order as the numbers do */
#pragma omp simd reduction(max : bits)
            for (int64_t i = first; i < stop; i++) {
                float value = by ? load(from[i]) * by[i] : load(from[i]);
                int32_t own;
                memcpy(&own, &value, sizeof own);
                own &= 0x7FFFFFFF;
                bits = own > bits ? own : bits;
            }
            float largest;
            memcpy(&largest, &bits, sizeof largest);
            int usual = bits < 0x7F800000 && largest > SMALLEST;
            scale[row * groups + g] = bits < 0x7F800000 ? (usual ? largest / LARGEST : 0.0f) : NAN;
            float turned = usual ? LARGEST / largest : 0.0f;
            if (usual) {
#pragma omp simd
                for (int64_t i = first; i < stop; i++) {
                    float value = by ? load(from[i]) * by[i] : load(from[i]);
                    to[i] = (uint8_t)((int32_t)rintf(value * turned) + ZERO);
                }
            } else if (first < stop)
                memset(to + first, ZERO, stop - first);
            for (int64_t i = stop; i < first + group && i < deep; i++) to[i] = ZERO;
        }
}

/* Bring a weight to eight bits and into the order of int8_product: number (o, d) is w[o * w_out + d * w_deep], times
   by[d] if that is given, over the scale of its output and group, which are found and kept in scales (groups, out
   padded to 16); or over given[d], if that is given. packed and begins are those of int8_product. */
void int8_pack(const element *w, const float *by, const float *given, int8_t *packed, int32_t *begins, float *scales,
               int64_t w_out, int64_t w_deep, int64_t out, int64_t size, int64_t deep, int64_t group, int threads) {
    const int64_t padded = (out + 15) / 16 * 16;
#pragma omp parallel for num_threads(threads)
    for (int64_t first = 0; first < padded; first += LANES)
        for (int64_t start = 0; start < deep; start += group) {
            const int64_t g = start / group, stop = start + group < size ? start + group : size;
            const int64_t end = start + group < deep ? start + group : deep;
            const int64_t here = out - first < LANES ? (out > first ? out - first : 0) : LANES;
            float scale[LANES] = {0}, value[LANES] = {0};
            int32_t sum[LANES] = {0}, q[LANES];
            if (!given) {
                for (int64_t d = start; d < stop; d++) {
                    const float times = by ? by[d] : 1.0f;
                    for (int64_t o = 0; o < here; o++) value[o] = load(w[(first + o) * w_out + d * w_deep]);
#pragma omp simd
                    for (int64_t o = 0; o < LANES; o++) {
                        float size_of = fabsf(value[o]) * times;
                        scale[o] = size_of > scale[o] ? size_of : scale[o];
                    }
                }
                for (int64_t o = 0; o < LANES; o++) scales[g * padded + first + o] = scale[o] = scale[o] / LARGEST;
            }
            for (int64_t d = start; d < end; d++) {
                int8_t *to = packed + (first * deep + d / 4 * 4 * LANES) + d % 4;
                const float times = d >= stop ? 0.0f : by ? by[d] : 1.0f;
                if (d < stop)
                    for (int64_t o = 0; o < here; o++) value[o] = load(w[(first + o) * w_out + d * w_deep]);
                if (given)
                    for (int64_t o = 0; o < LANES; o++) scale[o] = d < stop ? given[d] : 0.0f;
#pragma omp simd
                for (int64_t o = 0; o < LANES; o++) {
                    q[o] = (int32_t)rintf(scale[o] > 0 ? value[o] * times / scale[o] : 0.0f);
                    sum[o] += q[o];
                }
                for (int64_t o = 0; o < LANES; o++) to[4 * o] = (int8_t)q[o];
            }
            for (int64_t o = 0; o < LANES; o++) begins[g * padded + first + o] = -ZERO * sum[o];
        }
}

/* found (rows, WIDE * LANES) = the scaled sums of a few rows and outputs; scales (groups, out padded) may be NULL. */
static inline __attribute__((always_inline)) void int8_block(int vecs, int64_t rows, int64_t deep, int64_t group,
                                                             const uint8_t *q, const float *own, const int8_t *packed,
                                                             const int32_t *begins, const float *scales, int64_t padded,
                                                             float *found) {
    int64_t groups = (deep + group - 1) / group;
    const uint8_t *from[HIGH]; /* rows beyond the last are the last once more */
    const float *of_row[HIGH];
    for (int i = 0; i < HIGH; i++) {
        from[i] = q + (i < rows ? i : rows - 1) * deep;
        of_row[i] = own + (i < rows ? i : rows - 1) * groups;
    }
    for (int64_t g = 0; g < groups; g++) {
        sums all[HIGH][WIDE];
        for (int i = 0; i < HIGH; i++)
            for (int v = 0; v < vecs; v++) all[i][v] = *(const sums *)(begins + g * padded + v * LANES);
        int64_t stop = (g + 1) * group < deep ? (g + 1) * group : deep;
        for (int64_t d = g * group; d < stop; d += 4) {
#pragma GCC unroll 6
            for (int i = 0; i < HIGH; i++)
#pragma GCC unroll 4
                for (int v = 0; v < vecs; v++)
                    all[i][v] = added(all[i][v], from[i] + d, packed + (v * deep + d) * LANES);
        }
        for (int i = 0; i < HIGH; i++)
            for (int v = 0; v < vecs; v++) {
                floats *to = (floats *)(found + (i * WIDE + v) * LANES);
                floats value = __builtin_convertvector(all[i][v], floats) * of_row[i][g];
                if (scales) value *= *(const floats *)(scales + g * padded + v * LANES);
                *to = g ? *to + value : value;
            }
    }
}

/* y (rows, out) = or += what is described above, + bias (out,), which may be NULL. packed is (out / LANES, deep / 4,
   LANES, 4), zero where there is no output; begins and scales are (groups, out padded to 16), begins -128 times the
   sums of packed over a group. */
void int8_product(const uint8_t *q, const float *own, const int8_t *packed, const int32_t *begins, const float *scales,
                  const float *bias, element *y, int64_t rows, int64_t out, int64_t deep, int64_t group, int add,
                  int threads) {
    const int64_t panel = WIDE * LANES, panels = (out + panel - 1) / panel, padded = (out + 15) / 16 * 16;
    const int64_t groups = (deep + group - 1) / group;
#pragma omp parallel for num_threads(threads)
    for (int64_t p = 0; p < panels; p++) {
        int64_t first = p * panel, some = out - first < panel ? out - first : panel;
        int vecs = (int)((some + LANES - 1) / LANES);
        float found[HIGH * WIDE * LANES];
        for (int64_t row = 0; row < rows; row += HIGH) {
            int64_t here = rows - row < HIGH ? rows - row : HIGH;
#define BLOCK(vecs)                                                                                                   \
    int8_block(vecs, here, deep, group, q + row * deep, own + row * groups, packed + first * deep, begins + first,    \
               scales ? scales + first : 0, padded, found)
            switch (vecs) {
            case 1: BLOCK(1); break;
            case 2: BLOCK(2); break;
#if WIDE == 4
            case 3: BLOCK(3); break;
            case 4: BLOCK(4); break;
#endif
            }
#undef BLOCK
            for (int64_t i = 0; i < here; i++) {
                element *to = y + (row + i) * out + first;
#pragma omp simd
                for (int64_t o = 0; o < some; o++) {
                    float value = found[i * WIDE * LANES + o];
                    value = bias ? value + bias[first + o] : value;
                    to[o] = store(add ? load(to[o]) + value : value);
                }
            }
        }
    }
}

/* found (rows, most) = the outputs that may be a row's largest, if y (rows, out) may be off by of_row[0] * size +
   of_row[1] * apart of the output, of_row (rows, 2); counts (rows,) = how many these are, of which `most` are told. */
void likeliest(const float *y, const float *size, const float *apart, const float *of_row, int32_t *found,
               int32_t *counts, int64_t rows, int64_t out, int64_t most, int threads) {
#pragma omp parallel for num_threads(threads)
    for (int64_t row = 0; row < rows; row++) {
        const float *own = y + row * out, a = of_row[2 * row], b = of_row[2 * row + 1];
        float best = -INFINITY; /* the largest of what they are at least */
#pragma omp simd reduction(max : best)
        for (int64_t o = 0; o < out; o++) {
            float least = own[o] - (a * size[o] + b * apart[o]);
            best = least > best ? least : best;
        }
        int64_t count = 0;
        for (int64_t first = 0; first < out; first += 64) {
            const int64_t stop = first + 64 < out ? first + 64 : out;
            int any = 0;
#pragma omp simd reduction(| : any)
            for (int64_t o = first; o < stop; o++) any |= own[o] + (a * size[o] + b * apart[o]) >= best;
            for (int64_t o = first; any && o < stop; o++)
                if (own[o] + (a * size[o] + b * apart[o]) >= best) {
                    if (count < most) found[row * most + count] = (int32_t)o;
                    count++;
                }
        }
        counts[row] = (int32_t)count;
    }
}
