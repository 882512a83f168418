/* Attention of few query tokens on a paged KV cache, for one CPU core near memory speed.
 *
 * In vectors of the compiler (GCC or clang), so that one source serves AVX-512, AVX2 and NEON; head.h
 * is compiled for float and for bfloat16, whose arithmetic is float too. Head dimensions are
 * multiples of 64. Flags: see FLAGS in native_backend.py.
 */
#include <stdint.h>
#include <string.h>

#define BLOCK 32       /* slots at a time: their K or V in float32 stay in the first cache */
#define MOST_ROWS 64   /* query tokens x group of one KV head */

/* A score that is masked, and the largest score before the first: 2^(HIDDEN - NOTHING) is 0. */
#define HIDDEN -1e30f
#define NOTHING -1e20f

typedef struct {
    int32_t batch, tokens, kv_heads, group, dim, page_size, first, sinks, window, words;
    int64_t kv_page, kv_slot, kv_head, table_batch;
    float scale; /* log2(e) / sqrt(dim) */
} Shape;

typedef float vec __attribute__((vector_size(64), may_alias));
typedef int32_t lanes __attribute__((vector_size(64)));
typedef uint16_t halves __attribute__((vector_size(32), may_alias, aligned(2)));
typedef float unaligned __attribute__((vector_size(64), may_alias, aligned(4)));
#define WIDE 16

#ifdef __clang__
#define SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define SHUFFLE(a, b, ...) __builtin_shuffle(a, b, (lanes){__VA_ARGS__})
#endif

static inline vec load_bf16(const uint16_t *x) {
    return (vec)(__builtin_convertvector(*(const halves *)x, lanes) << 16);
}

static inline vec load_float(const float *x) { return *(const unaligned *)x; }

static inline void store_bf16(uint16_t *to, vec x) { /* to nearest, ties to even */
    lanes bits = (lanes)x;
    bits = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16;
    *(halves *)to = __builtin_convertvector(bits, halves);
}

static inline void store_float(float *to, vec x) { *(unaligned *)to = x; }

static inline vec larger(vec x, vec y) {
    lanes mask = x > y;
    return (vec)(((lanes)x & mask) | ((lanes)y & ~mask));
}

/* 2^x for x <= 0, relative error 3e-7 */
static inline vec power2(vec x) {
    x = larger(x, (vec){0} - 126.0f);
    lanes whole = __builtin_convertvector(x - 0.5f, lanes);
    vec f = (x - __builtin_convertvector(whole, vec)) * 0.69314718056f;
    vec p = 1.0f + f * (1.0f + f * (0.5f + f * (0.16666667f + f * (0.041666668f
          + f * (0.0083333338f + f * (0.0013888889f + f * 0.0001984127f))))));
    return p * (vec)((whole + 127) << 23);
}

static inline float sum_of(vec x) {
    float sum = 0;
    for (int i = 0; i < WIDE; i++) sum += x[i];
    return sum;
}

static inline float largest_of(vec x) {
    float top = x[0];
    for (int i = 1; i < WIDE; i++) top = x[i] > top ? x[i] : top;
    return top;
}

/* Lane i of the result is the sum of the lanes of v[i]. */
static inline vec sums(const vec v[WIDE]) {
    vec a[8], b[4], c[2];
    for (int i = 0; i < 8; i++)
        a[i] = SHUFFLE(v[2 * i], v[2 * i + 1], 0, 16, 2, 18, 4, 20, 6, 22, 8, 24, 10, 26, 12, 28, 14, 30)
             + SHUFFLE(v[2 * i], v[2 * i + 1], 1, 17, 3, 19, 5, 21, 7, 23, 9, 25, 11, 27, 13, 29, 15, 31);
    for (int i = 0; i < 4; i++)
        b[i] = SHUFFLE(a[2 * i], a[2 * i + 1], 0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29)
             + SHUFFLE(a[2 * i], a[2 * i + 1], 2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31);
    for (int i = 0; i < 2; i++)
        c[i] = SHUFFLE(b[2 * i], b[2 * i + 1], 0, 1, 2, 3, 16, 17, 18, 19, 8, 9, 10, 11, 24, 25, 26, 27)
             + SHUFFLE(b[2 * i], b[2 * i + 1], 4, 5, 6, 7, 20, 21, 22, 23, 12, 13, 14, 15, 28, 29, 30, 31);
    return SHUFFLE(c[0], c[1], 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23)
         + SHUFFLE(c[0], c[1], 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31);
}

/* score[0..rows)[0..BLOCK) = q . part, four rows by four slots at a time, or one by sixteen */
static inline __attribute__((always_inline)) void scores(
    int rows, float *q, float *part, float *score, const int DIM)
{
    int r = 0;
    for (; r + 4 <= rows; r += 4)
        for (int j = 0; j < BLOCK; j += 4) {
            vec dot[WIDE] = {0};
            for (int d = 0; d < DIM; d += WIDE) {
                vec k[4];
#pragma GCC unroll 4
                for (int i = 0; i < 4; i++) k[i] = *(vec *)(part + (j + i) * DIM + d);
#pragma GCC unroll 4
                for (int i = 0; i < 4; i++) {
                    vec x = *(vec *)(q + (r + i) * DIM + d);
#pragma GCC unroll 4
                    for (int l = 0; l < 4; l++) dot[4 * i + l] += x * k[l];
                }
            }
            vec all = sums(dot);
            for (int i = 0; i < 4; i++)
                for (int l = 0; l < 4; l++) score[(r + i) * BLOCK + j + l] = all[4 * i + l];
        }
    for (; r < rows; r++)
        for (int j = 0; j < BLOCK; j += WIDE) {
            vec dot[WIDE] = {0};
            for (int d = 0; d < DIM; d += WIDE) {
                vec x = *(vec *)(q + r * DIM + d);
#pragma GCC unroll 16
                for (int i = 0; i < WIDE; i++) dot[i] += x * *(vec *)(part + (j + i) * DIM + d);
            }
            *(vec *)(score + r * BLOCK + j) = sums(dot);
        }
}

/* acc[0..rows) += score . part, four rows by four vectors at a time, or one by four */
static inline __attribute__((always_inline)) void weigh(
    int rows, int n, float *score, float *part, float *acc, const int DIM)
{
    for (int d = 0; d < DIM; d += 4 * WIDE) {
        int r = 0;
        for (; r + 4 <= rows; r += 4) {
            vec sum[16];
#pragma GCC unroll 16
            for (int i = 0; i < 16; i++) sum[i] = *(vec *)(acc + (r + i / 4) * DIM + d + i % 4 * WIDE);
            for (int j = 0; j < n; j++) {
                vec v[4];
#pragma GCC unroll 4
                for (int l = 0; l < 4; l++) v[l] = *(vec *)(part + j * DIM + d + l * WIDE);
#pragma GCC unroll 4
                for (int i = 0; i < 4; i++) {
                    float w = score[(r + i) * BLOCK + j];
#pragma GCC unroll 4
                    for (int l = 0; l < 4; l++) sum[4 * i + l] += w * v[l];
                }
            }
#pragma GCC unroll 16
            for (int i = 0; i < 16; i++) *(vec *)(acc + (r + i / 4) * DIM + d + i % 4 * WIDE) = sum[i];
        }
        for (; r < rows; r++) {
            vec sum[4];
#pragma GCC unroll 4
            for (int l = 0; l < 4; l++) sum[l] = *(vec *)(acc + r * DIM + d + l * WIDE);
            for (int j = 0; j < n; j++)
#pragma GCC unroll 4
                for (int l = 0; l < 4; l++)
                    sum[l] += score[r * BLOCK + j] * *(vec *)(part + j * DIM + d + l * WIDE);
#pragma GCC unroll 4
            for (int l = 0; l < 4; l++) *(vec *)(acc + r * DIM + d + l * WIDE) = sum[l];
        }
    }
}

static int visible(const Shape *s, const int64_t *tree, int64_t length, int t, int64_t slot) {
    int64_t own = s->words ? length : length + s->first + t;
    if (s->words && slot >= length) {
        int64_t node = slot - length;
        return node < 64 * s->words && (tree[(int64_t)t * s->words + node / 64] >> (node % 64) & 1);
    }
    if (slot > own) return 0;
    return s->window == 0 || slot < s->sinks || slot > own - s->window;
}

#define ELEMENT float
#define LOAD load_float
#define STORE store_float
#define NAME(x) x##_float
#define BY_PAIRS 0
#include "head.h"
#undef ELEMENT
#undef LOAD
#undef STORE
#undef NAME
#undef BY_PAIRS

#define ELEMENT uint16_t
#define LOAD load_bf16
#define STORE store_bf16
#define NAME(x) x##_bf16
#ifdef __AVX512BF16__
#include "pairs.h"
#define BY_PAIRS 1
#else
#define BY_PAIRS 0
#endif
#include "head.h"
