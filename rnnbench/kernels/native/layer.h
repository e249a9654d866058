// One layer in one direction, forward and backward, for one chunk of N columns.

// `p` and `gradient` begin at the layer's own weights, which stand in the order of the cell's table.
struct layer_call {
    const float *p;
    int T, N, H, inputs;
    int reverse;           // the steps are T-1..0
    int train;             // a backward pass will follow
    float *memory;         // layer_memory floats, this layer's from its forward to its backward pass
    float *scratch;        // layer_scratch floats, used by any layer while it is computed
    const float *x;        // (T, inputs, N), or 0 where
    const int32_t *symbols;  // (T, N) numbers of a column of weight_ih
    float *h;              // (T, H, N), steps h_step floats apart
    long h_step;
    const float *initial;  // (states, H, N): the state before the first step; 0: zeros
    float *last;           // (states, H, N): the state after the last step is written here, if not 0
    const float *mask;     // (H, N): the factors of recurrent dropout; 0 where the cell has none
    const float *zone;     // the factors of zoneout; 0 where the cell has none
    long zone_step;        // floats between its steps: states * H * N, or 0 where all steps have the same
    // Of the backward pass.
    const float *d_out;  // as h: the gradient at h from above
    float *d_x;          // (T, inputs, N): added to; 0: not wanted
    float *d_initial;    // (states, H, N): written; 0: not wanted
    float *gradient;     // written
};

static long up_16(long count) { return (count + 15) / 16 * 16; }  // whole vectors of any instruction set

// Floats of a weight: rows or columns that are vectors count as one.
static long weight_size(const struct weight *w, long H, long inputs) {
    return (w->rows ? w->rows * H : 1) * (w->columns == INPUTS ? inputs : w->columns ? w->columns * H : 1);
}

// Floats of a layer's weights, without the state before the first step where that is learned.
static long layer_parameters(const struct cell *cell, long H, long inputs) {
    long sum = 0;
    for (int i = 0; i < cell->weights; i++) sum += weight_size(&cell->weight[i], H, inputs);
    return sum;
}

// Where the memory and the scratch of a call are divided into arrays.
struct parts {
    float *a;           // (T, rows * hidden, N)
    float *c, *tanh_c;  // (T, hidden, N)
    float *d_h, *d_c, *zero;  // (hidden, N)
    float *bias;              // (rows * hidden)
    // Batch and rows exchanged: a step's gradients (N, rows * hidden), the weights, and the gradients of the
    // weights, one block for each of a cell's spans and kinds.
    float *turned, *back[3], *down[3], *d_input[3], *d_recurrent[3], *d_bias;
};

static long divide_memory(const struct cell *cell, const struct layer_call *call, struct parts *w) {
    const long n = (long)call->H * call->N, keep = call->train ? call->T : 2;
    float *next = call->memory;
    w->a = next, next += up_16(keep * cell->rows * n);
    if (cell->states == 2) w->c = next, next += up_16(keep * n), w->tanh_c = next, next += up_16(keep * n);
    return next - call->memory;
}

static long divide_scratch(const struct cell *cell, const struct layer_call *call, struct parts *w) {
    const long H = call->H, N = call->N, all = up_16(cell->rows * H) + 16;
    float *next = call->scratch;
#define TAKE(name, count) (name = next, next += up_16(count))
    TAKE(w->zero, H * N);
    TAKE(w->bias, cell->rows * H);
    if (call->train) {
        TAKE(w->d_h, H * N);
        TAKE(w->d_c, H * N);
        TAKE(w->turned, N * all);
        TAKE(w->d_bias, all);
        for (int k = 0; k < cell->spans; k++) {
            const long rows = cell->span[k].rows * H;
            TAKE(w->back[k], rows * H);
            TAKE(w->down[k], rows * call->inputs);
            TAKE(w->d_recurrent[k], H * up_16(rows));
            TAKE(w->d_input[k], call->inputs * up_16(rows));
        }
    }
#undef TAKE
    return next - call->scratch;
}

// Floats of `memory` and `scratch` for a call of these T, N, H, inputs, train; its pointers are not read.
static long layer_memory(const struct cell *cell, const struct layer_call *call) {
    return divide_memory(cell, call, &(struct parts){0});
}

static long layer_scratch(const struct cell *cell, const struct layer_call *call) {
    return divide_scratch(cell, call, &(struct parts){0});
}

// Where step `t` stands in an activation buffer: all steps are kept for the backward pass, else two.
static long slot(int t, int train) { return train ? t : t & 1; }

static void layer_forward(const struct cell *cell, const struct layer_call *call) {
    const float *p = call->p;
    const int H = call->H, T = call->T, N = call->N, I = call->inputs, train = call->train;
    const long n = (long)H * N, w_hh = (long)cell->gates * H * I, b_ih = w_hh + (long)cell->gates * H * H;
    const long b_hh = b_ih + cell->gates * H;
    struct parts w = {0};
    divide_memory(cell, call, &w), divide_scratch(cell, call, &w);
    memset(w.zero, 0, sizeof(float) * n);
    for (int k = 0; k < cell->spans; k++) {
        const struct span *span = &cell->span[k];
        for (int i = 0; i < span->rows * H; i++)
            w.bias[span->row * H + i] = (span->input < 0 ? 0 : p[b_ih + span->input * H + i]) +
                                        (span->recurrent < 0 ? 0 : p[b_hh + span->recurrent * H + i]);
    }
    for (int done = 0; done < T; done++) {
        const int t = call->reverse ? T - 1 - done : done, before = call->reverse ? t + 1 : t - 1;
        float *a = w.a + slot(t, train) * cell->rows * n;
        const float *first = call->initial ? call->initial : w.zero;
        const float *h_before = done ? call->h + before * call->h_step : first;
        for (int k = 0; k < cell->spans; k++) {
            const struct span *span = &cell->span[k];
            struct factor f[2];
            int count = 0;
            if (span->input >= 0)
                f[count++] = (struct factor){p + (long)span->input * H * I, I, 1, call->x + (long)t * I * N, N, I};
            if (span->recurrent >= 0 && (done || call->initial))
                f[count++] = (struct factor){p + w_hh + (long)span->recurrent * H * H, H, 1, h_before, N, H};
            product(span->rows * H, N, f, count, w.bias + span->row * H, 0, a + span->row * n, N);
        }
        struct step step = {.a = a, .h_before = h_before, .h = call->h + t * call->h_step};
        if (cell->states == 2) {
            step.c_before = done ? w.c + slot(before, train) * n : call->initial ? call->initial + n : w.zero;
            step.c = w.c + slot(t, train) * n;
            step.tanh_c = w.tanh_c + slot(t, train) * n;
        }
        cell->forward(n, step);
        if (call->last && done == T - 1) {
            memcpy(call->last, step.h, sizeof(float) * n);
            if (cell->states == 2) memcpy(call->last + n, step.c, sizeof(float) * n);
        }
    }
}

static void layer_backward(const struct cell *cell, const struct layer_call *call) {
    const float *p = call->p, *x = call->x;
    const int H = call->H, T = call->T, N = call->N, I = call->inputs;
    const long n = (long)H * N, all = up_16(cell->rows * H) + 16;
    const long w_hh = (long)cell->gates * H * I, b_ih = w_hh + (long)cell->gates * H * H;
    const long b_hh = b_ih + cell->gates * H;
    struct parts w = {0};
    divide_memory(cell, call, &w), divide_scratch(cell, call, &w);
    struct factor down[2], back[2];  // to the layer below, to the step before
    int downs = 0, backs = 0;
    for (int k = 0; k < cell->spans; k++) {
        const struct span *span = &cell->span[k];
        const int rows = span->rows * H;
        if (span->input >= 0 && call->d_x) {
            transpose(rows, I, p + (long)span->input * H * I, I, w.down[k], rows);
            down[downs++] = (struct factor){w.down[k], rows, 1, 0, N, rows};
        }
        if (span->recurrent >= 0) {
            transpose(rows, H, p + w_hh + (long)span->recurrent * H * H, H, w.back[k], rows);
            back[backs++] = (struct factor){w.back[k], rows, 1, 0, N, rows};
        }
        memset(w.d_input[k], 0, sizeof(float) * I * up_16(rows));
        memset(w.d_recurrent[k], 0, sizeof(float) * H * up_16(rows));
    }
    memset(w.d_bias, 0, sizeof(float) * all);
    memset(w.d_h, 0, sizeof(float) * n);
    memset(w.d_c, 0, sizeof(float) * n);
    memset(w.zero, 0, sizeof(float) * n);
    // Columns between the rows and a whole vector are computed with, their results never used.
    memset(w.turned, 0, sizeof(float) * N * all);
    for (int left = T - 1; left >= 0; left--) {
        const int t = call->reverse ? T - 1 - left : left, before = call->reverse ? t + 1 : t - 1;
        const float *first = call->initial ? call->initial : w.zero;
        float *a = w.a + t * cell->rows * n;
        struct step step = {.a = a, .h = call->h + t * call->h_step, .d_out = call->d_out + t * call->h_step,
                            .d_h = w.d_h, .d_c = w.d_c, .h_before = left ? call->h + before * call->h_step : first};
        if (cell->states == 2) {
            step.c_before = left ? w.c + before * n : call->initial ? call->initial + n : w.zero;
            step.tanh_c = w.tanh_c + t * n;
        }
        cell->backward(n, step);
        transpose(cell->rows * H, N, a, N, w.turned, all);
        column_sums(N, all, w.turned, w.d_bias);
        downs = backs = 0;
        for (int k = 0; k < cell->spans; k++) {
            const struct span *span = &cell->span[k];
            const int rows = span->rows * H, wide = up_16(rows);
            const float *turned = w.turned + span->row * H;
            if (span->input >= 0) {
                const struct factor f = {x + (long)t * I * N, N, 1, turned, all, N};
                product(I, wide, &f, 1, 0, 1, w.d_input[k], wide);
                if (call->d_x) down[downs++].b = a + span->row * n;
            }
            if (span->recurrent >= 0) {
                const struct factor f = {step.h_before, N, 1, turned, all, N};
                if (left || call->initial) product(H, wide, &f, 1, 0, 1, w.d_recurrent[k], wide);
                back[backs++].b = a + span->row * n;
            }
        }
        if (left || call->d_initial) product(H, N, back, backs, 0, cell->carries, w.d_h, N);
        if (call->d_x) product(I, N, down, downs, 0, 1, call->d_x + (long)t * I * N, N);
    }
    if (call->d_initial) {
        memcpy(call->d_initial, w.d_h, sizeof(float) * n);
        if (cell->states == 2) memcpy(call->d_initial + n, w.d_c, sizeof(float) * n);
    }
    float *gradient = call->gradient;
    for (int k = 0; k < cell->spans; k++) {
        const struct span *span = &cell->span[k];
        const int rows = span->rows * H, wide = up_16(rows);
        const float *bias = w.d_bias + span->row * H;
        if (span->input >= 0) {
            transpose(I, rows, w.d_input[k], wide, gradient + (long)span->input * H * I, I);
            memcpy(gradient + b_ih + span->input * H, bias, sizeof(float) * rows);
        }
        if (span->recurrent >= 0) {
            transpose(H, rows, w.d_recurrent[k], wide, gradient + w_hh + (long)span->recurrent * H * H, H);
            memcpy(gradient + b_hh + span->recurrent * H, bias, sizeof(float) * rows);
        }
    }
}
