/* What the kernels share: an element as it is stored, exp, and random numbers. Compiled for float, and for bfloat16 with
   -DBFLOAT16. */

#include <math.h>
#include <stdint.h>
#include <string.h>

#ifdef BFLOAT16
typedef uint16_t element;

static inline float load(element x) {
    uint32_t bits = (uint32_t)x << 16;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static inline element store(float x) { /* to the nearest, ties to even */
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    uint32_t rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16;
    return (bits & 0x7FFFFFFF) > 0x7F800000 ? 0x7FC0 : (element)rounded;
}
#else
typedef float element;

static inline float load(element x) { return x; }
static inline element store(float x) { return x; }
#endif

/* exp(x) to 2 units in the last place: x = n log 2 + r, a polynomial in r (coefficients of Cephes' expf), times 2^n. */
static inline float exponential(float x) {
    x = x < -87.0f ? -87.0f : x;
    x = x > 88.0f ? 88.0f : x;
    float n = rintf(x * 1.44269504f);
    float r = x - n * 0.693359375f + n * 2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    uint32_t bits = (uint32_t)((int32_t)n + 127) << 23; /* of no number any, since p is none then */
    float power;
    memcpy(&power, &bits, sizeof power);
    return p * power;
}

static inline float hyperbolic_tangent(float x) { return 1.0f - 2.0f / (exponential(2.0f * x) + 1.0f); }

enum activation { SILU, GELU_TANH };

#define GELU_INNER(x) (0.7978845608f * ((x) + 0.044715f * (x) * (x) * (x)))

static inline float activated(float x, enum activation kind) {
    return kind == SILU ? x / (1.0f + exponential(-x)) : 0.5f * x * (1.0f + hyperbolic_tangent(GELU_INNER(x)));
}

/* A random number for each (seed, row, column): a counter through murmur3's finaliser. */
static inline uint32_t mixed(uint32_t x) {
    x = (x ^ x >> 16) * 0x85ebca6bu;
    x = (x ^ x >> 13) * 0xc2b2ae35u;
    return x ^ x >> 16;
}

static inline uint32_t row_seed(int64_t seed, int64_t row) {
    return mixed((uint32_t)seed ^ mixed((uint32_t)row)) + mixed((uint32_t)(seed >> 32) + (uint32_t)(row >> 32));
}

static inline uint32_t drawn(uint32_t row, uint32_t column) { return mixed(row + 0x9e3779b9u * column); }

/* Numbers below this are drawn with probability p < 1. */
static inline uint32_t limit_of(double p) { return (uint32_t)(p * 4294967296.0); }
