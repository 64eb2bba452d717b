/* One layer of a decoder for the next tokens of answers: each row is one token, which sees its own keys and values.

   Weights lie in panels of PANEL outputs, (panels, in, PANEL), so that each is read once for all rows. What comes out for
   a row is a sum in the order of its numbers: it depends neither on the other rows nor on the threads. Weights, keys and
   values are stored as elements; all that is computed is in single precision. */

#include "products.h"

#define PANEL 16
#define VECS (PANEL / LANES)
/* Rows and panels at once, whose sums fit into the registers. Panels are read side by side: more streams of memory. */
#if defined(__AVX512F__)
#define MOST_ROWS 6
#define PANELS 4
#elif defined(__AVX__)
#define MOST_ROWS 3
#define PANELS 2
#else
#define MOST_ROWS 2
#define PANELS 2
#endif
#define MOST_SUMS (MOST_ROWS * PANELS * VECS)

typedef struct {
    const float *weight; /* (size), or NULL where there is no norm */
    float epsilon, offset;
} norm;

typedef struct {
    const element *panels;
    const float *bias; /* (out), or NULL */
    int64_t in, out;
} linear;

/* What adapters add to outputs first .. first + out of a linear layer: a (adapters, rank, in), b (adapters, rank, out). */
typedef struct {
    const float *a, *b;
    int64_t rank, first, out;
} low_rank;

typedef struct {
    const int32_t *whose; /* (rows): each one's adapter, or -1; NULL where nobody has one */
    int64_t rows;
} answers;

#ifdef BFLOAT16
typedef uint16_t elements __attribute__((vector_size(2 * LANES), aligned(2)));
typedef uint32_t bits __attribute__((vector_size(4 * LANES), aligned(4)));

static inline vector widened(const element *from) {
    return (vector)(__builtin_convertvector(*(const elements *)from, bits) << 16);
}
#else
static inline vector widened(const element *from) { return *(const vector *)from; }
#endif

/* panels = w (out, in) in panels; outputs beyond the last are zero. */
void panels(const element *w, element *to, int64_t out, int64_t in, int threads) {
#pragma omp parallel for num_threads(threads)
    for (int64_t panel = 0; panel < padded_to(out, PANEL) / PANEL; panel++)
        for (int64_t k = 0; k < in; k++)
            for (int64_t lane = 0; lane < PANEL; lane++) {
                int64_t row = panel * PANEL + lane;
                to[(panel * in + k) * PANEL + lane] = row < out ? w[row * in + k] : 0;
            }
}

static void normed(norm n, const float *x, float *y, int64_t size) {
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < size; i++) sum += x[i] * x[i];
    float by = 1.0f / sqrtf(sum / size + n.epsilon);
#pragma omp simd
    for (int64_t i = 0; i < size; i++) y[i] = x[i] * by * (n.offset + n.weight[i]);
}

/* sums (high, many, PANEL) of `high` rows with `many` panels; rows beyond the last are the last once more. */
static inline __attribute__((always_inline)) void strip(int high, int many, const float *x, int64_t x_row,
                                                        int64_t rows, int64_t in, const element *own, float *sums) {
    const float *from[MOST_ROWS];
    vector held[MOST_SUMS];
#pragma GCC unroll 24
    for (int i = 0; i < high; i++) from[i] = x + (i < rows ? i : rows - 1) * x_row;
#pragma GCC unroll 24
    for (int i = 0; i < high * many * VECS; i++) held[i] = (vector){0};
    for (int64_t k = 0; k < in; k++) {
#pragma GCC unroll 16
        for (int v = 0; v < many * VECS; v++) {
            vector weights = widened(own + (v / VECS * in + k) * PANEL + v % VECS * LANES);
#pragma GCC unroll 24
            for (int i = 0; i < high; i++) held[i * many * VECS + v] += from[i][k] * weights;
        }
    }
#pragma GCC unroll 24
    for (int i = 0; i < high * many * VECS; i++) *(vector *)(sums + i * LANES) = held[i];
}

/* Adds to y what adapters give to outputs `output` .. `last` of a row. */
static void adapted(const low_rank *some, int count, const float *low, int32_t own, int64_t output, int64_t last,
                    float *y) {
    for (int n = 0; n < count; low += some[n].rank, n++) {
        int64_t start = output > some[n].first ? output : some[n].first, stop = some[n].first + some[n].out;
        if (stop > last) stop = last;
        if (!some[n].b || start >= stop) continue;
        const float *b = some[n].b + own * some[n].rank * some[n].out - some[n].first;
        for (int64_t r = 0; r < some[n].rank; r++)
#pragma omp simd
            for (int64_t j = start; j < stop; j++) y[j - output] += low[r] * b[r * some[n].out + j];
    }
}

/* y (rows, out) = x (rows, in) wᵀ + bias, and what adapters add by low (rows, ranks); rows of x are x_row apart. In a
   parallel region. */
static void times(const float *x, int64_t x_row, linear l, float *y, answers all, const low_rank *some, int count,
                  const float *low, int64_t ranks) {
    int64_t last = padded_to(l.out, PANEL) / PANEL;
#pragma omp for schedule(static)
    for (int64_t first = 0; first < last; first += PANELS) {
        int64_t many = last - first < PANELS ? 1 : PANELS; /* the last panels are taken one after the other */
        for (int64_t panel = first; panel < first + PANELS && panel < last; panel += many)
            for (int64_t row = 0, here; row < all.rows; row += here) {
                float sums[MOST_SUMS * LANES];
                const float *from = x + row * x_row;
                const element *own = l.panels + panel * l.in * PANEL;
                here = all.rows - row < MOST_ROWS ? all.rows - row : MOST_ROWS;
#define STRIP(high) many == 1 ? strip(high, 1, from, x_row, here, l.in, own, sums) \
                              : strip(high, PANELS, from, x_row, here, l.in, own, sums)
                if (here == 1) STRIP(1);
                else if (here == 2) STRIP(2);
#if MOST_ROWS == 6
                else if (here <= 4) STRIP(4);
#endif
                else STRIP(MOST_ROWS);
#undef STRIP
                for (int64_t i = 0; i < here; i++)
                    for (int64_t n = 0; n < many; n++) {
                        int64_t output = (panel + n) * PANEL, stop = output + PANEL < l.out ? output + PANEL : l.out;
                        float *numbers = sums + (i * many + n) * PANEL;
                        if (l.bias)
                            for (int64_t j = output; j < stop; j++) numbers[j - output] += l.bias[j];
                        if (all.whose && all.whose[row + i] >= 0)
                            adapted(some, count, low + (row + i) * ranks, all.whose[row + i], output, stop, numbers);
                        memcpy(y + (row + i) * l.out + output, numbers, (stop - output) * sizeof(float));
                    }
            }
    }
}

static float dot(const float *a, const float *b, int64_t size) {
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < size; i++) sum += a[i] * b[i];
    return sum;
}

static float dot_with(const float *a, const element *b, int64_t size) {
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < size; i++) sum += a[i] * load(b[i]);
    return sum;
}

/* low (rows, ranks) = x aᵀ of each row's adapter. In a parallel region. */
static void lowered(const float *x, int64_t x_row, int64_t in, answers all, const low_rank *some, float *low,
                    int64_t ranks) {
    if (!all.whose) return;
#pragma omp for schedule(static)
    for (int64_t at = 0; at < all.rows * ranks; at++) {
        int64_t row = at / ranks, r = at % ranks;
        int n = 0;
        while (r >= some[n].rank) r -= some[n++].rank;
        if (all.whose[row] >= 0 && some[n].a)
            low[at] = dot(x + row * x_row, some[n].a + (all.whose[row] * some[n].rank + r) * in, in);
    }
}

/* x (size) turned by half its size: what rotary positions do. */
static void rotated_by(float *x, const float *cosine, const float *sine, int64_t size) {
    int64_t half = size / 2;
    for (int64_t i = 0; i < half; i++) {
        float first = x[i], second = x[i + half];
        x[i] = first * cosine[i] - second * sine[i];
        x[i + half] = second * cosine[i + half] + first * sine[i + half];
    }
}

/* What heads of queries (groups * share, size) get of so many groups of keys and values: those of the runs (from, to),
   but for the first `skipped`. Keys and values are `step` apart. */
static void attended(const float *q, const element *keys, const element *values, const int32_t *runs, int64_t count,
                     int64_t skipped, int64_t step, int64_t groups, int64_t share, int64_t size, float scale,
                     float *scores, int64_t most, float *y) {
    int64_t seen = 0, heads = groups * share;
    for (int64_t run = 0, at = 0; run < count; run++)
        for (int64_t place = runs[2 * run]; place < runs[2 * run + 1]; place++, at++) {
            if (at < skipped) continue;
            for (int64_t h = 0; h < heads; h++)
                scores[h * most + seen] = scale * dot_with(q + h * size, keys + place * step + h / share * size, size);
            seen++;
        }
    for (int64_t h = 0; h < heads; h++) {
        float *own = scores + h * most, top = own[0], sum = 0;
#pragma omp simd reduction(max : top)
        for (int64_t i = 0; i < seen; i++) top = own[i] > top ? own[i] : top;
#pragma omp simd reduction(+ : sum)
        for (int64_t i = 0; i < seen; i++) sum += own[i] = exponential(own[i] - top);
        float by = 1.0f / sum;
#pragma omp simd
        for (int64_t i = 0; i < seen; i++) own[i] *= by;
    }
    memset(y, 0, heads * size * sizeof(float));
    seen = 0;
    for (int64_t run = 0, at = 0; run < count; run++)
        for (int64_t place = runs[2 * run]; place < runs[2 * run + 1]; place++, at++) {
            if (at < skipped) continue;
            for (int64_t h = 0; h < heads; h++) {
                const element *own = values + place * step + h / share * size;
                float part = scores[h * most + seen], *to = y + h * size;
#pragma omp simd
                for (int64_t i = 0; i < size; i++) to[i] += part * load(own[i]);
            }
            seen++;
        }
}

/* y (rows, size) = what the layer makes of x (rows, size).

   cosine, sine (rows, head); norms before attention, of queries, of keys, behind attention, before the gate, behind it,
   each (size) or (head), the second, third, fourth and sixth may be NULL; weights in panels with their biases: queries,
   keys and values one below the other, the output of attention, gate and up one below the other, down. keys and values
   (tokens, groups, head) hold what was before; those of the rows are put at `places` (rows). Row r sees the runs
   first_run[r] .. first_run[r + 1] of `runs` (from, to), of them the last `window` places where that is not 0; at most
   `most`. `whose` (rows) is each one's adapter or -1, or NULL; a and b of queries, keys, values, output, gate, up and
   down follow, with their ranks. work: see _decoder_layer in kernels.py. */
void decoder_layer(const float *x, float *y, const float *cosine, const float *sine, const float *before,
                   const float *of_query, const float *of_key, const float *after, const float *before_gate,
                   const float *after_gate, const element *qkv, const float *qkv_bias, const element *out,
                   const float *out_bias, const element *gate_up, const float *gate_up_bias, const element *down,
                   const float *down_bias, element *keys, element *values, const int32_t *places, const int32_t *runs,
                   const int32_t *first_run, const int32_t *whose, const float *qa, const float *qb, const float *ka,
                   const float *kb, const float *va, const float *vb, const float *oa, const float *ob,
                   const float *ga, const float *gb, const float *ua, const float *ub, const float *da,
                   const float *db, float *work, int64_t rows, int64_t size, int64_t heads, int64_t groups,
                   int64_t head, int64_t inner, int64_t window, int64_t most, int64_t tokens, int64_t adapters,
                   int64_t count, int64_t q_rank, int64_t k_rank, int64_t v_rank, int64_t o_rank, int64_t g_rank,
                   int64_t u_rank, int64_t d_rank, int activation, float epsilon, float head_epsilon, float offset,
                   float scale, int threads) {
    /* A row's keys lie side by side for all groups: several threads share one only where there are too few rows. */
    int64_t parts = rows < threads ? groups : 1;
    int64_t share = heads / groups, queries = heads * head, ours = (heads + 2 * groups) * head;
    answers all = {whose, rows};
    linear to_qkv = {qkv, qkv_bias, size, ours}, to_out = {out, out_bias, queries, size};
    linear to_gate_up = {gate_up, gate_up_bias, size, 2 * inner}, to_down = {down, down_bias, inner, size};
    low_rank of_qkv[] = {{qa, qb, q_rank, 0, queries},
                         {ka, kb, k_rank, queries, groups * head},
                         {va, vb, v_rank, queries + groups * head, groups * head}};
    low_rank of_out = {oa, ob, o_rank, 0, size}, of_down = {da, db, d_rank, 0, size};
    low_rank of_gate_up[] = {{ga, gb, g_rank, 0, inner}, {ua, ub, u_rank, inner, inner}};
    norm first = {before, epsilon, offset}, query_norm = {of_query, head_epsilon, offset};
    norm key_norm = {of_key, head_epsilon, offset}, second = {before_gate, epsilon, offset};
    norm behind = {after, epsilon, offset}, last = {after_gate, epsilon, offset};
    float *normal = work, *qkvs = normal + rows * size, *found = qkvs + rows * ours, *added = found + rows * queries;
    float *gates = added + rows * size, *low = gates + 2 * rows * inner;
    float *scores = low + rows * (q_rank + k_rank + v_rank + o_rank + g_rank + u_rank + d_rank);
    (void)tokens, (void)adapters, (void)count;
#pragma omp parallel num_threads(threads)
    {
        float *own_scores = scores + omp_get_thread_num() * heads * most;
#pragma omp for
        for (int64_t row = 0; row < rows; row++) normed(first, x + row * size, normal + row * size, size);
        lowered(normal, size, size, all, of_qkv, low, q_rank + k_rank + v_rank);
        times(normal, size, to_qkv, qkvs, all, of_qkv, 3, low, q_rank + k_rank + v_rank);
#pragma omp for
        for (int64_t at = 0; at < rows * (heads + groups); at++) {
            int64_t row = at / (heads + groups), n = at % (heads + groups);
            float *own = qkvs + row * ours + n * head;
            norm one = n < heads ? query_norm : key_norm;
            if (one.weight) normed(one, own, own, head);
            rotated_by(own, cosine + row * head, sine + row * head, head);
            if (n >= heads) {
                int64_t to = (places[row] * groups + n - heads) * head;
                for (int64_t i = 0; i < head; i++) {
                    keys[to + i] = store(own[i]);
                    values[to + i] = store(own[groups * head + i]);
                }
            }
        }
#pragma omp for schedule(dynamic, 1)
        for (int64_t at = 0; at < rows * parts; at++) {
            int64_t row = at / parts, group = at % parts * (groups / parts), seen = 0;
            const int32_t *own = runs + 2 * first_run[row];
            int64_t of_it = first_run[row + 1] - first_run[row];
            for (int64_t run = 0; run < of_it; run++) seen += own[2 * run + 1] - own[2 * run];
            attended(qkvs + row * ours + group * share * head, keys + group * head, values + group * head, own, of_it,
                     window && seen > window ? seen - window : 0, groups * head, groups / parts, share, head, scale,
                     own_scores, most, found + row * queries + group * share * head);
        }
        lowered(found, queries, queries, all, &of_out, low, o_rank);
        times(found, queries, to_out, added, all, &of_out, 1, low, o_rank);
#pragma omp for
        for (int64_t row = 0; row < rows; row++) {
            float *own = y + row * size, *more = added + row * size;
            if (behind.weight) normed(behind, more, more, size);
            for (int64_t i = 0; i < size; i++) own[i] = x[row * size + i] + more[i];
            normed(second, own, normal + row * size, size);
        }
        lowered(normal, size, size, all, of_gate_up, low, g_rank + u_rank);
        times(normal, size, to_gate_up, gates, all, of_gate_up, 2, low, g_rank + u_rank);
#pragma omp for
        for (int64_t row = 0; row < rows; row++) {
            float *gate = gates + 2 * row * inner, *up = gate + inner;
            if (activation == SILU) {
#pragma omp simd
                for (int64_t i = 0; i < inner; i++) gate[i] = activated(gate[i], SILU) * up[i];
            } else {
#pragma omp simd
                for (int64_t i = 0; i < inner; i++) gate[i] = activated(gate[i], GELU_TANH) * up[i];
            }
        }
        lowered(gates, 2 * inner, inner, all, &of_down, low, d_rank);
        times(gates, 2 * inner, to_down, added, all, &of_down, 1, low, d_rank);
#pragma omp for
        for (int64_t row = 0; row < rows; row++) {
            float *own = y + row * size, *more = added + row * size;
            if (last.weight) normed(last, more, more, size);
            for (int64_t i = 0; i < size; i++) own[i] += more[i];
        }
    }
}
