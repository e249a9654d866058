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
#include "data.h"
#include "loss.h"
#include "update.h"

#define NAMED_(name, set) name##_##set
#define NAMED(name, set) NAMED_(name, set)

// These two, and `shape`, are laid out as in compiled.py.
struct examples {
    const uint8_t *inputs;   // (examples, T * input)
    const int64_t *targets;  // (examples)
    double scale, shift;     // a byte enters as byte * scale + shift
};

// The stack's rows, one a trial. What the optimiser does not have is 0.
struct state {
    int64_t optimiser;
    float *parameters, *memory[2];  // (K, P)
    double *step, *clip, *lr, *weight_decay, *momentum, *beta1, *beta2, *eps, *alpha;  // (K,)
};

// Threads that share a trial, and where they wait for each other.
struct team {
    atomic_int here, round;
    int64_t trial;
};

struct call {
    const struct shape *shape;
    const struct examples *examples;
    const struct state *state;
    const float *parameters;  // (K, P), of evaluate
    const int64_t *order;     // examples in the order of use: (K, stride) to train, (count) to evaluate
    int64_t K, P, stride, count, batch, chunks;
    const float *mask;  // dropout factors (K, layers - 1, T, width, batch), or 0
    int64_t *answers;   // (K, count)
    double *sums;       // loss and hits: (teams, chunks, 2) to train, (K, chunks, 2) to evaluate
    double *totals;     // (K, 3): loss, hits, gradient norm
    float *gradients;   // (teams, chunks, P)
    struct team *teams;
    int team_size, N;
    atomic_long next;  // the trial, or the chunk, that nobody has taken yet
    atomic_int gate;   // 1: all threads are there; -1: they are not
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
        if (spin < 2000) spin++;  // the others are mostly as good as here
        else sched_yield();
    }
}

// One chunk of a minibatch of trial k: its part of the gradient, of loss and hits.
static void train_chunk(const struct call *c, struct work *w, int64_t k, const int64_t *index, int batch,
                        int chunk, float *gradient, double *sums) {
    const struct shape *s = c->shape;
    const int first = chunk * CHUNK, count = batch - first < CHUNK ? batch - first : CHUNK, N = padded(count);
    const float *p = c->state->parameters + k * c->P;
    const long gap = s->steps * width_of(s) * batch;
    const float *mask = c->mask ? c->mask + k * (s->layers - 1) * gap : 0;
    sums[0] = sums[1] = 0;
    gather(c->examples->inputs, s->steps * s->input, index + first, count, N, c->examples->scale,
           c->examples->shift, w->inputs[0]);
    network_forward(s, w, p, N, 1, mask, gap, batch, first, count);
    cross_entropy(s->classes, N, count, w->logits, c->examples->targets, index + first, 1.0f / batch, sums, 0);
    network_backward(s, w, p, N, gradient, mask, gap, batch, first, count);
}

// The step that the chunks of a minibatch add up to.
static void train_update(const struct call *c, int64_t k, int batch, int chunks, float *gradient,
                         const double *sums) {
    const struct state *s = c->state;
    double *total = c->totals + 3 * k;
    for (int chunk = 0; chunk < chunks; chunk++) {
        total[0] += sums[2 * chunk];
        total[1] += sums[2 * chunk + 1];
        for (long i = 0; chunk && i < c->P; i++) gradient[i] += gradient[chunk * c->P + i];
    }
    total[2] += batch * clip(c->P, gradient, s->clip[k]);
#define OF(column) s->column ? s->column[k] : 0
    const struct hyper hyper = {OF(lr), OF(weight_decay), OF(momentum), OF(beta1), OF(beta2), OF(eps), OF(alpha),
                                &s->step[k]};
#undef OF
    float *memory[2] = {s->memory[0] + k * c->P, s->memory[1] ? s->memory[1] + k * c->P : 0};
    update(s->optimiser, c->P, s->parameters + k * c->P, gradient, memory, &hyper);
}

static void train_worker(struct worker *me) {
    struct call *c = me->call;
    const int size = c->team_size, number = me->number / size, member = me->number % size;
    struct team *team = &c->teams[number];
    float *gradients = c->gradients + number * c->chunks * c->P;
    double *sums = c->sums + number * c->chunks * 2;
    for (;;) {
        if (!member) team->trial = atomic_fetch_add(&c->next, 1);
        meet(team, size);
        const int64_t k = team->trial;
        if (k >= c->K) return;
        for (int64_t at = 0; at < c->count; at += c->batch) {
            const int batch = c->count - at < c->batch ? c->count - at : c->batch;
            const int chunks = (batch + CHUNK - 1) / CHUNK;
            for (int chunk = member; chunk < chunks; chunk += size)
                train_chunk(c, &me->work, k, c->order + k * c->stride + at, batch, chunk,
                            gradients + chunk * c->P, sums + 2 * chunk);
            meet(team, size);
            if (!member) train_update(c, k, batch, chunks, gradients, sums);
            meet(team, size);
        }
    }
}

// A chunk of examples, gathered once, through the networks of all trials.
static void evaluate_worker(struct worker *me) {
    struct call *c = me->call;
    const struct shape *s = c->shape;
    int64_t chunk;
    while ((chunk = atomic_fetch_add(&c->next, 1)) < c->chunks) {
        const int64_t first = chunk * CHUNK;
        const int count = c->count - first < CHUNK ? c->count - first : CHUNK, N = padded(count);
        gather(c->examples->inputs, s->steps * s->input, c->order + first, count, N, c->examples->scale,
               c->examples->shift, me->work.inputs[0]);
        for (int64_t k = 0; k < c->K; k++) {
            double *sums = c->sums + (k * c->chunks + chunk) * 2;
            sums[0] = sums[1] = 0;
            network_forward(s, &me->work, c->parameters + k * c->P, N, 0, 0, 0, 0, 0, count);
            cross_entropy(s->classes, N, count, me->work.logits, c->examples->targets, c->order + first, 0, sums,
                          c->answers + k * c->count + first);
        }
    }
}

// A thread's own memory for chunks of N columns; 0 if there is none left.
static int equip(struct worker *me, int train) {
    const struct shape *s = me->call->shape;
    const int dropout = me->call->mask != 0;
    struct work *w = &me->work;
    me->memory[0] = w->levels = calloc(s->layers * s->directions, sizeof *w->levels);
    me->memory[1] = w->out = calloc(s->layers, sizeof *w->out);
    me->memory[2] = w->inputs = calloc(s->layers, sizeof *w->inputs);
    if (!w->levels || !w->out || !w->inputs) return 0;
    const size_t size = sizeof(float) * lay_out(s, me->call->N, train, dropout, w, 0);
    if (posix_memalign(&me->memory[3], 64, size)) return me->memory[3] = 0, 0;
    lay_out(s, me->call->N, train, dropout, w, me->memory[3]);
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
static int run(struct call *call, int threads, int train, void (*body)(struct worker *)) {
    struct worker *workers = calloc(threads, sizeof *workers);
    pthread_t *ids = calloc(threads, sizeof *ids);
    int error = workers && ids ? 0 : ENOMEM, started = 1;
    for (int i = 0; !error && i < threads; i++) {
        workers[i] = (struct worker){.call = call, .body = body, .number = i};
        if (!equip(&workers[i], train)) error = ENOMEM;
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

// How many threads share a trial: whatever ends first when K trials are taken by teams, given that a
// meeting costs something and that a minibatch has only so many chunks.
static int choose_team(int64_t K, int threads, int64_t chunks) {
    int best = 1;
    double least = INFINITY;
    for (int size = 1; size <= threads && size <= chunks; size++) {
        const double rounds = (K + threads / size - 1) / (threads / size);
        const double shares = (chunks + size - 1) / size;  // chunks that the busiest member computes
        const double time = rounds * shares * (size > 1 ? 1.1 : 1);
        if (time < least) least = time, best = size;
    }
    return best;
}

// `count` examples of each trial in minibatches of `batch`; each is one update of the state, and adds
// to totals (K, 3): loss, hits, and gradient norm before clipping times the size of the minibatch.
int NAMED(rnnbench_train, SET)(const struct shape *shape, const struct examples *examples,
                               const struct state *state, const int64_t *order, int64_t K, int64_t P,
                               int64_t stride, int64_t count, int64_t batch, const float *mask, double *totals,
                               int threads) {
    struct call c = {.shape = shape, .examples = examples, .state = state, .order = order, .K = K, .P = P,
                     .stride = stride, .count = count, .batch = batch, .mask = mask, .totals = totals};
    c.N = padded(batch);
    c.chunks = (batch + CHUNK - 1) / CHUNK;
    c.team_size = choose_team(K, threads, c.chunks);
    const int64_t most = threads / c.team_size, teams = K < most ? K : most;
    c.teams = calloc(teams, sizeof *c.teams);
    c.gradients = malloc(sizeof(float) * teams * c.chunks * P);
    c.sums = malloc(sizeof(double) * teams * c.chunks * 2);
    const int enough = c.teams && c.gradients && c.sums;
    const int error = enough ? run(&c, teams * c.team_size, 1, train_worker) : ENOMEM;
    free(c.teams), free(c.gradients), free(c.sums);
    return error;
}

// Loss and hits of parameters (K, P) on `count` examples, summed into totals (K, 3), and the answers
// (K, count).
int NAMED(rnnbench_evaluate, SET)(const struct shape *shape, const struct examples *examples,
                                  const float *parameters, const int64_t *order, int64_t K, int64_t P,
                                  int64_t count, double *totals, int64_t *answers, int threads) {
    struct call c = {.shape = shape, .examples = examples, .parameters = parameters, .order = order, .K = K,
                     .P = P, .count = count, .answers = answers, .totals = totals};
    c.N = padded(count);
    c.chunks = (count + CHUNK - 1) / CHUNK;
    c.sums = calloc(K * c.chunks * 2 + 1, sizeof(double));
    const int most = threads < c.chunks ? threads : c.chunks;
    const int error = c.sums ? run(&c, most ? most : 1, 0, evaluate_worker) : ENOMEM;
    for (int64_t i = 0; !error && i < K * c.chunks * 2; i++)
        totals[i / (c.chunks * 2) * 3 + i % 2] += c.sums[i];
    free(c.sums);
    return error;
}
