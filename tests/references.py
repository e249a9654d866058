"""Every cell as slow and as literal as its paper: one example, one step after the other, float64, numpy.

A reference takes the weights of one trial by name, x (T, input) and gives h (T, hidden). The first gate's
rows stand first in weight_ih, as the cell's docstring says.
"""

import numpy as np
from scipy.signal import cont2discrete


def s(a):
    return 1 / (1 + np.exp(-a))


def blocks(w, name, H):
    """A weight's rows, gate by gate."""
    return [w[name][k : k + H] for k in range(0, len(w[name]), H)]


def lstm(w, x, H):
    W, R = blocks(w, "weight_ih", H), blocks(w, "weight_hh", H)
    b = [p + q for p, q in zip(blocks(w, "bias_ih", H), blocks(w, "bias_hh", H), strict=True)]
    h, c, out = np.zeros(H), np.zeros(H), []
    for x_t in x:
        i, f, g, o = (W[k] @ x_t + R[k] @ h + b[k] for k in range(4))
        c = s(f) * c + s(i) * np.tanh(g)
        h = s(o) * np.tanh(c)
        out.append(h)
    return np.array(out)


def gru(w, x, H):
    W, R = blocks(w, "weight_ih", H), blocks(w, "weight_hh", H)
    b, c = blocks(w, "bias_ih", H), blocks(w, "bias_hh", H)
    h, out = np.zeros(H), []
    for x_t in x:
        r = s(W[0] @ x_t + b[0] + R[0] @ h + c[0])
        z = s(W[1] @ x_t + b[1] + R[1] @ h + c[1])
        n = np.tanh(W[2] @ x_t + b[2] + r * (R[2] @ h + c[2]))
        h = (1 - z) * n + z * h
        out.append(h)
    return np.array(out)


def rnn(w, x, H, activation=np.tanh):
    h, out = np.zeros(H), []
    for x_t in x:
        h = activation(w["weight_ih"] @ x_t + w["bias_ih"] + w["weight_hh"] @ h + w["bias_hh"])
        out.append(h)
    return np.array(out)


def irnn(w, x, H):
    return rnn(w, x, H, lambda a: np.maximum(a, 0))


def gru_v1(w, x, H):
    (W_r, W_z, W_n), (R_r, R_z, R_n) = blocks(w, "weight_ih", H), blocks(w, "weight_hh", H)
    b_r, b_z, b_n = blocks(w, "bias", H)
    h, out = np.zeros(H), []
    for x_t in x:
        r = s(W_r @ x_t + R_r @ h + b_r)
        z = s(W_z @ x_t + R_z @ h + b_z)
        n = np.tanh(W_n @ x_t + R_n @ (r * h) + b_n)
        h = (1 - z) * h + z * n
        out.append(h)
    return np.array(out)


def greff(w, x, H, order, peepholes, activate=np.tanh, squash=np.tanh, coupled=False, full=False):
    """Vanilla and its variants; a gate that is not in `order` is 1, or 1 - i where coupled."""
    W, R, b = (
        dict(zip(order, blocks(w, name, H), strict=True)) for name in ("weight_ih", "weight_hh", "bias")
    )
    p = dict(zip(peepholes, blocks(w, "peephole", H), strict=True))
    y, c, out = np.zeros(H), np.zeros(H), []
    gates = {name: np.zeros(H) for name in "ifo"}
    if full:
        G = {(to, of): w["weight_gates"][j * H : (j + 1) * H, k * H : (k + 1) * H]
             for j, to in enumerate("ifo") for k, of in enumerate("ifo")}  # fmt: skip

    def gate(name, x_t, cell):
        if name not in order:
            return np.ones(H)
        a = W[name] @ x_t + R[name] @ y + p[name] * cell + b[name]
        if full:
            a = a + sum(G[name, of] @ gates[of] for of in "ifo")
        return s(a)

    for x_t in x:
        z = activate(W["z"] @ x_t + R["z"] @ y + b["z"])
        i = gate("i", x_t, c)
        f = 1 - i if coupled else gate("f", x_t, c)
        c = z * i + c * f
        o = gate("o", x_t, c)
        y = squash(c) * o
        gates = {"i": i, "f": f, "o": o}
        out.append(y)
    return np.array(out)


def same(a):
    return a


def mut(w, x, H, number):
    h, out = np.zeros(H), []
    if number == 1:
        (W_z, W_r, P), (R_r, R_n) = blocks(w, "weight_ih", H), blocks(w, "weight_hh", H)
        b_z, b_r = blocks(w, "bias", H)
        b_n = w["bias_n"]
    elif number == 2:
        (W_z, P, W_n), (R_z, R_r, R_n) = blocks(w, "weight_ih", H), blocks(w, "weight_hh", H)
        b_z, b_r, b_n = blocks(w, "bias", H)
    else:
        (W_z, W_r, W_n), (R_z, R_r, R_n) = blocks(w, "weight_ih", H), blocks(w, "weight_hh", H)
        b_z, b_r, b_n = blocks(w, "bias", H)
    for x_t in x:
        if number == 1:
            z = s(W_z @ x_t + b_z)
            r = s(W_r @ x_t + R_r @ h + b_r)
            n = np.tanh(R_n @ (r * h) + np.tanh(P @ x_t) + b_n)
        elif number == 2:
            z = s(W_z @ x_t + R_z @ h + b_z)
            r = s(P @ x_t + R_r @ h + b_r)
            n = np.tanh(R_n @ (r * h) + W_n @ x_t + b_n)
        else:
            z = s(W_z @ x_t + R_z @ np.tanh(h) + b_z)
            r = s(W_r @ x_t + R_r @ h + b_r)
            n = np.tanh(R_n @ (r * h) + W_n @ x_t + b_n)
        h = n * z + h * (1 - z)
        out.append(h)
    return np.array(out)


def mgu(w, x, H):
    (W_f, W_n), (R_f, R_n), (b_f, b_n) = (blocks(w, name, H) for name in ("weight_ih", "weight_hh", "bias"))
    h, out = np.zeros(H), []
    for x_t in x:
        f = s(W_f @ x_t + R_f @ h + b_f)
        n = np.tanh(W_n @ x_t + R_n @ (f * h) + b_n)
        h = (1 - f) * h + f * n
        out.append(h)
    return np.array(out)


def janet(w, x, H):
    (W_f, W_n), (R_f, R_n), (b_f, b_n) = (blocks(w, name, H) for name in ("weight_ih", "weight_hh", "bias"))
    h, out = np.zeros(H), []
    for x_t in x:
        q = W_f @ x_t + R_f @ h + b_f
        n = np.tanh(W_n @ x_t + R_n @ h + b_n)
        h = s(q) * h + (1 - s(q - 1)) * n
        out.append(h)
    return np.array(out)


def g(a):
    return np.where(a >= 0, a + 0.5, s(a))


def mingru(w, x, H, candidate=same):
    (W_z, W_n), (b_z, b_n) = blocks(w, "weight_ih", H), blocks(w, "bias", H)
    h, out = np.zeros(H), []
    for x_t in x:
        z = s(W_z @ x_t + b_z)
        h = (1 - z) * h + z * candidate(W_n @ x_t + b_n)
        out.append(h)
    return np.array(out)


def minlstm(w, x, H, candidate=same, normalised=False):
    (W_f, W_i, W_n), (b_f, b_i, b_n) = blocks(w, "weight_ih", H), blocks(w, "bias", H)
    h, out = np.zeros(H), []
    for x_t in x:
        f, i = s(W_f @ x_t + b_f), s(W_i @ x_t + b_i)
        if normalised:
            f, i = f / (f + i), i / (f + i)
        h = f * h + i * candidate(W_n @ x_t + b_n)
        out.append(h)
    return np.array(out)


def slstm(w, x, H):
    """As the paper's equations stand, without a stabiliser: gates are small numbers in the tests."""
    W, R, b = (blocks(w, name, H) for name in ("weight_ih", "weight_hh", "bias"))
    h, c, n, out = np.zeros(H), np.zeros(H), np.zeros(H), []
    for x_t in x:
        z, i, f, o = (W[k] @ x_t + R[k] @ h + b[k] for k in range(4))
        c = s(f) * c + np.exp(i) * np.tanh(z)
        n = s(f) * n + np.exp(i)
        h = s(o) * c / n
        out.append(h)
    return np.array(out)


def indrnn(w, x, H):
    h, out = np.zeros(H), []
    for x_t in x:
        h = np.maximum(w["weight_ih"] @ x_t + w["u"] * h + w["bias"], 0)
        out.append(h)
    return np.array(out)


def ligru(w, x, H):
    (W_z, W_n), (R_z, R_n), (b_z, b_n) = (blocks(w, name, H) for name in ("weight_ih", "weight_hh", "bias"))
    h, out = np.zeros(H), []
    for x_t in x:
        z = s(W_z @ x_t + R_z @ h + b_z)
        h = z * h + (1 - z) * np.maximum(W_n @ x_t + R_n @ h + b_n, 0)
        out.append(h)
    return np.array(out)


def ugrnn(w, x, H):
    (W_n, W_g), (R_n, R_g), (b_n, b_g) = (blocks(w, name, H) for name in ("weight_ih", "weight_hh", "bias"))
    h, out = np.zeros(H), []
    for x_t in x:
        g = s(W_g @ x_t + R_g @ h + b_g)
        h = g * h + (1 - g) * np.tanh(W_n @ x_t + R_n @ h + b_n)
        out.append(h)
    return np.array(out)


def intersection(w, x, H):
    (*W, P), R, b = (blocks(w, name, H) for name in ("weight_ih", "weight_hh", "bias"))
    h, out = np.zeros(H), []
    for x_t in x:
        u, n, p, g = (W[k] @ x_t + R[k] @ h + b[k] for k in range(4))
        h = s(g) * h + (1 - s(g)) * np.tanh(n)
        out.append(s(p) * (P @ x_t) + (1 - s(p)) * np.maximum(u, 0))
    return np.array(out)


def lem(w, x, H, dt=1.0):
    W, R, b = (blocks(w, name, H) for name in ("weight_ih", "weight_hh", "bias"))
    y, z, out = np.zeros(H), np.zeros(H), []
    for x_t in x:
        d, e = (dt * s(W[k] @ x_t + R[k] @ y + b[k]) for k in (0, 1))
        z = (1 - d) * z + d * np.tanh(W[2] @ x_t + R[2] @ y + b[2])
        y = (1 - e) * y + e * np.tanh(W[3] @ x_t + w["weight_z"] @ z + b[3])
        out.append(y)
    return np.array(out)


def rglru(w, x, H):
    (W_r, W_i, W_v), (b_r, b_i, b_v) = blocks(w, "weight_ih", H), blocks(w, "bias", H)
    h, out = np.zeros(H), []
    for x_t in x:
        a = s(w["decay"]) ** (8 * s(W_r @ x_t + b_r))
        h = a * h + np.sqrt(1 - a**2) * s(W_i @ x_t + b_i) * (W_v @ x_t + b_v)
        out.append(h)
    return np.array(out)


def lru(w, x, H):
    B_re, B_im, D = blocks(w, "weight_ih", H)
    C = w["weight_c"][:, :H] - 1j * w["weight_c"][:, H:]
    decay = np.exp(-np.exp(w["nu"]) + 1j * np.exp(w["theta"]))
    z, out = np.zeros(H, complex), []
    for x_t in x:
        z = decay * z + np.exp(w["gamma"]) * ((B_re + 1j * B_im) @ x_t)
        out.append((C @ z).real + D @ x_t + w["bias"])
    return np.array(out)


def cornn(w, x, H, dt=0.042, gamma=2.7, epsilon=4.7):
    y, z, out = np.zeros(H), np.zeros(H), []
    for x_t in x:
        force = np.tanh(w["weight_ih"] @ x_t + w["weight_hh"] @ y + w["weight_z"] @ z + w["bias"])
        z = z + dt * force - dt * gamma * y - dt * epsilon * z
        y = y + dt * z
        out.append(y)
    return np.array(out)


def lmu(w, x, H, theta=None):
    """Its matrices are made and discretised with scipy, as the authors' code has them."""
    order = len(w["encoder_m"])
    Q = np.arange(order)
    R = (2 * Q + 1)[:, None] / (theta or order)
    j, i = np.meshgrid(Q, Q)
    system = np.where(i < j, -1, (-1.0) ** (i - j + 1)) * R, (-1.0) ** Q[:, None] * R
    A, B, *_ = cont2discrete((*system, np.ones((1, order)), np.zeros((1, 1))), dt=1.0, method="zoh")
    h, m, out = np.zeros(H), np.zeros(order), []
    for x_t in x:
        u = w["encoder_x"] @ x_t + w["encoder_h"] @ h + w["encoder_m"] @ m
        m = A @ m + B @ u
        h = np.tanh(w["weight_ih"] @ x_t + w["weight_hh"] @ h + w["weight_m"] @ m)
        out.append(h)
    return np.array(out)


REFERENCES = {
    "lstm": lstm,
    "gru": gru,
    "rnn": rnn,
    "irnn": irnn,
    "gru_v1": gru_v1,
    "lstm_peephole": lambda w, x, H: greff(w, x, H, "zifo", "ifo"),
    "nig": lambda w, x, H: greff(w, x, H, "zfo", "fo"),
    "nfg": lambda w, x, H: greff(w, x, H, "zio", "io"),
    "nog": lambda w, x, H: greff(w, x, H, "zif", "if"),
    "niaf": lambda w, x, H: greff(w, x, H, "zifo", "ifo", activate=same),
    "noaf": lambda w, x, H: greff(w, x, H, "zifo", "ifo", squash=same),
    "cifg": lambda w, x, H: greff(w, x, H, "zio", "io", coupled=True),
    "fgr": lambda w, x, H: greff(w, x, H, "zifo", "ifo", full=True),
    "mut1": lambda w, x, H: mut(w, x, H, 1),
    "mut2": lambda w, x, H: mut(w, x, H, 2),
    "mut3": lambda w, x, H: mut(w, x, H, 3),
    "mgu": mgu,
    "janet": janet,
    "mingru": mingru,
    "minlstm": minlstm,
    "slstm": slstm,
    "indrnn": indrnn,
    "ligru": ligru,
    "ugrnn": ugrnn,
    "intersection": intersection,
    "lem": lem,
    "cornn": cornn,
    "rglru": rglru,
    "lru": lru,
    "lmu": lmu,
}
