/* Passes over memory that torch makes in a dozen steps, in one: norms, gates, rotary positions, dropout,
   the softmax of a head.

   Compiled on first use by kernels.py, once for float and once for bfloat16 (-DBFLOAT16). All is computed in float and
   rounded once. Every row is one thread's work, so that results do not depend on the number of threads. */

#include "elements.h"

static inline float slope(float x, enum activation kind) {
    if (kind == SILU) {
        float s = 1.0f / (1.0f + exponential(-x));
        return s * (1.0f + x * (1.0f - s));
    }
    float t = hyperbolic_tangent(GELU_INNER(x));
    return 0.5f * (1.0f + t) + 0.5f * x * (1.0f - t * t) * 0.7978845608f * (1.0f + 3 * 0.044715f * x * x);
}

/* y = x / sqrt(mean(x^2) + epsilon) * (offset + weight), row by row; inverse keeps 1 / sqrt. */
void rms_norm(const element *x, const element *weight, element *y, float *inverse, int64_t rows, int64_t size,
              float epsilon, float offset, int threads) {
#pragma omp parallel for num_threads(threads)
    for (int64_t row = 0; row < rows; row++) {
        const element *from = x + row * size;
        element *to = y + row * size;
        float sum = 0;
#pragma omp simd reduction(+ : sum)
        for (int64_t i = 0; i < size; i++) sum += load(from[i]) * load(from[i]);
        float scale = inverse[row] = 1.0f / sqrtf(sum / size + epsilon);
#pragma omp simd
        for (int64_t i = 0; i < size; i++) to[i] = store(load(from[i]) * scale * (offset + load(weight[i])));
    }
}

/* dx = inverse * g - x * inverse^3 * mean(g x), where g = dy * (offset + weight). */
void rms_norm_backward(const element *dy, const element *x, const element *weight, const float *inverse, element *dx,
                       int64_t rows, int64_t size, float offset, int threads) {
#pragma omp parallel for num_threads(threads)
    for (int64_t row = 0; row < rows; row++) {
        const element *from = x + row * size, *above = dy + row * size;
        element *to = dx + row * size;
        float sum = 0, scale = inverse[row];
#pragma omp simd reduction(+ : sum)
        for (int64_t i = 0; i < size; i++) sum += load(above[i]) * (offset + load(weight[i])) * load(from[i]);
        float along = sum / size * scale * scale * scale;
#pragma omp simd
        for (int64_t i = 0; i < size; i++)
            to[i] = store(load(above[i]) * (offset + load(weight[i])) * scale - load(from[i]) * along);
    }
}

#define PIECE 2048

/* y = activation(gate) * up */
void gated(const element *gate, const element *up, element *y, int64_t count, int kind, int threads) {
#pragma omp parallel for num_threads(threads)
    for (int64_t start = 0; start < count; start += PIECE) {
        int64_t stop = start + PIECE < count ? start + PIECE : count;
        if (kind == SILU) {
#pragma omp simd
            for (int64_t i = start; i < stop; i++) y[i] = store(activated(load(gate[i]), SILU) * load(up[i]));
        } else {
#pragma omp simd
            for (int64_t i = start; i < stop; i++) y[i] = store(activated(load(gate[i]), GELU_TANH) * load(up[i]));
        }
    }
}

void gated_backward(const element *dy, const element *gate, const element *up, element *dgate, element *dup,
                    int64_t count, int kind, int threads) {
#pragma omp parallel for num_threads(threads)
    for (int64_t start = 0; start < count; start += PIECE) {
        int64_t stop = start + PIECE < count ? start + PIECE : count;
        enum activation one = kind;
        if (one == SILU) {
#pragma omp simd
            for (int64_t i = start; i < stop; i++) {
                float g = load(gate[i]), d = load(dy[i]);
                dgate[i] = store(d * load(up[i]) * slope(g, SILU));
                dup[i] = store(d * activated(g, SILU));
            }
        } else {
#pragma omp simd
            for (int64_t i = start; i < stop; i++) {
                float g = load(gate[i]), d = load(dy[i]);
                dgate[i] = store(d * load(up[i]) * slope(g, GELU_TANH));
                dup[i] = store(d * activated(g, GELU_TANH));
            }
        }
    }
}

/* Turn both halves of each head by the angle of its token: y = x cos + (-second half, first half) sin, and with
   back = 1 the transpose of that. x and y have a stride by head and one by token; cosine and sine are (tokens, size). */
void rotated(const element *x, const element *cosine, const element *sine, element *y, int64_t heads, int64_t tokens,
             int64_t size, int64_t x_head, int64_t x_token, int64_t y_head, int64_t y_token, int back, int threads) {
    int64_t half = size / 2;
#pragma omp parallel for num_threads(threads)
    for (int64_t token = 0; token < tokens; token++) {
        const element *c = cosine + token * size, *s = sine + token * size;
        for (int64_t head = 0; head < heads; head++) {
            const element *from = x + head * x_head + token * x_token;
            element *to = y + head * y_head + token * y_token;
#pragma omp simd
            for (int64_t i = 0; i < half; i++) {
                float a = load(from[i]), b = load(from[half + i]);
                float first = back ? load(s[half + i]) : -load(s[i]), second = back ? -load(s[i]) : load(s[half + i]);
                to[i] = store(a * load(c[i]) + b * first);
                to[half + i] = store(b * load(c[half + i]) + a * second);
            }
        }
    }
}

/* y = x / (1 - p), or 0 with probability p; the same elements for the same seed, so that back is the same on dy. */
void dropout(const element *x, element *y, int64_t count, int64_t seed, double p, int threads) {
    uint32_t below = limit_of(p);
    float kept = (float)(1.0 / (1.0 - p));
#pragma omp parallel for num_threads(threads)
    for (int64_t piece = 0; piece < (count + PIECE - 1) / PIECE; piece++) {
        uint32_t row = row_seed(seed, piece);
        int64_t start = piece * PIECE, stop = start + PIECE < count ? start + PIECE : count;
#pragma omp simd
        for (int64_t i = start; i < stop; i++)
            y[i] = store(drawn(row, (uint32_t)(i - start)) < below ? 0.0f : load(x[i]) * kept);
    }
}

static inline float capped(float x, float scale, float softcap) {
    x *= scale;
    return softcap > 0 ? softcap * hyperbolic_tangent(x / softcap) : x;
}

/* One row of a tile; `taken` and `softcap` are told apart by the compiler, so that each kind has a plain loop. */
static inline __attribute__((always_inline)) void tile_row(element *own, const uint8_t *taken, float *highest,
                                                           float *sums, int64_t size, float scale, float softcap,
                                                           int shares) {
    float top = *highest, sum = 0;
#pragma omp simd reduction(max : top)
    for (int64_t i = 0; i < size; i++) {
        float x = capped(load(own[i]), scale, softcap);
        x = taken && taken[i] ? -INFINITY : x;
        top = x > top ? x : top;
    }
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < size; i++) {
        float x = capped(load(own[i]), scale, softcap), e = exponential(x - top);
        e = taken && taken[i] ? 0.0f : e;
        sum += e;
        own[i] = shares ? store(softcap > 0 ? e * (1.0f - x / softcap * (x / softcap)) : e) : own[i];
    }
    *highest = top;
    *sums = sum;
}

/* One tile of an online softmax, row by row: highest and mass are of what came before and are brought up to date,
   fall is by how much the sums of before are to be scaled, share the tile's part of the mass so far. Columns that are
   `taken` count for nothing; it may be NULL. With `shares` the logits are overwritten by exp(logit - highest), times
   the slope of the cap where there is one. */
void tile_softmax(element *logits, const uint8_t *taken, float *highest, float *mass, float *fall, float *share,
                  int64_t rows, int64_t size, float scale, float softcap, int shares, int threads) {
#pragma omp parallel for num_threads(threads)
    for (int64_t row = 0; row < rows; row++) {
        element *own = logits + row * size;
        float top = highest[row], sum;
        if (softcap > 0 && taken)
            tile_row(own, taken, &top, &sum, size, scale, softcap, shares);
        else if (softcap > 0)
            tile_row(own, NULL, &top, &sum, size, scale, softcap, shares);
        else if (taken)
            tile_row(own, taken, &top, &sum, size, scale, 0, shares);
        else
            tile_row(own, NULL, &top, &sum, size, scale, 0, shares);
        fall[row] = exponential(highest[row] - top);
        mass[row] = mass[row] * fall[row] + sum;
        share[row] = sum / mass[row];
        highest[row] = top;
    }
}
