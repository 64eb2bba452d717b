/* Attention over blocks of a packed row: each block's queries see the keys of some segments, under a mask.

   A task is a chunk of a block's tokens with all query heads that share one head of keys. Its queries go through in
   strips of at most STRIP rows, a row being one token and one head; a strip's scores over all that it sees stay in the
   second-level cache, so that the softmax is the plain one and nothing of it is kept: the way back computes it again
   from each row's log of the mass. Results depend on no number of threads. */

#include "products.h"

#define STRIP 48
#define COLUMNS 16 /* segments begin at multiples of so many columns */

/* to (rows, size / DEPTH): rows of elements as units along their size. */
static void along(const element *from, int64_t stride, int64_t rows, int64_t size, unit *to, int64_t to_row) {
    for (int64_t i = 0; i < rows; i++) {
#if DEPTH == 2
        memcpy(to + i * to_row, from + i * stride, size * sizeof(element));
#else
        for (int64_t k = 0; k < size; k++) to[i * to_row + k] = load(from[i * stride + k]);
#endif
    }
}

/* to (padded / DEPTH, size): rows of elements as units across them, zero beyond the last row. */
static void across(const element *from, int64_t stride, int64_t rows, int64_t padded, int64_t size, unit *to) {
    for (int64_t i = 0; i < padded; i += DEPTH, to += size) {
        const element *first = from + i * stride, *second = first + stride;
        if (i + DEPTH <= rows) {
#if DEPTH == 2
            for (int64_t k = 0; k < size; k++) to[k] = (unit)first[k] | (unit)second[k] << 16;
#else
            (void)second;
            for (int64_t k = 0; k < size; k++) to[k] = load(first[k]);
#endif
        } else if (i < rows) {
            for (int64_t k = 0; k < size; k++) to[k] = packed(load(first[k]), 0);
        } else {
            memset(to, 0, size * sizeof(unit));
        }
    }
}

/* to (size / DEPTH, padded): rows of elements as columns, in units along their size, zero beyond the last row. */
static void turned(const element *from, int64_t stride, int64_t rows, int64_t padded, int64_t size, unit *to) {
    for (int64_t j = 0; j < padded; j += LANES) {
        int64_t here = rows - j < 0 ? 0 : rows - j < LANES ? rows - j : LANES;
        for (int64_t k = 0; k < size / DEPTH; k++) {
            unit *row = to + k * padded + j;
            for (int64_t i = 0; i < here; i++) {
                const element *one = from + (j + i) * stride + k * DEPTH;
#if DEPTH == 2
                memcpy(row + i, one, sizeof(unit));
#else
                row[i] = load(*one);
#endif
            }
            for (int64_t i = here; i < LANES; i++) row[i] = 0;
        }
    }
}

/* A packed row as block_attention.py lays it out. Tables, row by row:
   segments: first key, the key behind the last, the column at which the segment begins, a multiple of COLUMNS;
   blocks: first query, the one behind the last, where its list in `sees` begins and how many segments that names, where
   its mask in `seen` begins, and how many keys a row of the mask has;
   tasks: block, first query, the one behind the last, the column at which its gradients of keys and values begin. */
typedef struct {
    const int64_t *segments, *blocks, *sees, *tasks;
    const uint8_t *seen;
    int64_t segment_count, task_count, columns, widest, buffered; /* columns in all, of a block at most, of all tasks */
    /* Segments from segment_count on have no columns: those of blocks of one query, which reads keys where they lie. */
    int64_t heads, groups, size, tokens, seed;
    int64_t query_head, query_token, key_head, key_token, value_head, value_token; /* strides */
    double scale, drop;
} plan;

enum { SEGMENT = 3, BLOCK = 6, TASK = 4, SEES_AT_MOST = 64 };

/* A strip: where it stands, the columns that it sees, and its buffers. */
typedef struct {
    const plan *p;
    const int64_t *block;
    int64_t group, share, first_token, first_row, rows; /* share: query heads of one head of keys; rows in the strip */
    int64_t local[SEES_AT_MOST], from[SEES_AT_MOST], to[SEES_AT_MOST];
    float *hidden;                  /* (widest) for the token at hand: 1 where it does not see */
    float *scores, *slopes;         /* (STRIP, widest) */
    unit *by_row;                   /* (STRIP, widest / DEPTH) */
    unit *shares, *changes;         /* (STRIP / DEPTH, widest): in units across rows */
    unit *queries, *above, *pairs;  /* (STRIP, size / DEPTH) twice, (STRIP / DEPTH, size) */
    float *sums;                    /* (STRIP, size) */
} strip;

static int64_t strip_floats(const plan *p) { return p->widest * (1 + 5 * STRIP) + 4 * STRIP * p->size; }

static strip at_work(const plan *p, float *work) {
    int64_t wide = STRIP * p->widest, tall = STRIP * p->size;
    strip s = {.p = p, .share = p->heads / p->groups, .scores = work, .slopes = work + wide};
    s.by_row = (unit *)(work + 2 * wide);
    s.shares = (unit *)(work + 3 * wide), s.changes = (unit *)(work + 4 * wide), work += 5 * wide;
    s.queries = (unit *)work, s.above = (unit *)(work + tall), s.pairs = (unit *)(work + 2 * tall);
    s.sums = work + 3 * tall, s.hidden = work + 4 * tall;
    return s;
}

static inline int64_t token_of(const strip *s, int64_t row) { return s->first_token + (s->first_row + row) / s->share; }
static inline int64_t head_of(const strip *s, int64_t row) { return s->group * s->share + (s->first_row + row) % s->share; }
static inline const int64_t *segment_of(const strip *s, int64_t i) {
    return s->p->segments + SEGMENT * s->p->sees[s->block[2] + i];
}
static inline int64_t keys_of(const int64_t *segment) { return segment[1] - segment[0]; }

/* Begin a task: its block, and where the columns of each segment stand in the strip's buffers. */
static void begin(strip *s, const int64_t *task, int64_t group) {
    s->block = s->p->blocks + BLOCK * task[0];
    s->group = group;
    s->first_token = task[1];
    for (int64_t i = 0, column = 0; i < s->block[3]; i++) {
        s->local[i] = column;
        column += padded_to(keys_of(segment_of(s, i)), COLUMNS);
    }
}

/* Move to the task's next strip; 0 when there is none. Its tokens' masks tell which columns it computes. */
static int next(strip *s, const int64_t *task, int64_t *row) {
    int64_t all = (task[2] - task[1]) * s->share, strips = (all + STRIP - 1) / STRIP;
    if (*row >= all) return 0;
    int64_t most = padded_to((all + strips - 1) / strips, HIGH);
    s->first_row = *row;
    s->rows = all - *row < most ? all - *row : most;
    *row += s->rows;
    for (int64_t i = 0; i < s->block[3]; i++) s->from[i] = INT64_MAX, s->to[i] = 0;
    for (int64_t token = token_of(s, 0); token <= token_of(s, s->rows - 1); token++) {
        const uint8_t *seen = s->p->seen + s->block[4] + (token - s->block[0]) * s->block[5];
        for (int64_t i = 0; i < s->block[3]; i++) {
            int64_t count = keys_of(segment_of(s, i)), low = 0, high = count;
            while (low < count && !seen[low]) low++;
            while (high > low && !seen[high - 1]) high--;
            if (high > low && low / LANES * LANES < s->from[i]) s->from[i] = low / LANES * LANES;
            if (high > low && padded_to(high, LANES) > s->to[i]) s->to[i] = padded_to(high, LANES);
            seen += count;
        }
    }
    for (int64_t i = 0; i < s->block[3]; i++)
        if (s->to[i] == 0) s->from[i] = 0;
    return 1;
}

static void see(const strip *s, int64_t token) {
    const uint8_t *seen = s->p->seen + s->block[4] + (token - s->block[0]) * s->block[5];
    for (int64_t i = 0; i < s->block[3]; i++) {
        int64_t count = keys_of(segment_of(s, i)), stop = s->to[i] < count ? s->to[i] : count;
        float *hidden = s->hidden + s->local[i];
        for (int64_t j = s->from[i]; j < stop; j++) hidden[j] = seen[j] ? 0.0f : 1.0f;
        for (int64_t j = stop; j < s->to[i]; j++) hidden[j] = 1.0f;
        seen += count;
    }
}

/* Copy a strip's rows out of a tensor (head, token, size). */
static void taken(const strip *s, const element *from, int64_t by_head, int64_t by_token, unit *to) {
    for (int64_t row = 0; row < s->rows; row++)
        along(from + head_of(s, row) * by_head + token_of(s, row) * by_token, 0, 1, s->p->size,
              to + row * (s->p->size / DEPTH), 0);
}

/* Products of a strip's rows with the columns that it sees: keys or values, turned. */
static void against(const strip *s, const unit *rows, const unit *columns, float *into) {
    int64_t deep = s->p->size / DEPTH;
    for (int64_t i = 0; i < s->block[3]; i++) {
        const int64_t *segment = segment_of(s, i);
        int64_t wide = padded_to(keys_of(segment), COLUMNS);
        const unit *panel = columns + (s->group * s->p->columns + segment[2]) * deep + s->from[i];
        product(s->rows, s->to[i] - s->from[i], deep, rows, deep, 1, panel, wide, into + s->local[i] + s->from[i],
                s->p->widest, 0);
    }
}

/* sums = the strip's shares of each column (by_row), times keys or values in units across. */
static void gathered(const strip *s, const unit *rows) {
    int64_t size = s->p->size, add = 0;
    for (int64_t i = 0; i < s->block[3]; i++) {
        if (s->to[i] == s->from[i]) continue;
        const unit *panel = rows + (s->group * s->p->columns + segment_of(s, i)[2] + s->from[i]) / DEPTH * size;
        product(s->rows, size, (s->to[i] - s->from[i]) / DEPTH, s->by_row + (s->local[i] + s->from[i]) / DEPTH,
                s->p->widest / DEPTH, 1, panel, size, s->sums, size, (int)add);
        add = 1;
    }
}

/* What the strip's rows give to each column: units across rows (STRIP / DEPTH, widest), times `pairs`, added. */
static void spread(const strip *s, const unit *across_rows, float *into) {
    int64_t size = s->p->size;
    for (int64_t i = 0; i < s->block[3]; i++) {
        int64_t start = s->local[i] + s->from[i];
        product(s->to[i] - s->from[i], size, (s->rows + DEPTH - 1) / DEPTH, across_rows + start, 1, s->p->widest,
                s->pairs, size, into + start * size, size, 1);
    }
}

static void put(const strip *s, element *to) { /* (tokens, heads, size) */
    int64_t size = s->p->size;
    for (int64_t row = 0; row < s->rows; row++) {
        element *own = to + (token_of(s, row) * s->p->heads + head_of(s, row)) * size;
#pragma omp simd
        for (int64_t k = 0; k < size; k++) own[k] = store(s->sums[row * size + k]);
    }
}

/* The strip's rows of a tensor as units across them, zero beyond the last. */
static void paired(const strip *s, const unit *rows) {
#if DEPTH == 2
    int64_t size = s->p->size;
    across((const element *)rows, size, s->rows, padded_to(s->rows, DEPTH), size, s->pairs);
#else
    memcpy(s->pairs, rows, s->rows * s->p->size * sizeof(unit));
#endif
}

/* A row of floats as units along it. */
static inline void stored(const float *from, unit *to, int64_t start, int64_t stop) {
#if DEPTH == 2
    element *own = (element *)to;
#pragma omp simd
    for (int64_t j = start; j < stop; j++) own[j] = store(from[j]);
#else
    memcpy(to + start, from + start, (stop - start) * sizeof(float));
#endif
}

/* Rows (rows, widest) of floats as units across them, zero beyond the last. */
static void stored_across(const strip *s, const float *from, unit *to) {
    int64_t wide = s->p->widest;
    for (int64_t i = 0; i < s->block[3]; i++) {
        int64_t start = s->local[i] + s->from[i], stop = s->local[i] + s->to[i];
        for (int64_t row = 0; row < s->rows; row += DEPTH) {
            const float *first = from + row * wide, *second = first + wide;
            unit *own = to + row / DEPTH * wide;
            if (row + DEPTH <= s->rows) {
#pragma omp simd
                for (int64_t j = start; j < stop; j++) own[j] = packed(first[j], second[j]);
            } else {
#pragma omp simd
                for (int64_t j = start; j < stop; j++) own[j] = packed(first[j], 0);
            }
        }
    }
}

/* Multiply a row's columns of a segment by what dropout multiplies them by. */
static void dropped(const strip *s, int64_t row, int64_t i, float *values) {
    uint32_t own = row_seed(s->p->seed, head_of(s, row) * s->p->tokens + token_of(s, row));
    uint32_t first = (uint32_t)segment_of(s, i)[0], below = limit_of(s->p->drop);
    float kept = (float)(1.0 / (1.0 - s->p->drop));
#pragma omp simd
    for (int64_t j = s->from[i]; j < s->to[i]; j++) values[j] *= drawn(own, first + (uint32_t)j) < below ? 0.0f : kept;
}

/* Softmax of the strip's scores into by_row; mass (heads, tokens) keeps each row's log of the sum. */
static void softmax(const strip *s, float *mass) {
    float scale = (float)s->p->scale;
    for (int64_t row = 0; row < s->rows; row++) {
        float *own = s->scores + row * s->p->widest, top = -INFINITY, sum = 0;
        int64_t token = token_of(s, row);
        if (row == 0 || token != token_of(s, row - 1)) see(s, token);
        for (int64_t i = 0; i < s->block[3]; i++) {
            float *here = own + s->local[i];
            const float *hidden = s->hidden + s->local[i];
#pragma omp simd reduction(max : top)
            for (int64_t j = s->from[i]; j < s->to[i]; j++) {
                here[j] = hidden[j] != 0.0f ? -INFINITY : here[j] * scale;
                top = here[j] > top ? here[j] : top;
            }
        }
        for (int64_t i = 0; i < s->block[3]; i++) {
            float *here = own + s->local[i];
            const float *hidden = s->hidden + s->local[i];
#pragma omp simd reduction(+ : sum)
            for (int64_t j = s->from[i]; j < s->to[i]; j++) {
                float share = exponential(here[j] - top);
                here[j] = hidden[j] != 0.0f ? 0.0f : share;
                sum += here[j];
            }
        }
        mass[head_of(s, row) * s->p->tokens + token] = top + logf(sum);
        float inverse = 1.0f / sum;
        for (int64_t i = 0; i < s->block[3]; i++) {
            float *here = own + s->local[i];
#pragma omp simd
            for (int64_t j = s->from[i]; j < s->to[i]; j++) here[j] *= inverse;
            if (s->p->drop > 0) dropped(s, row, i, here);
            stored(here, s->by_row + (row * s->p->widest + s->local[i]) / DEPTH, s->from[i], s->to[i]);
        }
    }
}

/* From scores and the gradient of the shares (in slopes): the shares, and the gradient of the scores. */
static void softmax_backward(const strip *s, const element *above, const element *found, const float *mass) {
    const plan *p = s->p;
    float scale = (float)p->scale;
    for (int64_t row = 0; row < s->rows; row++) {
        int64_t token = token_of(s, row), head = head_of(s, row), place = (token * p->heads + head) * p->size;
        float *own = s->scores + row * p->widest, *slopes = s->slopes + row * p->widest, along_found = 0;
        float log_mass = mass[head * p->tokens + token];
        if (row == 0 || token != token_of(s, row - 1)) see(s, token);
#pragma omp simd reduction(+ : along_found)
        for (int64_t k = 0; k < p->size; k++) along_found += load(above[place + k]) * load(found[place + k]);
        for (int64_t i = 0; i < s->block[3]; i++) {
            float *here = own + s->local[i], *slope = slopes + s->local[i];
            const float *hidden = s->hidden + s->local[i];
            if (p->drop > 0) dropped(s, row, i, slope);
#pragma omp simd
            for (int64_t j = s->from[i]; j < s->to[i]; j++) {
                float share = exponential(here[j] * scale - log_mass);
                share = hidden[j] != 0.0f ? 0.0f : share;
                here[j] = share;
                slope[j] = share == 0.0f ? 0.0f : share * (slope[j] - along_found) * scale;
            }
            if (p->drop > 0) dropped(s, row, i, here);
            stored(slope, s->by_row + (row * p->widest + s->local[i]) / DEPTH, s->from[i], s->to[i]);
        }
    }
}

static inline int lies(const plan *p, const int64_t *task) {
    return p->sees[p->blocks[BLOCK * task[0] + 2]] >= p->segment_count;
}

/* Scores of one query's heads with one key, from column `at` on. */
static inline void score(const strip *s, const element *query, const element *key, int64_t at) {
    const plan *p = s->p;
    for (int64_t head = 0; head < s->share; head++) {
        const element *own = query + head * p->query_head;
        float sum = 0;
#pragma omp simd reduction(+ : sum)
        for (int64_t k = 0; k < p->size; k++) sum += load(own[k]) * load(key[k]);
        s->scores[head * p->widest + at] = sum * (float)p->scale;
    }
}

/* The shares of one query's heads of `count` scores, not yet divided by their sums, which are returned in slopes. */
static void shared(const strip *s, int64_t count, int64_t token, float *mass) {
    for (int64_t head = 0; head < s->share; head++) {
        float *own = s->scores + head * s->p->widest, top = -INFINITY, sum = 0;
#pragma omp simd reduction(max : top)
        for (int64_t j = 0; j < count; j++) top = own[j] > top ? own[j] : top;
#pragma omp simd reduction(+ : sum)
        for (int64_t j = 0; j < count; j++) {
            own[j] = exponential(own[j] - top);
            sum += own[j];
        }
        mass[(s->group * s->share + head) * s->p->tokens + token] = top + logf(sum);
        s->slopes[head] = sum;
    }
}

/* A task of one query, whose keys and values are read once and where they lie: to turn them takes longer than to attend. */
static void at_once(strip *s, const int64_t *task, int64_t group, const element *query, const element *key,
                    const element *value, element *found, float *mass) {
    const plan *p = s->p;
    int64_t size = p->size, token = task[1], count = 0;
    s->block = p->blocks + BLOCK * task[0], s->group = group;
    query += group * s->share * p->query_head + token * p->query_token;
    key += group * p->key_head, value += group * p->value_head;
    const uint8_t *seen = p->seen + s->block[4];
    for (int64_t i = 0; i < s->block[3]; i++) {
        const int64_t *segment = segment_of(s, i);
        for (int64_t j = segment[0]; j < segment[1]; j++)
            if (*seen++) score(s, query, key + j * p->key_token, count++);
    }
    shared(s, count, token, mass);
    memset(s->sums, 0, s->share * size * sizeof(float));
    seen = p->seen + s->block[4], count = 0;
    for (int64_t i = 0; i < s->block[3]; i++) {
        const int64_t *segment = segment_of(s, i);
        for (int64_t j = segment[0]; j < segment[1]; j++) {
            if (!*seen++) continue;
            const element *from = value + j * p->value_token;
            for (int64_t head = 0; head < s->share; head++) {
                float share = s->scores[head * p->widest + count], *sums = s->sums + head * size;
#pragma omp simd
                for (int64_t k = 0; k < size; k++) sums[k] += share * load(from[k]);
            }
            count++;
        }
    }
    for (int64_t head = 0; head < s->share; head++) {
        element *to = found + (token * p->heads + group * s->share + head) * size;
        for (int64_t k = 0; k < size; k++) to[k] = store(s->sums[head * size + k] / s->slopes[head]);
    }
}

/* Floats of work space that a call takes. */
int64_t attention_space(const plan *p, int back, int threads) {
    int64_t packed_floats = p->groups * p->columns * p->size, buffers = p->groups * p->buffered * p->size;
    return (back ? 3 : 2) * packed_floats + (back ? 2 * buffers : 0) + threads * strip_floats(p);
}

/* found (tokens, heads, size) and mass (heads, tokens). */
void attention(const plan *p, const element *query, const element *key, const element *value, element *found,
               float *mass, float *work, int threads) {
    int64_t panel = p->groups * p->columns * p->size;
    unit *keys = (unit *)work, *values = (unit *)(work + panel);
    work += 2 * panel;
#pragma omp parallel num_threads(threads)
    {
        strip s = at_work(p, work + omp_get_thread_num() * strip_floats(p));
#pragma omp for schedule(dynamic, 1)
        for (int64_t one = 0; one < p->segment_count * p->groups; one++) {
            const int64_t *segment = p->segments + SEGMENT * (one / p->groups), group = one % p->groups;
            int64_t count = keys_of(segment), padded = padded_to(count, COLUMNS);
            int64_t place = (group * p->columns + segment[2]) * p->size / DEPTH;
            turned(key + group * p->key_head + segment[0] * p->key_token, p->key_token, count, padded, p->size,
                   keys + place);
            across(value + group * p->value_head + segment[0] * p->value_token, p->value_token, count, padded, p->size,
                   values + place);
        }
#pragma omp for schedule(dynamic, 1)
        for (int64_t one = 0; one < p->task_count * p->groups; one++) {
            const int64_t *task = p->tasks + TASK * (one / p->groups);
            if (lies(p, task)) {
                at_once(&s, task, one % p->groups, query, key, value, found, mass);
                continue;
            }
            begin(&s, task, one % p->groups);
            for (int64_t row = 0; next(&s, task, &row);) {
                taken(&s, query, p->query_head, p->query_token, s.queries);
                against(&s, s.queries, keys, s.scores);
                softmax(&s, mass);
                gathered(&s, values);
                put(&s, found);
            }
        }
    }
}

/* above and found (tokens, heads, size) -> dquery, the same, and dkey and dvalue (keys, groups, size). Every task adds
   up what it gives to its keys and values in columns of its own; these are then summed in the order of tasks. */
void attention_backward(const plan *p, const element *query, const element *key, const element *value,
                        const element *found, const element *above, const float *mass, element *dquery, element *dkey,
                        element *dvalue, float *work, int threads) {
    int64_t panel = p->groups * p->columns * p->size, buffer = p->groups * p->buffered * p->size;
    unit *keys = (unit *)work, *values = (unit *)(work + panel), *key_rows = (unit *)(work + 2 * panel);
    float *dkeys = work + 3 * panel, *dvalues = dkeys + buffer;
    work = dvalues + buffer;
#pragma omp parallel num_threads(threads)
    {
        strip s = at_work(p, work + omp_get_thread_num() * strip_floats(p));
#pragma omp for schedule(dynamic, 1)
        for (int64_t one = 0; one < p->segment_count * p->groups; one++) {
            const int64_t *segment = p->segments + SEGMENT * (one / p->groups), group = one % p->groups;
            const element *own = key + group * p->key_head + segment[0] * p->key_token;
            int64_t count = keys_of(segment), padded = padded_to(count, COLUMNS);
            int64_t place = (group * p->columns + segment[2]) * p->size / DEPTH;
            turned(own, p->key_token, count, padded, p->size, keys + place);
            across(own, p->key_token, count, padded, p->size, key_rows + place);
            turned(value + group * p->value_head + segment[0] * p->value_token, p->value_token, count, padded, p->size,
                   values + place);
        }
#pragma omp for schedule(dynamic, 1)
        for (int64_t one = 0; one < p->task_count * p->groups; one++) {
            const int64_t *task = p->tasks + TASK * (one / p->groups), group = one % p->groups;
            int64_t place = (group * p->buffered + task[3]) * p->size, last;
            begin(&s, task, group);
            last = s.block[3] - 1;
            int64_t floats = (s.local[last] + padded_to(keys_of(segment_of(&s, last)), COLUMNS)) * p->size;
            memset(dkeys + place, 0, floats * sizeof(float));
            memset(dvalues + place, 0, floats * sizeof(float));
            for (int64_t row = 0; next(&s, task, &row);) {
                taken(&s, query, p->query_head, p->query_token, s.queries);
                taken(&s, above, p->size, p->heads * p->size, s.above);
                against(&s, s.queries, keys, s.scores);
                against(&s, s.above, values, s.slopes);
                softmax_backward(&s, above, found, mass);
                stored_across(&s, s.scores, s.shares);
                stored_across(&s, s.slopes, s.changes);
                paired(&s, s.above);
                spread(&s, s.shares, dvalues + place);
                paired(&s, s.queries);
                spread(&s, s.changes, dkeys + place);
                gathered(&s, key_rows);
                put(&s, dquery);
            }
        }
#pragma omp for schedule(dynamic, 1)
        for (int64_t one = 0; one < p->segment_count * p->groups; one++) {
            int64_t number = one / p->groups, group = one % p->groups, row = p->groups * p->size;
            const int64_t *segment = p->segments + SEGMENT * number;
            int64_t count = keys_of(segment), floats = count * p->size;
            float *sums[2] = {0, 0};
            for (int64_t t = 0; t < p->task_count; t++) {
                const int64_t *task = p->tasks + TASK * t, *block = p->blocks + BLOCK * task[0];
                int64_t column = (group * p->buffered + task[3]);
                for (int64_t i = 0; i < block[3]; i++) {
                    int64_t seen = p->sees[block[2] + i];
                    float *own[2] = {dkeys + column * p->size, dvalues + column * p->size};
                    column += padded_to(keys_of(p->segments + SEGMENT * seen), COLUMNS);
                    if (seen != number) continue;
                    for (int which = 0; which < 2; which++) {
                        if (!sums[which]) {
                            sums[which] = own[which];
                            continue;
                        }
#pragma omp simd
                        for (int64_t k = 0; k < floats; k++) sums[which][k] += own[which][k];
                    }
                }
            }
            for (int64_t j = 0; j < count; j++) {
                element *to[2] = {dkey + (segment[0] + j) * row + group * p->size,
                                  dvalue + (segment[0] + j) * row + group * p->size};
                for (int which = 0; which < 2; which++)
#pragma omp simd
                    for (int64_t k = 0; k < p->size; k++)
                        to[which][k] = sums[which] ? store(sums[which][j * p->size + k]) : store(0.0f);
            }
        }
    }
}
