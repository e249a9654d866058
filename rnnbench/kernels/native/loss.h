// What the head's answers cost. Each function adds loss and right answers of the columns that count to `sums`;
// in training, logits (outputs, N) become the gradient of the minibatch's mean loss. share (N): 1 / answers of
// the minibatch, 0 in the columns that do not count.

// y (N) classes, weight (N) by which their answers count; writes each answer to `answers` unless that is 0.
static void cross_entropy(int outputs, int N, float *logits, const int64_t *y, const float *weight,
                          const float *share, int train, double *sums, int64_t *answers) {
    float largest[CHUNK], right[CHUNK], total[CHUNK] = {0};
    int answer[CHUNK] = {0};
    memcpy(largest, logits, sizeof(float) * N);
    for (int c = 1; c < outputs; c++)
        for (int j = 0; j < N; j++) {
            const float x = logits[c * N + j];
            answer[j] = x > largest[j] ? c : answer[j];
            largest[j] = x > largest[j] ? x : largest[j];
        }
    for (int j = 0; j < N; j++) right[j] = share[j] ? logits[y[j] * N + j] : 0;
    for (int c = 0; c < outputs; c++)
        for (int j = 0; j < N; j += LANES) {
            const vec e = vec_exp(load(logits + c * N + j) - load(largest + j));
            store(logits + c * N + j, e);
            store(total + j, load(total + j) + e);
        }
    for (int j = 0; j < N; j++) {
        if (!share[j]) continue;
        sums[0] += weight[j] * (logf(total[j]) + largest[j] - right[j]);
        sums[1] += answer[j] == y[j];
        if (answers) answers[j] = answer[j];
    }
    if (!train) return;
    for (int j = 0; j < N; j++) total[j] = share[j] ? weight[j] * share[j] / total[j] : 0;
    for (int c = 0; c < outputs; c++)
        for (int j = 0; j < N; j += LANES) store(logits + c * N + j, load(logits + c * N + j) * load(total + j));
    for (int j = 0; j < N; j++)
        if (share[j]) logits[y[j] * N + j] -= weight[j] * share[j];
}

// y (outputs, N) numbers: squared error, mean over the outputs.
static void squared_error(int outputs, int N, float *logits, const float *y, const float *share, int train,
                          double *sums) {
    float total[CHUNK] = {0};
    for (int c = 0; c < outputs; c++)
        for (int j = 0; j < N; j++) {
            const float off = logits[c * N + j] - y[c * N + j];
            total[j] += off * off;
            if (train) logits[c * N + j] = share[j] ? 2 * off / outputs * share[j] : 0;
        }
    for (int j = 0; j < N; j++)
        if (share[j]) sums[0] += total[j] / outputs;
}

// y (outputs, N) keys, 0 or 1: binary cross entropy, summed over the keys. The loss of logit x is
// max(x, 0) - x y + log(1 + exp(-|x|)); the logarithms of 64 keys are taken together, of a product below 2^64.
static void key_entropy(int outputs, int N, float *logits, const float *y, const float *share, int train,
                        double *sums) {
    float total[CHUNK] = {0}, factor[CHUNK];
    for (int c = 0; c < outputs; c++) {
        if (c % 64 == 0)
            for (int j = 0; j < N; j++) factor[j] = 1;
        for (int j = 0; j < N; j += LANES) {
            const vec x = load(logits + c * N + j), target = load(y + c * N + j), positive = at_least(0, x);
            const vec small = vec_exp(x - 2 * positive), whole = 1 + small;  // exp(-|x|)
            store(total + j, load(total + j) + positive - x * target);
            store(factor + j, load(factor + j) * whole);
            // sigmoid(x) is 1 / whole where x is positive, else small / whole
            const vec above = truth(x > 0), below = small - above * small;
            if (train) store(logits + c * N + j, ((above + below) / whole - target) * load(share + j));
        }
        if (c % 64 == 63 || c == outputs - 1)
            for (int j = 0; j < N; j++) total[j] += share[j] ? logf(factor[j]) : 0;
    }
    for (int j = 0; j < N; j++)
        if (share[j]) sums[0] += total[j];
}
