/* Causal attention over short sequences, forward and backward, with Gemma 3's norm of queries and keys and its rotation.
 *
 * A position holds `heads` queries, `groups` keys and `groups` values of `d` floats. `query` and `key` are the norms'
 * weights, `stride` floats apart from model to model, or null for no norm; `cosine` and `sine` are length × d tables, or
 * null for no rotation. Inside, a head is kept feature by feature with its positions side by side, padded to whole
 * vectors, so that 16 positions are worked on at once. Scores are computed anew in the backward pass.
 */
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC optimize("O2", "tree-vectorize") /* at O3 the many sizes take a minute to compile and gain nothing */
#endif
#include "kernels.h"

typedef struct {
  int64_t models, batch, length, heads, groups, d, stride;
  float eps, scale;
  const float *query, *key, *cosine, *sine;
} Layout;

typedef struct {
  int64_t d, blocks; /* features, and vectors of positions */
} Size;

INLINE lanes inverse_root(lanes x) {
  float y[LANES];
  memcpy(y, &x, sizeof y);
  for (int l = 0; l < LANES; l++) y[l] = 1.0f / sqrtf(y[l]);
  memcpy(&x, y, sizeof y);
  return x;
}

INLINE lanes exponentials(lanes x) {
  float y[LANES];
  memcpy(y, &x, sizeof y);
  for (int l = 0; l < LANES; l++) y[l] = exponential(y[l]);
  memcpy(&x, y, sizeof y);
  return x;
}

INLINE lanes larger(lanes a, lanes b) {
  const marks first = a > b;
  return (lanes)((first & (marks)a) | (~first & (marks)b));
}

/* Read one head: out[feature * blocks + block], zero beyond the last position. */
INLINE void gather(Size n, int64_t length, const float *x, int64_t step, lanes *out) {
  float *to = (float *)out;
  memset(out, 0, sizeof(lanes) * n.d * n.blocks);
  for (int64_t i = 0; i < length; i++)
    for (int64_t c = 0; c < n.d; c++) to[c * n.blocks * LANES + i] = x[i * step + c];
}

INLINE void scatter(Size n, int64_t length, const lanes *in, float *x, int64_t step, int adds) {
  const float *from = (const float *)in;
  for (int64_t i = 0; i < length; i++)
    for (int64_t c = 0; c < n.d; c++)
      x[i * step + c] = from[c * n.blocks * LANES + i] + (adds ? x[i * step + c] : 0.0f);
}

INLINE lanes roots(const Layout *a, Size n, const lanes *x, int64_t block) {
  lanes square = {0};
  for (int64_t c = 0; c < n.d; c++) square += x[c * n.blocks + block] * x[c * n.blocks + block];
  return inverse_root(square / (float)n.d + a->eps);
}

/* Norm and rotate a gathered head in place. */
INLINE void turn(const Layout *a, Size n, const float *weight, const lanes *cosine, const lanes *sine, lanes *x) {
  const int64_t half = n.d / 2;
  for (int64_t b = 0; b < n.blocks; b++) {
    if (weight) {
      const lanes r = roots(a, n, x, b);
      for (int64_t c = 0; c < n.d; c++) x[c * n.blocks + b] *= r * (1.0f + weight[c]);
    }
    if (cosine)
      for (int64_t c = 0; c < half; c++) {
        const int64_t one = c * n.blocks + b, two = (c + half) * n.blocks + b;
        const lanes first = x[one], second = x[two];
        x[one] = first * cosine[one] - second * sine[one];
        x[two] = second * cosine[two] + first * sine[two];
      }
  }
}

/* The way back through `turn`, of gradient g in place; x is the head as gathered; dweight is added to. */
INLINE void turn_back(const Layout *a, Size n, const float *weight, const lanes *cosine, const lanes *sine,
                      const lanes *x, lanes *g, lanes *dweight) {
  const int64_t half = n.d / 2;
  for (int64_t b = 0; b < n.blocks; b++) {
    if (cosine)
      for (int64_t c = 0; c < half; c++) {
        const int64_t one = c * n.blocks + b, two = (c + half) * n.blocks + b;
        const lanes first = g[one], second = g[two];
        g[one] = first * cosine[one] + second * sine[two];
        g[two] = second * cosine[two] - first * sine[one];
      }
    if (!weight) continue;
    const lanes r = roots(a, n, x, b);
    lanes along = {0};
    for (int64_t c = 0; c < n.d; c++) {
      const int64_t at = c * n.blocks + b;
      dweight[c] += g[at] * x[at] * r;
      along += g[at] * (1.0f + weight[c]) * x[at];
    }
    along *= r * r / (float)n.d;
    for (int64_t c = 0; c < n.d; c++) {
      const int64_t at = c * n.blocks + b;
      g[at] = r * (g[at] * (1.0f + weight[c]) - x[at] * along);
    }
  }
}

/* What 16 queries give to each position j up to the last of them: p[j], queries side by side. */
INLINE void attend(Size n, float scale, const lanes *q, const float *k, int64_t block, int64_t seen, lanes *p) {
  marks position;
  for (int l = 0; l < LANES; l++) position[l] = (int32_t)(block * LANES + l);
  lanes top = {0}, sum = {0};
  for (int64_t j = 0; j < seen; j++) {
    lanes score = {0};
    for (int64_t c = 0; c < n.d; c++) score += q[c * n.blocks + block] * k[c * n.blocks * LANES + j];
    p[j] = score * scale;
    const marks hidden = position < (int32_t)j;
    top = j ? larger(top, (lanes)((~hidden & (marks)p[j]) | (hidden & (marks)top))) : p[0];
  }
  for (int64_t j = 0; j < seen; j++) {
    const marks hidden = position < (int32_t)j;
    p[j] = (lanes)(~hidden & (marks)exponentials(p[j] - top));
    sum += p[j];
  }
  for (int64_t j = 0; j < seen; j++) p[j] /= sum;
}

INLINE void mix(Size n, int64_t seen, const lanes *p, const float *value, int64_t block, lanes *out) {
  for (int64_t c = 0; c < n.d; c++) {
    lanes sum = {0};
    for (int64_t j = 0; j < seen; j++) sum += p[j] * value[c * n.blocks * LANES + j];
    out[c * n.blocks + block] = sum;
  }
}

/* Add what 16 queries send back to the positions before them: to[c][j] += Σ_i from[j][i] x[c][i]. */
INLINE void send_back(Size n, int64_t seen, const lanes *from, const lanes *x, int64_t block, lanes *to) {
  const int64_t width = (seen + LANES - 1) / LANES;
  float turned[LANES][n.blocks * LANES];
  for (int64_t j = 0; j < width * LANES; j++)
    for (int l = 0; l < LANES; l++) turned[l][j] = j < seen ? from[j][l] : 0.0f;
  for (int64_t c = 0; c < n.d; c++) {
    const float *xs = (const float *)(x + c * n.blocks + block);
    for (int64_t b = 0; b < width; b++) {
      lanes sum = to[c * n.blocks + b], row;
      for (int l = 0; l < LANES; l++) {
        memcpy(&row, turned[l] + b * LANES, sizeof row);
        sum += row * xs[l];
      }
      to[c * n.blocks + b] = sum;
    }
  }
}

INLINE int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

INLINE void forward_model(const Layout *a, Size n, int64_t k, const float *qkv, float *out) {
  const int64_t length = a->length, d = n.d, step = (a->heads + 2 * a->groups) * d, shared = a->heads / a->groups;
  lanes q[d * n.blocks], key[d * n.blocks], value[d * n.blocks], to[d * n.blocks], p[length];
  lanes cosine[d * n.blocks], sine[d * n.blocks];
  const lanes *turns = a->cosine ? cosine : 0;
  if (a->cosine) gather(n, length, a->cosine, d, cosine), gather(n, length, a->sine, d, sine);
  const float *wq = a->query ? a->query + k * a->stride : 0, *wk = a->key ? a->key + k * a->stride : 0;
  for (int64_t row = k * a->batch; row < (k + 1) * a->batch; row++)
    for (int64_t h = 0; h < a->heads; h++) {
      const float *x = qkv + row * length * step;
      const int64_t at_key = (a->heads + h / shared) * d, at_value = at_key + a->groups * d;
      gather(n, length, x + h * d, step, q);
      gather(n, length, x + at_key, step, key);
      gather(n, length, x + at_value, step, value);
      turn(a, n, wq, turns, sine, q);
      turn(a, n, wk, turns, sine, key);
      for (int64_t b = 0; b < n.blocks; b++) {
        const int64_t seen = smaller((b + 1) * LANES, length);
        attend(n, a->scale, q, (float *)key, b, seen, p);
        mix(n, seen, p, (float *)value, b, to);
      }
      scatter(n, length, to, out + (row * length * a->heads + h) * d, a->heads * d, 0);
    }
}

/* One head's backward pass: gradients of turned queries, turned keys and values. */
INLINE void backward_head(const Layout *a, Size n, const lanes *q, const lanes *key, const lanes *value, const lanes *g,
                          lanes *dq, lanes *dkey, lanes *dvalue) {
  lanes p[a->length], dp[a->length];
  for (int64_t b = 0; b < n.blocks; b++) {
    const int64_t seen = smaller((b + 1) * LANES, a->length);
    attend(n, a->scale, q, (const float *)key, b, seen, p);
    lanes mean = {0};
    for (int64_t j = 0; j < seen; j++) {
      lanes sum = {0};
      for (int64_t c = 0; c < n.d; c++) sum += g[c * n.blocks + b] * ((const float *)value)[c * n.blocks * LANES + j];
      dp[j] = sum;
      mean += p[j] * sum;
    }
    for (int64_t j = 0; j < seen; j++) dp[j] = p[j] * (dp[j] - mean) * a->scale;
    mix(n, seen, dp, (const float *)key, b, dq);
    send_back(n, seen, dp, q, b, dkey);
    send_back(n, seen, p, g, b, dvalue);
  }
}

INLINE void add_up(int64_t d, const lanes *from, float *to) {
  for (int64_t c = 0; c < d; c++) {
    to[c] = 0;
    for (int l = 0; l < LANES; l++) to[c] += from[c][l];
  }
}

INLINE void backward_model(const Layout *a, Size n, int64_t k, const float *dout, const float *qkv, float *dqkv,
                           float *dquery, float *dkey) {
  const int64_t length = a->length, d = n.d, step = (a->heads + 2 * a->groups) * d, shared = a->heads / a->groups;
  lanes q0[d * n.blocks], k0[d * n.blocks], q[d * n.blocks], key[d * n.blocks], value[d * n.blocks], g[d * n.blocks];
  lanes dq[d * n.blocks], dk[d * n.blocks], dv[d * n.blocks], cosine[d * n.blocks], sine[d * n.blocks];
  lanes dwq[d], dwk[d];
  const lanes *turns = a->cosine ? cosine : 0;
  if (a->cosine) gather(n, length, a->cosine, d, cosine), gather(n, length, a->sine, d, sine);
  const float *wq = a->query ? a->query + k * a->stride : 0, *wk = a->key ? a->key + k * a->stride : 0;
  memset(dwq, 0, sizeof dwq);
  memset(dwk, 0, sizeof dwk);
  for (int64_t row = k * a->batch; row < (k + 1) * a->batch; row++)
    for (int64_t h = 0; h < a->heads; h++) {
      const float *x = qkv + row * length * step;
      float *dx = dqkv + row * length * step;
      const int64_t at_key = (a->heads + h / shared) * d, at_value = at_key + a->groups * d;
      gather(n, length, x + h * d, step, q0);
      gather(n, length, x + at_key, step, k0);
      gather(n, length, x + at_value, step, value);
      gather(n, length, dout + (row * length * a->heads + h) * d, a->heads * d, g);
      memcpy(q, q0, sizeof q);
      memcpy(key, k0, sizeof key);
      turn(a, n, wq, turns, sine, q);
      turn(a, n, wk, turns, sine, key);
      memset(dk, 0, sizeof dk);
      memset(dv, 0, sizeof dv);
      backward_head(a, n, q, key, value, g, dq, dk, dv);
      turn_back(a, n, wq, turns, sine, q0, dq, dwq);
      turn_back(a, n, wk, turns, sine, k0, dk, dwk);
      scatter(n, length, dq, dx + h * d, step, 0);
      scatter(n, length, dk, dx + at_key, step, h % shared != 0);
      scatter(n, length, dv, dx + at_value, step, h % shared != 0);
    }
  add_up(d, dwq, dquery + k * d);
  add_up(d, dwk, dkey + k * d);
}

/* Compile for the heads that tiny models have, and for any other. */
#define FOR_SIZE(a, call)                                                                                              \
  {                                                                                                                    \
    const int64_t blocks = ((a)->length + LANES - 1) / LANES;                                                          \
    if ((a)->d == 8 && blocks == 1) { const Size n = {8, 1}; call; }                                                   \
    else if ((a)->d == 8) { const Size n = {8, blocks}; call; }                                                        \
    else if ((a)->d == 16) { const Size n = {16, blocks}; call; }                                                      \
    else { const Size n = {(a)->d, blocks}; call; }                                                                    \
  }

void attention_forward(const Layout *a, const float *qkv, float *out) {
  EACH_MODEL(a->models) FOR_SIZE(a, forward_model(a, n, k, qkv, out))
}

void attention_backward(const Layout *a, const float *dout, const float *qkv, float *dqkv, float *dquery, float *dkey) {
  EACH_MODEL(a->models) FOR_SIZE(a, backward_model(a, n, k, dout, qkv, dqkv, dquery, dkey))
}
