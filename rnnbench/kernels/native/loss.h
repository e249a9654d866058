// Cross entropy of logits (classes, N), whose first `count` columns are examples: adds their loss and
// the number of right answers to sums, writes each answer to `answers` unless that is 0. With `share`
// (1 / batch) the logits become the gradient of the mean loss, 0 in the columns after the examples.
static void cross_entropy(int classes, int N, int count, float *logits, const int64_t *targets,
                          const int64_t *index, float share, double sums[2], int64_t *answers) {
    float largest[CHUNK], total[CHUNK] = {0};
    int answer[CHUNK] = {0};
    memcpy(largest, logits, sizeof(float) * N);
    for (int c = 1; c < classes; c++)
        for (int j = 0; j < N; j++) {
            const float x = logits[c * N + j];
            answer[j] = x > largest[j] ? c : answer[j];
            largest[j] = x > largest[j] ? x : largest[j];
        }
    for (int c = 0; c < classes; c++)
        for (int j = 0; j < N; j += LANES)
            store(total + j, load(total + j) + vec_exp(load(logits + c * N + j) - load(largest + j)));
    for (int j = 0; j < count; j++) {
        const int64_t y = targets[index[j]];
        sums[0] += logf(total[j]) + largest[j] - logits[y * N + j];
        sums[1] += answer[j] == y;
        if (answers) answers[j] = answer[j];
    }
    if (!share) return;
    for (int j = 0; j < N; j++) total[j] = j < count ? share / total[j] : 0;
    for (int c = 0; c < classes; c++)
        for (int j = 0; j < N; j += LANES)
            store(logits + c * N + j,
                  vec_exp(load(logits + c * N + j) - load(largest + j)) * load(total + j));
    for (int j = 0; j < count; j++) logits[targets[index[j]] * N + j] -= share;
}
