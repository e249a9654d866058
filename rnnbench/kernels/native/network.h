// The whole network of one trial on a chunk of a minibatch, forward and backward.
//
// A chunk is N columns: its examples, then columns that repeat the last one up to a multiple of 16, whose
// gradient is zero. The numbers of a chunk are the same whichever thread computes it, and whatever else is
// computed.

enum { CHUNK = 64 };  // examples: a layer's activations of so many fit the core's own cache

// What the networks of a stack have in common; laid out as `Shape` in compiled.py.
struct shape {
    int64_t cell, layers, directions, hidden, memory, input, outputs, goal;  // memory: M of layer.h
    int64_t mean;     // whether the readout is the mean over time, not the last step
    int64_t learned;  // whether the state before the first step is a parameter, the last ones of each layer
    double zoneout;   // rate
    const float *constants;  // of the cell, the same for all layers and trials
};

#include "data.h"
#include "loss.h"

// One layer in one direction.
struct level {
    int layer, reverse;
    int inputs;             // features that it reads
    long weights, initial;  // where its weights, and the state before the first step, begin in a trial's row
    float *memory;          // from its forward to its backward pass
    float *start, *last;    // (state rows, N): the state before the first and after the last step
    float *mask, *zone;     // factors of recurrent dropout (hidden, N), of zoneout (T, states, hidden, N)
    // Of the reverse direction where lengths differ: x (T, inputs, N) or its symbols, and h (T, hidden, N), each
    // column's steps in reverse order.
    float *x, *h;
    int32_t *symbols;
};

// All that one thread needs for one chunk; the numbers lie in one block of memory.
struct work {
    struct level *levels;  // layers * directions
    float **out;     // of each layer, (T, width, N)
    float **inputs;  // of each layer, (T, features, N): the data, or the layer below after dropout
    int32_t *symbols;  // (T, N), where they are the data
    float *d_out[2];   // gradient at a layer's output, and at the one below
    float *d_flipped, *d_x;  // of the reverse direction where lengths differ: gradient at its h, at its x
    float *d_initial;  // (state rows, N)
    float *scratch;    // of whichever layer is computed
    float *summary, *d_summary;  // (width, N)
    float *logits;               // (outputs, N), then their gradient
    float *y;                    // (outputs, N)
    // Of the head's backward pass: the gradient at the logits, transposed (N, outputs), and those of its weights.
    float *turned, *d_head, *d_bias;
    long head_w, head_b;
};

static int width_of(const struct shape *s) { return s->hidden * s->directions; }

// Rows of the state of one level.
static long states_of(const struct shape *s) { return state_rows(&CELLS[s->cell], s->hidden, s->memory); }

static int every_step(const struct shape *s) { return s->goal >= LABELS; }

static int padded(int batch) { return batch < CHUNK ? up_16(batch) : CHUNK; }

// What a chunk may need memory for.
struct needs {
    int N, train, dropout, lengths, carried;
    int64_t steps, kind;
};

// Lays out a level's memory from `next` on, and returns where it ends.
static float *lay_out_level(const struct shape *s, const struct needs *needs, struct level *l, float *next) {
    const struct cell *cell = &CELLS[s->cell];
    const long H = s->hidden, T = needs->steps, N = needs->N, n = H * N;
    const struct layer_call call = {
        .T = T, .N = N, .H = H, .M = s->memory, .inputs = l->inputs, .train = needs->train};
#define TAKE(name, count) (name = (void *)next, next += up_16(count))
    TAKE(l->memory, cell->memory(&call));
    if (needs->carried || s->learned) TAKE(l->start, states_of(s) * N);
    if (needs->carried) TAKE(l->last, states_of(s) * N);
    if (cell->masked) TAKE(l->mask, n);
    if (cell->zoned) TAKE(l->zone, (needs->train ? T : 1) * states_of(s) * N);
    if (l->reverse && needs->lengths) {
        if (!l->layer && needs->kind >= SYMBOLS_16) TAKE(l->symbols, T * N);
        else TAKE(l->x, T * l->inputs * N);
        TAKE(l->h, T * n);
    }
    return next;
}

// Lays out a thread's memory from `base` on, and returns how many floats it takes. Where base is 0, only the
// sizes and the offsets of the weights mean something.
static size_t lay_out(const struct shape *s, const struct needs *needs, struct work *w, float *base) {
    const struct cell *cell = &CELLS[s->cell];
    const long H = s->hidden, T = needs->steps, N = needs->N, width = width_of(s), wide = up_16(s->outputs);
    const int flips = s->directions == 2 && needs->lengths, symbols = needs->kind >= SYMBOLS_16;
    float *next = base;
    long offset = 0, scratch = 0;
    if (symbols) TAKE(w->symbols, T * N);
    else TAKE(w->inputs[0], T * s->input * N);
    for (int layer = 0; layer < s->layers; layer++) {
        TAKE(w->out[layer], T * width * N);
        if (layer && needs->dropout) TAKE(w->inputs[layer], T * width * N);
        else if (layer) w->inputs[layer] = w->out[layer - 1];
        for (int d = 0; d < s->directions; d++) {
            struct level *l = &w->levels[layer * s->directions + d];
            *l = (struct level){.layer = layer, .reverse = d, .inputs = layer ? width : s->input, .weights = offset};
            const struct layer_call call = {
                .T = T, .N = N, .H = H, .M = s->memory, .inputs = l->inputs, .train = needs->train};
            const long size = cell->scratch(&call);
            l->initial = offset += layer_parameters(cell, H, s->memory, l->inputs);
            if (s->learned) offset += states_of(s);
            next = lay_out_level(s, needs, l, next);
            scratch = size > scratch ? size : scratch;
        }
    }
    TAKE(w->scratch, scratch);
    w->head_w = offset, offset += s->outputs * width;
    w->head_b = offset, offset += s->outputs;
    TAKE(w->summary, width * N);
    TAKE(w->logits, s->outputs * N);
    if (s->goal != LABEL && s->goal != LABELS) TAKE(w->y, s->outputs * N);
    if (needs->train) {
        for (int i = 0; i < 2; i++) TAKE(w->d_out[i], T * width * N);
        if (flips) TAKE(w->d_flipped, T * H * N), TAKE(w->d_x, T * width * N);
        if (s->learned) TAKE(w->d_initial, states_of(s) * N);
        TAKE(w->d_summary, width * N);
        TAKE(w->turned, N * wide);
        TAKE(w->d_head, width * wide);
        TAKE(w->d_bias, wide);
        // Products read past the outputs, to the end of a vector; nothing reads what they make of it.
        if (base) memset(w->turned, 0, sizeof(float) * N * wide);
    }
#undef TAKE
    return next - base;
}

// The layer and direction of which `l` is, on the activations of a chunk.
static struct layer_call call_of(const struct shape *s, const struct work *w, const struct level *l,
                                 const float *p, const struct chunk *c) {
    const long n = (long)s->hidden * c->N, states = states_of(s) * c->N;
    const int begins = c->fresh || !c->carried;
    struct layer_call call = {
        .p = p + l->weights, .constants = s->constants, .T = c->T, .N = c->N, .H = s->hidden, .M = s->memory, .inputs = l->inputs,
        .reverse = l->reverse, .train = c->train, .memory = l->memory, .scratch = w->scratch,
        .x = w->inputs[l->layer], .symbols = l->layer ? 0 : w->symbols,
        .h = w->out[l->layer] + l->reverse * n, .h_step = (long)width_of(s) * c->N,
        .initial = begins && !s->learned ? 0 : l->start, .last = c->carried ? l->last : 0,
        .mask = l->mask, .zone = l->zone, .zone_step = c->zoneout ? states : 0};
    if (l->h) call.x = l->x, call.symbols = l->symbols, call.h = l->h, call.h_step = n, call.reverse = 0;
    return call;
}

// What a level reads beside its inputs: the state before the first step, and the factors of its options.
static void read_level(const struct shape *s, const struct work *w, const struct level *l, const float *p,
                       const struct chunk *c) {
    const struct cell *cell = &CELLS[s->cell];
    const long H = s->hidden, number = l - w->levels, states = states_of(s);
    if (c->carried && !c->fresh) read_columns(c->carried + number * states * c->batch, states, c, l->start);
    else if (s->learned)
        for (long i = 0; i < states; i++)
            for (int j = 0; j < c->N; j++) l->start[i * c->N + j] = p[l->initial + i];
    if (cell->masked && c->recurrent) read_columns(c->recurrent + number * H * c->batch, H, c, l->mask);
    else if (cell->masked)
        for (long i = 0; i < H * c->N; i++) l->mask[i] = 1;
    if (cell->zoned && c->zoneout)
        read_columns(c->zoneout + number * c->steps * states * c->batch, c->T * states, c, l->zone);
    else if (cell->zoned)  // the mean of both states
        for (long i = 0; i < states * c->N; i++) l->zone[i] = s->zoneout;
}

// to (rows, N) = `from` times the dropout factors of a gap between layers, for all steps.
static void drop(const struct shape *s, const struct chunk *c, int gap, const float *from, float *to) {
    const int width = width_of(s);
    const float *factors = c->dropout + gap * c->steps * width * c->batch;
    for (long row = 0; row < (long)c->T * width; row++, factors += c->batch, from += c->N, to += c->N) {
        for (int j = 0; j < c->count; j++) to[j] = from[j] * factors[j];
        for (int j = c->count; j < c->N; j++) to[j] = from[j] * factors[c->count - 1];
    }
}

// All layers on the inputs that have been read; w->out[layers - 1] is what the readout gets.
static void layers_forward(const struct shape *s, struct work *w, const float *p, const struct chunk *c) {
    const struct cell *cell = &CELLS[s->cell];
    const long H = s->hidden, n = H * c->N;
    for (int layer = 0; layer < s->layers; layer++) {
        if (layer && c->dropout) drop(s, c, layer - 1, w->out[layer - 1], w->inputs[layer]);
        for (int d = 0; d < s->directions; d++) {
            struct level *l = &w->levels[layer * s->directions + d];
            const struct layer_call call = call_of(s, w, l, p, c);
            const long features = (long)l->inputs * c->N, states = states_of(s);
            read_level(s, w, l, p, c);
            if (l->h && l->symbols) flip_symbols(c, w->symbols, l->symbols);
            else if (l->h) flip(c, l->inputs, w->inputs[layer], features, l->x, features, 0);
            cell->forward(&call);
            if (l->h) flip(c, H, l->h, n, w->out[layer] + n, (long)width_of(s) * c->N, 0);
            if (c->carried)
                write_columns(l->last, states, c, c->carried + (l - w->levels) * states * c->batch);
        }
    }
}

// w->summary (width, N): what the head reads at the end.
static void read_out(const struct shape *s, struct work *w, const struct chunk *c) {
    const float *h = w->out[s->layers - 1];
    const int64_t *lengths = c->lengths;
    const int N = c->N, width = width_of(s), T = c->T;
    const long size = (long)width * N, half = s->hidden * N;
    if (s->mean) {
        memset(w->summary, 0, sizeof(float) * size);
        for (int t = 0; t < T; t++)
            for (long row = 0; row < size; row += N)
                for (int j = 0; j < N; j++)
                    w->summary[row + j] += !lengths || t < lengths[j] ? h[t * size + row + j] : 0;
        for (long row = 0; row < size; row += N)
            for (int j = 0; j < N; j++) w->summary[row + j] /= lengths ? lengths[j] : T;
        return;
    }
    for (long row = 0; row < half; row += N)  // each direction after its own last step
        for (int j = 0; j < N; j++)
            w->summary[row + j] = h[((lengths ? lengths[j] : T) - 1) * size + row + j];
    if (s->directions == 2) memcpy(w->summary + half, h + half, sizeof(float) * half);
}

// d_out (T, width, N), from w->d_summary.
static void read_out_backward(const struct shape *s, struct work *w, const struct chunk *c, float *d_out) {
    const int64_t *lengths = c->lengths;
    const int N = c->N, width = width_of(s), T = c->T;
    const long size = (long)width * N, half = s->hidden * N;
    if (s->mean) {
        for (long row = 0; row < size; row += N)
            for (int j = 0; j < N; j++) w->d_summary[row + j] /= lengths ? lengths[j] : T;
        for (int t = 0; t < T; t++)
            for (long row = 0; row < size; row += N)
                for (int j = 0; j < N; j++)
                    d_out[t * size + row + j] = !lengths || t < lengths[j] ? w->d_summary[row + j] : 0;
        return;
    }
    memset(d_out, 0, sizeof(float) * T * size);
    for (long row = 0; row < half; row += N)
        for (int j = 0; j < N; j++)
            d_out[((lengths ? lengths[j] : T) - 1) * size + row + j] = w->d_summary[row + j];
    if (s->directions == 2) memcpy(d_out + half, w->d_summary + half, sizeof(float) * half);
}

static int64_t class_of(const struct examples *e, int64_t example, int t) {
    return ((const int64_t *)e->targets)[example * e->target_stride + t];
}

// Whether column j is asked for an answer at step t: within its length, and where its class is not -1.
static int asked(const struct shape *s, const struct examples *e, const struct chunk *c, int j, int t) {
    if (j >= c->count || (every_step(s) && c->lengths && t >= c->lengths[j])) return 0;
    return s->goal != LABELS || class_of(e, c->index[j], t) >= 0;
}

// The loss of w->logits, of step t where there is an answer at every step; see loss.h.
static void cost(const struct shape *s, const struct examples *e, struct work *w, const struct chunk *c, int t,
                 double *sums, int64_t *answers) {
    float share[CHUNK];
    int64_t classes[CHUNK];
    const int N = c->N, outputs = s->outputs;
    for (int j = 0; j < N; j++) {
        const int counts = asked(s, e, c, j, t);
        share[j] = counts ? c->share : 0;
        sums[2] += counts;
    }
    const long at = (long)t * outputs;
    if (s->goal == LABEL || s->goal == LABELS) {
        float weight[CHUNK];
        for (int j = 0; j < N; j++) {
            classes[j] = class_of(e, c->index[example_of(c, j)], t);
            weight[j] = e->weights && share[j] ? e->weights[classes[j]] : 1;
        }
        cross_entropy(outputs, N, w->logits, classes, weight, share, c->train, sums, answers);
        return;
    }
    if (e->target_kind == BYTES) gather((const uint8_t *)e->targets + at, e->target_stride, outputs, c, 1, 0, w->y);
    else gather_floats((const float *)e->targets + at, e->target_stride, outputs, c, w->y);
    if (s->goal == KEYS) key_entropy(outputs, N, w->logits, w->y, share, c->train, sums);
    else squared_error(outputs, N, w->logits, w->y, share, c->train, sums);
}

static void head_forward(const struct shape *s, struct work *w, const float *p, const float *h, int N) {
    const int width = width_of(s);
    const struct factor f = {p + w->head_w, width, 1, h, N, width};
    product(s->outputs, N, &f, 1, p + w->head_b, 0, w->logits, N);
}

// d_h (width, N) at h, from w->logits, which hold the gradient there by now; adds to the head's gradients.
static void head_backward(const struct shape *s, struct work *w, const float *p, const float *h, float *d_h, int N) {
    const int width = width_of(s), outputs = s->outputs, wide = up_16(outputs);
    transpose(outputs, N, w->logits, N, w->turned, wide);
    const struct factor outer = {h, N, 1, w->turned, wide, N};
    product(width, wide, &outer, 1, 0, 1, w->d_head, wide);
    column_sums(N, wide, w->turned, w->d_bias);
    const struct factor f = {p + w->head_w, 1, width, w->logits, N, outputs};
    product(width, N, &f, 1, 0, 0, d_h, N);
}

// Readout, head and loss; in training also the gradient at the last layer's output, w->d_out[0], and the head's.
static void answer(const struct shape *s, const struct examples *e, struct work *w, const float *p,
                   const struct chunk *c, float *gradient, double *sums, int64_t *answers) {
    const int width = width_of(s), outputs = s->outputs, wide = up_16(outputs), N = c->N;
    if (c->train) {
        memset(w->d_head, 0, sizeof(float) * width * wide);
        memset(w->d_bias, 0, sizeof(float) * wide);
    }
    if (every_step(s)) {
        for (int t = 0; t < c->T; t++) {
            const long at = (long)t * width * N;
            int answers_of_step = 0;
            for (int j = 0; j < c->count; j++) answers_of_step += asked(s, e, c, j, t);
            if (!answers_of_step) {
                if (c->train) memset(w->d_out[0] + at, 0, sizeof(float) * width * N);
                continue;
            }
            head_forward(s, w, p, w->out[s->layers - 1] + at, N);
            cost(s, e, w, c, t, sums, 0);
            if (c->train) head_backward(s, w, p, w->out[s->layers - 1] + at, w->d_out[0] + at, N);
        }
    } else {
        read_out(s, w, c);
        head_forward(s, w, p, w->summary, N);
        cost(s, e, w, c, 0, sums, answers);
        if (c->train) {
            head_backward(s, w, p, w->summary, w->d_summary, N);
            read_out_backward(s, w, c, w->d_out[0]);
        }
    }
    if (!c->train) return;
    transpose(width, outputs, w->d_head, wide, gradient + w->head_w, width);
    memcpy(gradient + w->head_b, w->d_bias, sizeof(float) * outputs);
}

// One level's part of the gradient (P,), from d_out at its layer's output; adds to d_in at its layer's input.
static void level_backward(const struct shape *s, struct work *w, const struct level *l, const float *p,
                           const struct chunk *c, const float *d_out, float *d_in, float *gradient) {
    const struct cell *cell = &CELLS[s->cell];
    const long H = s->hidden, n = H * c->N, size = (long)width_of(s) * c->N;
    struct layer_call call = call_of(s, w, l, p, c);
    call.d_out = d_out + l->reverse * n;
    call.d_x = d_in;
    call.gradient = gradient + l->weights;
    if (s->learned && (c->fresh || !c->carried)) call.d_initial = w->d_initial;
    if (l->h) {
        flip(c, H, call.d_out, size, w->d_flipped, n, 0);
        call.d_out = w->d_flipped;
        if (d_in) call.d_x = memset(w->d_x, 0, sizeof(float) * c->T * size);
    }
    cell->backward(&call);
    if (l->h && d_in) flip(c, l->inputs, w->d_x, size, d_in, size, 1);
    for (long i = 0; s->learned && i < states_of(s); i++) {
        float sum = 0;
        for (int j = 0; call.d_initial && j < c->N; j++) sum += w->d_initial[i * c->N + j];
        gradient[l->initial + i] = sum;
    }
}

// The layers' part of the chunk's gradient (P,), from w->d_out[0].
static void layers_backward(const struct shape *s, struct work *w, const float *p, const struct chunk *c,
                            float *gradient) {
    float *d_out = w->d_out[0], *d_in = w->d_out[1];
    for (int layer = s->layers - 1; layer >= 0; layer--) {
        if (layer) memset(d_in, 0, sizeof(float) * c->T * width_of(s) * c->N);
        for (int d = 0; d < s->directions; d++)
            level_backward(s, w, &w->levels[layer * s->directions + d], p, c, d_out, layer ? d_in : 0, gradient);
        if (layer && c->dropout) drop(s, c, layer - 1, d_in, d_in);
        float *swap = d_out;
        d_out = d_in, d_in = swap;
    }
}
