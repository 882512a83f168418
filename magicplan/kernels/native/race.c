/* An exponential race with Philox's numbers: the twin of torch_accept.race, without its tables. */
#include <math.h>
#include <stdint.h>

#define BLOCK 512

/* First words of Philox 4x32-10 for counters (from + i, request, step, last). */
static void philox(uint32_t *word, uint32_t from, uint32_t request, uint32_t step, uint32_t last,
                   uint64_t seed)
{
    for (int i = 0; i < BLOCK; i++) {
        uint32_t c0 = from + (uint32_t)i, c1 = request, c2 = step, c3 = last;
        uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);
        for (int round = 0; round < 10; round++) {
            uint64_t a = (uint64_t)0xD2511F53u * c0, b = (uint64_t)0xCD9E8D57u * c2;
            c0 = (uint32_t)(b >> 32) ^ c1 ^ k0;
            c1 = (uint32_t)b;
            c2 = (uint32_t)(a >> 32) ^ c3 ^ k1;
            c3 = (uint32_t)a;
            k0 += 0x9E3779B9u;
            k1 += 0xBB67AE85u;
        }
        word[i] = c0;
    }
}

/* token[b]: where weights[b] / Exp(1) is largest, the lowest of equals. -log(1 - u) >= u, so only
 * those whose weight / u leads need the logarithm: a dozen of a vocabulary. */
void race(const float *weights, int32_t batch, int32_t vocab, uint64_t seed,
          const int32_t *request, const int32_t *step, const int64_t *last, int64_t *token)
{
    uint32_t word[BLOCK];
    for (int b = 0; b < batch; b++) {
        const float *weight = weights + (int64_t)b * vocab;
        float best = -1;
        for (int32_t from = 0; from < vocab; from += BLOCK) {
            const int n = vocab - from < BLOCK ? vocab - from : BLOCK;
            philox(word, (uint32_t)from, (uint32_t)request[b], (uint32_t)step[b],
                   (uint32_t)last[b], seed);
            for (int i = 0; i < n; i++) {
                float u = ((float)word[i] + 0.5f) * 0x1p-32f;
                if (weight[from + i] > best * u * 0.999999f) {
                    float clamped = u < 1 - 0x1p-24f ? u : 1 - 0x1p-24f;
                    float score = weight[from + i] / -log1pf(-clamped);
                    if (score > best) {
                        best = score;
                        token[b] = from + i;
                    }
                }
            }
        }
    }
}
