/* bfloat16 by pairs: AVX-512's dot product of two bfloat16 into float, twice the rate of float. */
#include <immintrin.h>

typedef float quarter __attribute__((vector_size(16), may_alias));
#define PAIRS_AT(p) ((__m512bh)_mm512_loadu_si512(p))

/* score[0..rows)[0..BLOCK) = scale * q . k; rows of k are `step` apart */
static inline __attribute__((always_inline)) void scores_of_pairs(
    int rows, const uint16_t *q, const uint16_t *k, int64_t step, float scale, float *score,
    const int DIM)
{
    int r = 0;
    for (; r + 4 <= rows; r += 4)
        for (int j = 0; j < BLOCK; j += 4) {
            __m512 dot[WIDE];
            for (int i = 0; i < WIDE; i++) dot[i] = _mm512_setzero_ps();
            for (int d = 0; d < DIM; d += 2 * WIDE) {
                __m512bh key[4];
#pragma GCC unroll 4
                for (int i = 0; i < 4; i++) {
                    key[i] = PAIRS_AT(k + (j + i) * step + d);
                    __builtin_prefetch(k + (j + i + BLOCK) * step + d);
                }
#pragma GCC unroll 4
                for (int i = 0; i < 4; i++) {
                    __m512bh x = PAIRS_AT(q + (r + i) * DIM + d);
#pragma GCC unroll 4
                    for (int l = 0; l < 4; l++)
                        dot[4 * i + l] = _mm512_dpbf16_ps(dot[4 * i + l], x, key[l]);
                }
            }
            vec all = sums((vec *)dot) * scale;
            for (int i = 0; i < 4; i++)
                *(quarter *)(score + (r + i) * BLOCK + j) = *((quarter *)&all + i);
        }
    for (; r < rows; r++)
        for (int j = 0; j < BLOCK; j += WIDE) {
            __m512 dot[WIDE];
            for (int i = 0; i < WIDE; i++) dot[i] = _mm512_setzero_ps();
            for (int d = 0; d < DIM; d += 2 * WIDE) {
                __m512bh x = PAIRS_AT(q + r * DIM + d);
#pragma GCC unroll 16
                for (int i = 0; i < WIDE; i++) {
                    dot[i] = _mm512_dpbf16_ps(dot[i], x, PAIRS_AT(k + (j + i) * step + d));
                    __builtin_prefetch(k + (j + i + BLOCK) * step + d);
                }
            }
            *(vec *)(score + r * BLOCK + j) = sums((vec *)dot) * scale;
        }
}

/* Rows r..r+MANY of acc += score . v, in the order of weigh_pairs. */
static inline __attribute__((always_inline)) void weigh_some(
    const uint16_t *weight, const uint16_t *v, int64_t step, float *acc, const int DIM,
    const int MANY)
{
    for (int d = 0; d < DIM; d += 2 * WIDE) {
        __m512 low[8], high[8];
#pragma GCC unroll 8
        for (int i = 0; i < MANY; i++) {
            low[i] = _mm512_load_ps(acc + i * DIM + d);
            high[i] = _mm512_load_ps(acc + i * DIM + d + WIDE);
        }
        for (int j = 0; j < BLOCK; j += 2) {
            __m512i even = _mm512_loadu_si512(v + j * step + d);
            __m512i odd = _mm512_loadu_si512(v + (j + 1) * step + d);
            __builtin_prefetch(v + (j + BLOCK) * step + d);
            __builtin_prefetch(v + (j + 1 + BLOCK) * step + d);
            __m512bh first = (__m512bh)_mm512_unpacklo_epi16(even, odd);
            __m512bh second = (__m512bh)_mm512_unpackhi_epi16(even, odd);
#pragma GCC unroll 8
            for (int i = 0; i < MANY; i++) {
                int32_t both;
                memcpy(&both, weight + i * BLOCK + j, 4);
                __m512bh w = (__m512bh)_mm512_set1_epi32(both);
                low[i] = _mm512_dpbf16_ps(low[i], first, w);
                high[i] = _mm512_dpbf16_ps(high[i], second, w);
            }
        }
#pragma GCC unroll 8
        for (int i = 0; i < MANY; i++) {
            _mm512_store_ps(acc + i * DIM + d, low[i]);
            _mm512_store_ps(acc + i * DIM + d + WIDE, high[i]);
        }
    }
}

/* acc[0..rows) += score . v. Two rows of v are interleaved, so of 32 columns the first vector of acc
 * holds 0-3, 8-11, 16-19, 24-27 and the second the others; column() says where one stands. */
static inline __attribute__((always_inline)) void weigh_pairs(
    int rows, const float *score, const uint16_t *v, int64_t step, float *acc, const int DIM)
{
    uint16_t w[MOST_ROWS * BLOCK] __attribute__((aligned(64)));
    for (int i = 0; i < rows * BLOCK; i += WIDE) store_bf16(w + i, *(const vec *)(score + i));
    int r = 0;
    for (; r + 8 <= rows; r += 8) weigh_some(w + r * BLOCK, v, step, acc + r * DIM, DIM, 8);
    for (; r + 4 <= rows; r += 4) weigh_some(w + r * BLOCK, v, step, acc + r * DIM, DIM, 4);
    for (; r < rows; r++) weigh_some(w + r * BLOCK, v, step, acc + r * DIM, DIM, 1);
}

static inline int column(int d) { return d / 32 * 32 + d % 8 / 4 * 16 + d % 32 / 8 * 4 + d % 4; }
