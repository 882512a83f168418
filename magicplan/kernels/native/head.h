#if BY_PAIRS
/* n rows as a whole block, zeros below. */
static inline const ELEMENT *NAME(padded)(
    ELEMENT *part, const ELEMENT *from, int64_t step, int n, const int DIM)
{
    memset(part, 0, BLOCK * DIM * sizeof *part);
    for (int j = 0; j < n; j++) memcpy(part + j * DIM, from + j * step, DIM * sizeof *part);
    return part;
}
#else
static inline __attribute__((always_inline)) void NAME(widened)(
    float *part, const ELEMENT *from, int64_t step, int n, const int DIM)
{
    for (int j = 0; j < n; j++)
        for (int d = 0; d < DIM; d += WIDE) {
            __builtin_prefetch(from + (j + BLOCK) * step + d);
            *(vec *)(part + j * DIM + d) = LOAD(from + j * step + d);
        }
}
#endif

/* One (sequence, KV head); DIM is a constant where the caller passes one. */
static inline __attribute__((always_inline)) void NAME(head)(
    const Shape *s, const ELEMENT *query, const ELEMENT *key, const ELEMENT *value,
    const int32_t *table, int64_t length, const int64_t *tree, ELEMENT *out,
    int64_t row_token, const int DIM)
{
    const int rows = s->tokens * s->group;
    /* whole fours: a row that is left over would read K and V alone */
    const int whole = (rows + 3) / 4 * 4;
#if BY_PAIRS
    ELEMENT raw[MOST_ROWS * DIM] __attribute__((aligned(64)));
    ELEMENT part[BLOCK * DIM] __attribute__((aligned(64)));
#else
    float q[MOST_ROWS * DIM] __attribute__((aligned(64)));
    float part[BLOCK * DIM] __attribute__((aligned(64)));
#endif
    float acc[MOST_ROWS * DIM] __attribute__((aligned(64)));
    float score[MOST_ROWS * BLOCK] __attribute__((aligned(64)));
    float high[MOST_ROWS], total[MOST_ROWS];
    memset(part, 0, sizeof part);
    for (int r = rows; r < whole; r++) {
#if BY_PAIRS
        memset(raw + r * DIM, 0, DIM * sizeof *raw);
#else
        memset(q + r * DIM, 0, DIM * sizeof *q);
#endif
        memset(acc + r * DIM, 0, DIM * sizeof *acc);
    }
    for (int r = 0; r < rows; r++) {
        const ELEMENT *from = query + (r / s->group) * row_token + (int64_t)(r % s->group) * DIM;
        for (int d = 0; d < DIM; d += WIDE) {
#if BY_PAIRS
            memcpy(raw + r * DIM + d, from + d, WIDE * sizeof *raw);
#else
            *(vec *)(q + r * DIM + d) = LOAD(from + d) * s->scale;
#endif
            *(vec *)(acc + r * DIM + d) = (vec){0};
        }
        high[r] = NOTHING;
        total[r] = 0;
    }
    const int64_t end = length + s->first + s->tokens;
    int64_t near = 0, slot = 0;
    if (s->window) {
        near = length + 1 - s->window + (s->words ? 0 : s->first);
        if (near < 0) near = 0;
    }
    while (slot < end) {
        if (s->window && slot >= s->sinks && slot < near) slot = near;
        int64_t stop = slot + BLOCK;
        int64_t page_end = (slot / s->page_size + 1) * s->page_size;
        if (stop > page_end) stop = page_end;
        if (s->window && slot < s->sinks && s->sinks < near && stop > s->sinks) stop = s->sinks;
        if (stop > end) stop = end;
        const int n = (int)(stop - slot);
        const int64_t at = table[slot / s->page_size] * s->kv_page + slot % s->page_size * s->kv_slot;
        const ELEMENT *k = key + at, *v = value + at;
#if BY_PAIRS
        const int64_t step = n < BLOCK ? DIM : s->kv_slot;
        if (n < BLOCK) k = NAME(padded)(part, k, s->kv_slot, n, DIM);
        scores_of_pairs(whole, raw, k, step, s->scale, score, DIM);
#else
        NAME(widened)(part, k, s->kv_slot, n, DIM);
        scores(whole, q, part, score, DIM);
#endif
        for (int r = 0; r < rows && n < BLOCK; r++)
            for (int j = n; j < BLOCK; j++) score[r * BLOCK + j] = HIDDEN;
        if (stop > length || s->window)
            for (int r = 0; r < rows; r++)
                for (int j = 0; j < n; j++)
                    if (!visible(s, tree, length, r / s->group, slot + j))
                        score[r * BLOCK + j] = HIDDEN;
        for (int r = 0; r < rows; r++) {
            vec *x = (vec *)(score + r * BLOCK);
            float top = largest_of(larger(x[0], x[1]));
            top = top > high[r] ? top : high[r];
            x[0] = power2(x[0] - top);
            x[1] = power2(x[1] - top);
            float sum = sum_of(x[0] + x[1]);
            if (top > high[r]) {
                vec shrink = power2((vec){0} + (high[r] - top));
                total[r] *= shrink[0];
                for (int d = 0; d < DIM; d += WIDE) *(vec *)(acc + r * DIM + d) *= shrink;
                high[r] = top;
            }
            total[r] += sum;
        }
#if BY_PAIRS
        if (n < BLOCK) v = NAME(padded)(part, v, s->kv_slot, n, DIM);
        weigh_pairs(whole, score, v, step, acc, DIM);
#else
        NAME(widened)(part, v, s->kv_slot, n, DIM);
        weigh(whole, n, score, part, acc, DIM);
#endif
        slot = stop;
    }
    for (int r = 0; r < rows; r++) {
        ELEMENT *to = out + (r / s->group) * row_token + (int64_t)(r % s->group) * DIM;
        for (int d = 0; d < DIM; d += WIDE)
#if BY_PAIRS
        {
            float ordered[WIDE] __attribute__((aligned(64)));
            for (int i = 0; i < WIDE; i++) ordered[i] = acc[r * DIM + column(d + i)];
            STORE(to + d, *(vec *)ordered / total[r]);
        }
#else
            STORE(to + d, *(vec *)(acc + r * DIM + d) / total[r]);
#endif
    }
}

/* Pairs (sequence, KV head) from begin to end. query, out: [batch, tokens, heads, dim], dense. */
void NAME(attention)(
    const Shape *s, const ELEMENT *query, const ELEMENT *key, const ELEMENT *value,
    const int32_t *table, const int32_t *lengths, const int64_t *tree, ELEMENT *out,
    int32_t begin, int32_t end)
{
    const int64_t row_token = (int64_t)s->kv_heads * s->group * s->dim;
    for (int pair = begin; pair < end; pair++) {
        const int b = pair / s->kv_heads, h = pair % s->kv_heads;
        const int64_t at = b * s->tokens * row_token + (int64_t)h * s->group * s->dim;
        const ELEMENT *k = key + h * s->kv_head, *v = value + h * s->kv_head;
        const int32_t *pages = table + b * s->table_batch;
        if (s->dim == 64)
            NAME(head)(s, query + at, k, v, pages, lengths[b], tree, out + at, row_token, 64);
        else if (s->dim == 128)
            NAME(head)(s, query + at, k, v, pages, lengths[b], tree, out + at, row_token, 128);
        else
            NAME(head)(s, query + at, k, v, pages, lengths[b], tree, out + at, row_token, s->dim);
    }
}
