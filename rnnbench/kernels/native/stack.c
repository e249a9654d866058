// Training and evaluation of a stack of recurrent networks: K trials, many minibatches, one call.
//
// Compiled once for each instruction set, whose name SET is. Each trial is computed by itself, each
// chunk of a minibatch by one thread, and the chunks' sums are added in their order: a trial's numbers
// are bit for bit the same whatever K, however many threads, however many minibatches a call.

#include <errno.h>
#include <math.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "products.h"
#include "layer.h"
#include "cells.h"  // generated
#include "network.h"
#include "update.h"

#define NAMED_(name, set) name##_##set
#define NAMED(name, set) NAMED_(name, set)

// `state` is laid out as State in compiled.py, `noise` as Drawn in drawing.py.

// The stack's rows, one a trial. What the optimiser does not have is 0.
struct state {
    int64_t optimiser;
    float *parameters, *memory[2];  // (K, P)
    double *step, *clip, *lr, *weight_decay, *momentum, *beta1, *beta2, *eps, *alpha;  // (K,)
};

// What was drawn for the minibatches of a call: (minibatches, K, ...) each, or 0.
struct noise {
    const float *dropout;    // factors (layers - 1, steps, width, batch)
    const float *recurrent;  // factors (layers * directions, hidden, batch)
    const float *zoneout;    // factors (layers * directions, steps, states, hidden, batch)
    const float *weights;    // what is added to the parameters while a gradient is taken (P)
};

// Threads that share a trial.
struct team {
    atomic_int here, round;    // how many of them wait for the others, and how often all have done so
    int64_t trial, minibatch;  // that they compute, the first of `block`
};

enum { BLOCKS = 16 };  // into which the minibatches of a call are divided
enum { SUMS = 3 };  // of a chunk: loss, right answers, answers

struct call {
    const struct shape *shape;
    const struct examples *examples;
    const struct state *state;
    const struct noise *noise;
    const float *parameters;  // (K, P), of evaluate
    const int64_t *order;     // examples in the order of use: (K, stride) to train, (count) to evaluate
    int64_t K, P, stride, count, batch, chunks;
    float *carried;    // (K, layers * directions, state rows, batch): the state that minibatches hand on, or 0
    int fresh;         // whether the first minibatch of the call does not begin from it
    int64_t *answers;  // (K, count)
    double *sums;      // (teams, chunks, SUMS) to train, (K, chunks, SUMS) to evaluate
    double *totals;    // (K, 4): loss, right answers, gradient norm, answers
    float *gradients;  // (teams, chunks, P)
    float *noisy;      // (teams, P): parameters with noise
    struct team *teams;
    int team_size;
    struct needs needs;
    // Trials are taken for `block` minibatches at a time, so that three trials keep two threads busy to the end.
    pthread_mutex_t taking;
    int64_t block, *done;  // minibatches that each trial has done
    char *taken;           // whether a team computes it now
    atomic_long next;      // of evaluate: the first chunk that no thread has taken
    atomic_int gate;       // 1: all threads are there; -1: they are not
};

struct worker {
    struct call *call;
    void (*body)(struct worker *);
    int number;
    struct work work;
    void *memory[4];
};

static void meet(struct team *team, int size) {
    if (size == 1) return;
    const int round = atomic_load(&team->round);
    if (atomic_fetch_add(&team->here, 1) == size - 1) {
        atomic_store(&team->here, 0);
        atomic_store(&team->round, round + 1);
        return;
    }
    for (int spin = 0; atomic_load(&team->round) == round;) {
        if (spin < 2000) spin++;  // mostly the others arrive within so many
        else sched_yield();
    }
}

// A minibatch of one trial.
struct minibatch {
    const int64_t *index;
    int64_t number, k, size;
    double answers;
};

// Steps of an example that count.
static int64_t length_of(const struct examples *e, int64_t example) {
    return e->lengths ? e->lengths[example] : e->steps;
}

static struct minibatch minibatch_of(const struct call *c, int64_t k, int64_t number) {
    const int64_t at = number * c->batch;
    struct minibatch m = {.index = c->order + k * c->stride + at, .number = number, .k = k,
                          .size = c->count - at < c->batch ? c->count - at : c->batch};
    for (int64_t i = 0; i < m.size; i++) {
        const int64_t length = every_step(c->shape) ? length_of(c->examples, m.index[i]) : 1;
        for (int64_t t = 0; t < length; t++)
            m.answers += c->shape->goal != LABELS || class_of(c->examples, m.index[i], t) >= 0;
    }
    return m;
}

// Begin a chunk with `count` examples from `index` on; `lengths` has room for those of N columns.
static struct chunk begin(const struct call *c, struct work *w, const int64_t *index, int count, int64_t *lengths) {
    const struct examples *e = c->examples;
    struct chunk chunk = {.index = index, .count = count, .N = padded(count), .train = c->needs.train,
                          .lengths = e->lengths ? lengths : 0, .share = 1, .batch = c->batch, .steps = e->steps};
    for (int j = 0; j < chunk.N; j++) {
        lengths[j] = length_of(e, index[example_of(&chunk, j)]);
        chunk.T = lengths[j] > chunk.T ? lengths[j] : chunk.T;
    }
    read_inputs(e, c->shape->input, &chunk, w->inputs[0], w->symbols);
    return chunk;
}

// Where a chunk's rows of what was drawn, or carried, begin: `size` numbers for each trial, `first` columns on.
static float *rows_of(const float *all, int64_t trial, int64_t size, int64_t first) {
    return all ? (float *)all + trial * size + first : 0;
}

// One chunk of a minibatch: its part of the gradient, of loss and right answers.
static void train_chunk(const struct call *c, struct work *w, const struct minibatch *m, const float *p, int first,
                        float *gradient, double *sums) {
    const struct shape *s = c->shape;
    const struct noise *noise = c->noise;
    const int64_t row = m->number * c->K + m->k, levels = s->layers * s->directions;
    const int64_t states = states_of(s) * c->batch, steps = c->examples->steps;
    int64_t lengths[CHUNK];
    struct chunk chunk = begin(c, w, m->index + first, m->size - first < CHUNK ? m->size - first : CHUNK, lengths);
    chunk.share = 1 / (float)m->answers;
    chunk.dropout = rows_of(noise->dropout, row, (s->layers - 1) * steps * width_of(s) * c->batch, first);
    chunk.recurrent = rows_of(noise->recurrent, row, levels * s->hidden * c->batch, first);
    chunk.zoneout = rows_of(noise->zoneout, row, levels * steps * states, first);
    chunk.carried = rows_of(c->carried, m->k, levels * states, first);
    chunk.fresh = c->fresh && !m->number;
    memset(sums, 0, sizeof(double) * SUMS);
    layers_forward(s, w, p, &chunk);
    answer(s, c->examples, w, p, &chunk, gradient, sums, 0);
    layers_backward(s, w, p, &chunk, gradient);
}

// The step that the chunks of a minibatch add up to.
static void train_update(const struct call *c, const struct minibatch *m, int chunks, float *gradient,
                         const double *sums) {
    const struct state *s = c->state;
    const int64_t k = m->k;
    double *total = c->totals + 4 * k;
    total[3] += m->answers;
    for (int chunk = 0; chunk < chunks; chunk++) {
        total[0] += sums[SUMS * chunk];
        total[1] += sums[SUMS * chunk + 1];
        for (long i = 0; chunk && i < c->P; i++) gradient[i] += gradient[chunk * c->P + i];
    }
    total[2] += m->size * clip(c->P, gradient, s->clip[k]);
#define OF(column) s->column ? s->column[k] : 0
    const struct hyper hyper = {OF(lr), OF(weight_decay), OF(momentum), OF(beta1), OF(beta2), OF(eps), OF(alpha),
                                &s->step[k]};
#undef OF
    float *memory[2] = {s->memory[0] + k * c->P, s->memory[1] ? s->memory[1] + k * c->P : 0};
    update(s->optimiser, c->P, s->parameters + k * c->P, gradient, memory, &hyper);
}

static int64_t minibatches(const struct call *c) { return (c->count + c->batch - 1) / c->batch; }

// Take the trial that has done least for a team, -1 if there is nothing left; first give back the one it had.
static void take(struct call *c, struct team *team) {
    for (int left = 1; left; sched_yield()) {
        int64_t best = left = 0;
        pthread_mutex_lock(&c->taking);
        if (team->trial >= 0) c->taken[team->trial] = 0;
        team->trial = -1;
        for (int64_t k = 0; k < c->K; k++) {
            if (c->done[k] == minibatches(c)) continue;
            left = 1;
            if (!c->taken[k] && (team->trial < 0 || c->done[k] < c->done[best])) team->trial = best = k;
        }
        if (team->trial >= 0) {
            const int64_t end = c->done[best] + c->block;
            c->taken[best] = 1;
            team->minibatch = c->done[best];
            c->done[best] = end < minibatches(c) ? end : minibatches(c);
            left = 0;
        }
        pthread_mutex_unlock(&c->taking);
    }
}

static void train_worker(struct worker *me) {
    struct call *c = me->call;
    const int size = c->team_size, number = me->number / size, member = me->number % size;
    struct team *team = &c->teams[number];
    float *gradients = c->gradients + number * c->chunks * c->P, *noisy = c->noisy + number * c->P;
    double *sums = c->sums + number * c->chunks * SUMS;
    for (;;) {
        if (!member) take(c, team);
        meet(team, size);
        const int64_t k = team->trial, first = team->minibatch;
        if (k < 0) return;
        const float *p = c->state->parameters + k * c->P;
        for (int64_t n = first; n < first + c->block && n < minibatches(c); n++) {
            const struct minibatch m = minibatch_of(c, k, n);
            const int chunks = (m.size + CHUNK - 1) / CHUNK;
            if (c->noise->weights) {
                const float *added = c->noise->weights + (n * c->K + k) * c->P;
                for (long i = 0; !member && i < c->P; i++) noisy[i] = p[i] + added[i];
                meet(team, size);
            }
            for (int chunk = member; chunk < chunks; chunk += size)
                train_chunk(c, &me->work, &m, c->noise->weights ? noisy : p, chunk * CHUNK,
                            gradients + chunk * c->P, sums + SUMS * chunk);
            meet(team, size);
            if (!member) train_update(c, &m, chunks, gradients, sums);
            meet(team, size);
        }
    }
}

// A chunk of examples, gathered once, through the networks of all trials.
static void evaluate_worker(struct worker *me) {
    struct call *c = me->call;
    int64_t number, lengths[CHUNK];
    while ((number = atomic_fetch_add(&c->next, 1)) < c->chunks) {
        const int64_t first = number * c->batch;
        const int count = c->count - first < c->batch ? c->count - first : c->batch;
        const struct chunk chunk = begin(c, &me->work, c->order + first, count, lengths);
        for (int64_t k = 0; k < c->K; k++) {
            const float *p = c->parameters + k * c->P;
            double *sums = c->sums + (k * c->chunks + number) * SUMS;
            layers_forward(c->shape, &me->work, p, &chunk);
            answer(c->shape, c->examples, &me->work, p, &chunk, 0, sums, c->answers + k * c->count + first);
        }
    }
}

// The windows of so many streams of one text, one after the other, through the network of one trial.
static void evaluate_carried_worker(struct worker *me) {
    struct call *c = me->call;
    const struct shape *s = c->shape;
    const int64_t groups = (c->batch + CHUNK - 1) / CHUNK, windows = c->count / c->batch;
    const int64_t states = s->layers * s->directions * states_of(s) * c->batch;
    int64_t unit, lengths[CHUNK];
    while ((unit = atomic_fetch_add(&c->next, 1)) < groups * c->K) {
        const int64_t k = unit / groups, first = unit % groups * CHUNK;
        const float *p = c->parameters + k * c->P;
        for (int64_t n = 0; n < windows; n++) {
            const int64_t *index = c->order + n * c->batch + first;
            int count = c->batch - first < CHUNK ? c->batch - first : CHUNK;
            while (count && index[count - 1] < 0) count--;  // a stream that is shorter than the others
            if (!count) continue;
            struct chunk chunk = begin(c, &me->work, index, count, lengths);
            chunk.carried = rows_of(c->carried, k, states, first);
            chunk.fresh = c->fresh && !n;
            layers_forward(s, &me->work, p, &chunk);
            answer(s, c->examples, &me->work, p, &chunk, 0, c->sums + (k * c->chunks + n * groups + unit % groups) * SUMS, 0);
        }
    }
}

// A thread's own memory; 0 if there is none left.
static int equip(struct worker *me) {
    const struct shape *s = me->call->shape;
    const struct needs *needs = &me->call->needs;
    struct work *w = &me->work;
    me->memory[0] = w->levels = calloc(s->layers * s->directions, sizeof *w->levels);
    me->memory[1] = w->out = calloc(s->layers, sizeof *w->out);
    me->memory[2] = w->inputs = calloc(s->layers, sizeof *w->inputs);
    if (!w->levels || !w->out || !w->inputs) return 0;
    const size_t size = sizeof(float) * lay_out(s, needs, w, 0);
    if (posix_memalign(&me->memory[3], 64, size)) return me->memory[3] = 0, 0;
    lay_out(s, needs, w, me->memory[3]);
    return 1;
}

// Works with tiny numbers (below 1e-38) taken for 0, in this thread and for this long only: gradients
// that fade over the steps come down to them, and each would cost a hundred cycles.
static void work(struct worker *me) {
#if defined(__SSE__)
    const unsigned before = _mm_getcsr();
    _mm_setcsr(before | 0x8040);
#endif
    me->body(me);
#if defined(__SSE__)
    _mm_setcsr(before);
#endif
}

static void *start(void *argument) {
    struct worker *me = argument;
    int gate;
    while (!(gate = atomic_load(&me->call->gate))) sched_yield();
    if (gate > 0) work(me);
    return 0;
}

// Runs `body` in so many threads, this one among them. ENOMEM or EAGAIN: nothing was done.
static int run(struct call *call, int threads, void (*body)(struct worker *)) {
    struct worker *workers = calloc(threads, sizeof *workers);
    pthread_t *ids = calloc(threads, sizeof *ids);
    int error = workers && ids ? 0 : ENOMEM, started = 1;
    for (int i = 0; !error && i < threads; i++) {
        workers[i] = (struct worker){.call = call, .body = body, .number = i};
        if (!equip(&workers[i])) error = ENOMEM;
    }
    for (; !error && started < threads; started++)
        if ((error = pthread_create(&ids[started], 0, start, &workers[started]))) break;
    atomic_store(&call->gate, error ? -1 : 1);
    if (!error) work(&workers[0]);
    for (int i = 1; i < started; i++) pthread_join(ids[i], 0);
    for (int i = 0; workers && i < threads; i++)
        for (int m = 0; m < 4; m++) free(workers[i].memory[m]);
    free(workers), free(ids);
    return error;
}

// How many threads should share a trial, so that K trials that are taken by teams, block by block, end soonest:
// to wait for each other takes time, and a minibatch has only so many chunks.
static int choose_team(int64_t K, int threads, int64_t chunks, int64_t blocks) {
    int best = 1;
    double least = INFINITY;
    for (int size = 1; size <= threads && size <= chunks; size++) {
        const int64_t teams = threads / size < K ? threads / size : K;
        const double rounds = (double)((K * blocks + teams - 1) / teams) / blocks;
        const double shares = (chunks + size - 1) / size;  // chunks that the busiest member computes
        const double time = rounds * shares * (size > 1 ? 1.1 : 1);
        if (time < least) least = time, best = size;
    }
    return best;
}

// `count` examples of each trial in minibatches of `batch`; each is one update of the state, and adds to totals
// (K, 4): loss, right answers, gradient norm before clipping times the size of the minibatch, answers.
int NAMED(rnnbench_train, SET)(const struct shape *shape, const struct examples *examples,
                               const struct state *state, const struct noise *noise, const int64_t *order,
                               int64_t K, int64_t P, int64_t stride, int64_t count, int64_t batch, float *carried,
                               int fresh, double *totals, int threads) {
    struct call c = {.shape = shape, .examples = examples, .state = state, .noise = noise, .order = order, .K = K,
                     .P = P, .stride = stride, .count = count, .batch = batch, .carried = carried, .fresh = fresh,
                     .totals = totals};
    c.needs = (struct needs){padded(batch), 1, noise->dropout != 0, examples->lengths != 0, carried != 0,
                             examples->steps, examples->kind};
    c.chunks = (batch + CHUNK - 1) / CHUNK;
    c.block = (minibatches(&c) + BLOCKS - 1) / BLOCKS;
    c.team_size = choose_team(K, threads, c.chunks, (minibatches(&c) + c.block - 1) / c.block);
    const int64_t most = threads / c.team_size, teams = K < most ? K : most;
    c.teams = calloc(teams, sizeof *c.teams);
    c.gradients = malloc(sizeof(float) * teams * c.chunks * P);
    c.noisy = malloc(sizeof(float) * (noise->weights ? teams * P : 1));
    c.done = calloc(K, sizeof *c.done);
    c.taken = calloc(K, 1);
    pthread_mutex_init(&c.taking, 0);
    c.sums = malloc(sizeof(double) * teams * c.chunks * SUMS);
    const int enough = c.teams && c.gradients && c.noisy && c.done && c.taken && c.sums;
    for (int64_t i = 0; enough && i < teams; i++) c.teams[i].trial = -1;
    const int error = enough ? run(&c, teams * c.team_size, train_worker) : ENOMEM;
    free(c.teams), free(c.gradients), free(c.noisy), free(c.done), free(c.taken), free(c.sums);
    pthread_mutex_destroy(&c.taking);
    return error;
}

// Loss, right answers and answers of parameters (K, P) on `count` examples, summed into totals (K, 4), and each
// answer (K, count). `batch`: examples that are computed at once, at most CHUNK; where the state is carried,
// streams: order is (windows, batch) then, with -1 where a stream has no window.
int NAMED(rnnbench_evaluate, SET)(const struct shape *shape, const struct examples *examples,
                                  const float *parameters, const int64_t *order, int64_t K, int64_t P,
                                  int64_t count, int64_t batch, float *carried, int fresh, double *totals,
                                  int64_t *answers, int threads) {
    struct call c = {.shape = shape, .examples = examples, .parameters = parameters, .order = order, .K = K,
                     .P = P, .count = count, .batch = batch, .carried = carried, .fresh = fresh,
                     .answers = answers, .totals = totals};
    c.needs = (struct needs){padded(batch), 0, 0, examples->lengths != 0, carried != 0, examples->steps,
                             examples->kind};
    const int64_t groups = (batch + CHUNK - 1) / CHUNK, minibatches = (count + batch - 1) / batch;
    c.chunks = groups * minibatches;
    c.sums = calloc(K * c.chunks * SUMS + 1, sizeof(double));
    const int64_t units = carried ? groups * K : c.chunks, most = threads < units ? threads : units;
    const int error = c.sums ? run(&c, most ? most : 1, carried ? evaluate_carried_worker : evaluate_worker) : ENOMEM;
    for (int64_t k = 0; !error && k < K; k++)
        for (int64_t chunk = 0; chunk < c.chunks; chunk++) {
            const double *sums = c.sums + (k * c.chunks + chunk) * SUMS;
            c.totals[4 * k] += sums[0], c.totals[4 * k + 1] += sums[1], c.totals[4 * k + 3] += sums[2];
        }
    free(c.sums);
    return error;
}
