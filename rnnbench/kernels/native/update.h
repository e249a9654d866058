// Optimisers: one step on a trial's row of parameters, by the formulas of rnnbench/config/optimisers.py.

enum { SGD, NESTEROV, ADAM, ADAMW, RMSPROP };

// Of one trial; doubles, since 1 - 0.999 is wrong by 5e-5 in float.
struct hyper {
    double lr, weight_decay, momentum, beta1, beta2, eps, alpha;
    double *step;  // updates made
};

static void sgd(long P, float *restrict p, float *restrict g, float *restrict velocity, const struct hyper *h,
                int nesterov) {
    const float lr = h->lr, decay = h->weight_decay, momentum = h->momentum;
    for (long i = 0; i < P; i++) {
        const float d = g[i] + decay * p[i], v = momentum * velocity[i] + d;
        velocity[i] = v;
        p[i] -= lr * (nesterov ? d + momentum * v : v);
    }
}

static void adam(long P, float *restrict p, float *restrict g, float *restrict mean, float *restrict square,
                 const struct hyper *h, int decoupled) {
    const double step = *h->step += 1;
    const float keep = decoupled ? 1 - h->lr * h->weight_decay : 1, decay = decoupled ? 0 : h->weight_decay;
    const float rest1 = 1 - h->beta1, beta2 = h->beta2, rest2 = 1 - h->beta2, eps = h->eps;
    const float scale = sqrt(1 - pow(h->beta2, step)), rate = h->lr / (1 - pow(h->beta1, step));
    for (long i = 0; i < P; i++) {
        const float now = keep * p[i], d = g[i] + decay * now;
        const float m = mean[i] + rest1 * (d - mean[i]), s = beta2 * square[i] + rest2 * (d * d);
        mean[i] = m, square[i] = s;
        p[i] = now - rate * m / (sqrtf(s) / scale + eps);
    }
}

static void rmsprop(long P, float *restrict p, float *restrict g, float *restrict square,
                    float *restrict velocity, const struct hyper *h) {
    const float lr = h->lr, decay = h->weight_decay, momentum = h->momentum, eps = h->eps;
    const float alpha = h->alpha, rest = 1 - h->alpha;
    for (long i = 0; i < P; i++) {
        const float d = g[i] + decay * p[i], s = alpha * square[i] + rest * (d * d);
        const float v = momentum * velocity[i] + d / (sqrtf(s) + eps);
        square[i] = s, velocity[i] = v;
        p[i] -= lr * v;
    }
}

static void update(int64_t kind, long P, float *p, float *g, float *memory[2], const struct hyper *h) {
    switch (kind) {
        case SGD: sgd(P, p, g, memory[0], h, 0); break;
        case NESTEROV: sgd(P, p, g, memory[0], h, 1); break;
        case ADAM: adam(P, p, g, memory[0], memory[1], h, 0); break;
        case ADAMW: adam(P, p, g, memory[0], memory[1], h, 1); break;
        case RMSPROP: rmsprop(P, p, g, memory[0], memory[1], h);
    }
}

// Scales g to a norm of at most `largest`, as torch.nn.utils.clip_grad_norm_; the norm before.
static double clip(long P, float *g, double largest) {
    double part[16] = {0}, sum = 0;
    for (long i = 0; i < P; i += 16)
        for (int j = 0; j < 16 && i + j < P; j++) part[j] += (double)g[i + j] * g[i + j];
    for (int j = 0; j < 16; j++) sum += part[j];
    const double norm = sqrt(sum), factor = largest / (norm + 1e-6);
    if (!(factor >= 1))  // nan as well
        for (long i = 0; i < P; i++) g[i] *= (float)factor;
    return norm;
}
