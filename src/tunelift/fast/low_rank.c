/* The products of LoRA in which one side has a few columns, the rank.

   Tensors (rows, size) lie row by row, one behind the other; parts of `low` (rows, all ranks) are its columns. A and B
   come in float, and are rounded to the elements' type as they are packed. Each result is one thread's work. */

#include "products.h"

#define STRIP 48
#define BLOCK 64 /* columns at once of a strip, whose sums stay in the nearest cache */
#define NARROW 64 /* columns at once where the sum runs over all rows */

/* Whether elements lie in memory as units do. */
int low_rank_runs(void) { return DEPTH * sizeof(element) == sizeof(unit); }

/* low[:, first : first + rank] = scale * x mᵀ, x (rows, size), m (rank, size): its number (j, k) is m[j * m_row +
   k * m_column]. panel: (size, padded rank) floats of work space. */
void low_rank_in(const element *x, const float *m, element *low, float *panel, int64_t rows, int64_t size,
                 int64_t rank, int64_t m_row, int64_t m_column, int64_t ranks, int64_t first, float scale, int threads) {
    int64_t wide = padded_to(rank, LANES), deep = size / DEPTH;
    unit *packs = (unit *)panel;
#pragma omp parallel num_threads(threads)
    {
#pragma omp for
        for (int64_t p = 0; p < deep; p++) {
            const float *from = m + p * DEPTH * m_column;
            pack(packs + p * wide, from, from + (DEPTH - 1) * m_column, m_row, rank);
            for (int64_t j = rank; j < wide; j++) packs[p * wide + j] = packed(0, 0);
        }
        float sums[STRIP * 64];
#pragma omp for
        for (int64_t start = 0; start < rows; start += STRIP) {
            int64_t here = rows - start < STRIP ? rows - start : STRIP;
            for (int64_t column = 0; column < wide; column += 64) {
                int64_t some = wide - column < 64 ? wide - column : 64;
                product(here, some, deep, (const unit *)(x + start * size), deep, 1, packs + column, wide, sums, some, 0);
                for (int64_t i = 0; i < here; i++)
                    for (int64_t j = 0; j < some && column + j < rank; j++)
                        low[(start + i) * ranks + first + column + j] = store(scale * sums[i * some + j]);
            }
        }
    }
}

/* y (rows, size) += scale * low[:, first : first + rank] m, m (rank, size) as above. panel: (rank, size) floats. */
void low_rank_out(const element *low, const float *m, element *y, float *panel, int64_t rows, int64_t size,
                  int64_t rank, int64_t m_row, int64_t m_column, int64_t ranks, int64_t first, float scale,
                  int threads) {
    int64_t deep = rank / DEPTH;
    unit *packs = (unit *)panel;
#pragma omp parallel num_threads(threads)
    {
#pragma omp for
        for (int64_t column = 0; column < size; column += NARROW) {
            int64_t some = size - column < NARROW ? size - column : NARROW;
            for (int64_t p = 0; p < deep; p++) {
                const float *from = m + p * DEPTH * m_row + column * m_column;
                pack(packs + p * size + column, from, from + (DEPTH - 1) * m_row, m_column, some);
            }
        }
        float sums[STRIP * BLOCK];
#pragma omp for
        for (int64_t start = 0; start < rows; start += STRIP) {
            int64_t here = rows - start < STRIP ? rows - start : STRIP;
            for (int64_t column = 0; column < size; column += BLOCK) {
                int64_t some = size - column < BLOCK ? size - column : BLOCK;
                product(here, some, deep, (const unit *)(low + start * ranks + first), ranks / DEPTH, 1, packs + column,
                        size, sums, BLOCK, 0);
                for (int64_t i = 0; i < here; i++) {
                    element *to = y + (start + i) * size + column;
#pragma omp simd
                    for (int64_t k = 0; k < some; k++) to[k] = store(load(to[k]) + scale * sums[i * BLOCK + k]);
                }
            }
        }
    }
}

/* found (rank, size) = scale * low[:, first : first + rank]ᵀ x, in float. panel: (rows + 1,
   rank + threads * NARROW). */
void low_rank_weights(const element *low, const element *x, float *found, float *panel, int64_t rows, int64_t size,
                      int64_t rank, int64_t ranks, int64_t first, float scale, int threads) {
    int64_t deep = (rows + DEPTH - 1) / DEPTH;
    unit *turned = (unit *)panel;
    for (int64_t p = 0; p < deep; p++) {
        const element *from = low + p * DEPTH * ranks + first, *second = from + (DEPTH - 1) * ranks;
        int both = p * DEPTH + DEPTH <= rows;
        for (int64_t j = 0; j < rank; j++) turned[p * rank + j] = packed(load(from[j]), both ? load(second[j]) : 0.0f);
    }
#pragma omp parallel for num_threads(threads)
    for (int64_t column = 0; column < size; column += NARROW) {
        int64_t some = size - column < NARROW ? size - column : NARROW;
        unit *pack = turned + deep * (rank + omp_get_thread_num() * NARROW);
        for (int64_t p = 0; p < deep; p++) {
            const element *from = x + p * DEPTH * size + column, *second = from + (DEPTH - 1) * size;
            unit *to = pack + p * some;
            if (p * DEPTH + DEPTH <= rows)
#if DEPTH == 2
#pragma omp simd
                for (int64_t k = 0; k < some; k++) to[k] = (unit)from[k] | (unit)second[k] << 16;
#else
                for (int64_t k = 0; k < some; k++) to[k] = load(from[k]), (void)second;
#endif
            else
                for (int64_t k = 0; k < some; k++) to[k] = packed(load(from[k]), 0);
        }
        product(rank, some, deep, turned, 1, rank, pack, some, found + column, size, 0);
        for (int64_t j = 0; j < rank; j++)
            for (int64_t k = column; k < column + some; k++) found[j * size + k] *= scale;
    }
}
