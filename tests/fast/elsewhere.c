/* Calls the kernels as a file of recorded calls says, and compares what they leave with what was recorded.

   The file is written by elsewhere.py, which also writes calls.h: a function for each kernel that hands its arguments
   over, in the order of `names`. All numbers are 64 bits wide; both machines are little-endian. */

#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "calls.h"

enum { REGIONS = 64, FLOATS = 0, BFLOAT16S = 1 };

static int64_t whole(FILE *file) {
    int64_t value;
    if (fread(&value, sizeof value, 1, file) != 1) exit(3);
    return value;
}

static char *bytes(FILE *file, int64_t count) {
    char *found = aligned_alloc(64, (size_t)(count + 64) / 64 * 64);
    if (!found || (count && fread(found, (size_t)count, 1, file) != 1)) exit(3);
    return found;
}

static double number(const char *from, int64_t kind, int64_t i) {
    uint32_t bits;
    float value;
    if (kind == FLOATS) memcpy(&bits, from + 4 * i, 4);
    else {
        uint16_t half;
        memcpy(&half, from + 2 * i, 2);
        bits = (uint32_t)half << 16;
    }
    memcpy(&value, &bits, 4);
    return value;
}

/* The largest difference, infinite where one side alone has a number; `largest` becomes the largest value so far. */
static double apart(const char *found, const char *wanted, int64_t kind, int64_t count, double *largest) {
    double most = 0;
    for (int64_t i = 0; i < count; i++) {
        double a = number(found, kind, i), b = number(wanted, kind, i);
        if (a == b || (isnan(a) && isnan(b))) {
            if (isfinite(b) && fabs(b) > *largest) *largest = fabs(b);
            continue;
        }
        if (!isfinite(a) || !isfinite(b)) return INFINITY;
        if (fabs(b) > *largest) *largest = fabs(b);
        if (fabs(a - b) > most) most = fabs(a - b);
    }
    return most;
}

int main(int argc, char **argv) {
    if (argc != 3) return 3;
    FILE *file = fopen(argv[1], "rb");
    double allowed = atof(argv[2]), worst[KERNELS] = {0};
    int64_t calls[KERNELS] = {0}, wrong[KERNELS] = {0};
    if (!file) return 3;
    for (int64_t left = whole(file); left > 0; left--) {
        int64_t which = whole(file), region_count = whole(file), pointer_count = whole(file), bad = 0;
        char *regions[REGIONS];
        void *pointers[REGIONS];
        int64_t integers[REGIONS];
        double reals[REGIONS];
        if (which < 0 || which >= KERNELS || region_count > REGIONS || pointer_count > REGIONS) return 3;
        for (int64_t i = 0; i < region_count; i++) regions[i] = bytes(file, whole(file));
        for (int64_t i = 0; i < pointer_count; i++) {
            int64_t region = whole(file), offset = whole(file);
            pointers[i] = region < 0 ? NULL : regions[region] + offset;
        }
        for (int64_t i = 0, count = whole(file); i < count; i++) {
            integers[i] = whole(file);
            if (fread(&reals[i], sizeof(double), 1, file) != 1) return 3;
        }
        for (int64_t count = whole(file); count > 0; count--) { /* addresses within regions: the plan's tables */
            int64_t region = whole(file), offset = whole(file), target = whole(file);
            memcpy(regions[region] + offset, &regions[target], sizeof(char *));
        }
        functions[which](pointers, integers, reals);
        calls[which]++;
        double most = 0, largest = 1e-30; /* of all that the call leaves: a gradient may be zero but for rounding */
        for (int64_t count = whole(file); count > 0; count--) {
            int64_t pointer = whole(file), kind = whole(file), elements = whole(file), size = whole(file);
            char *wanted = bytes(file, size);
            if (kind <= BFLOAT16S) {
                double found = apart(pointers[pointer], wanted, kind, elements, &largest);
                if (found > most) most = found;
            } else {
                bad |= memcmp(pointers[pointer], wanted, (size_t)size) != 0;
            }
            free(wanted);
        }
        if (most / largest > worst[which]) worst[which] = most / largest;
        wrong[which] += bad || most / largest > allowed;
        for (int64_t i = 0; i < region_count; i++) free(regions[i]);
    }
    int64_t all = 0;
    for (int i = 0; i < KERNELS; i++) {
        printf("    %-20s %4lld calls, %lld wrong, largest difference %.1e of the largest value\n", names[i],
               (long long)calls[i], (long long)wrong[i], worst[i]);
        all += wrong[i];
    }
    return all ? 1 : 0;
}
