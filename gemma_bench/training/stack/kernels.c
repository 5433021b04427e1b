/* The parts of a stack of tiny transformers that cost more in launching than in arithmetic, forward and backward.
 *
 * Every array is float32 and contiguous, except that what belongs to one model (a norm's weight) starts `stride` floats
 * after the last model's. Gradients of weights are added up over a model's rows in the order of the rows: the same
 * input gives the same bits. Products of matrices are not here: the BLAS does them.
 */
#include "kernels.h"

/* Gemma's RMSNorm, x / rms(x) * (1 + weight); `residual`, where there is one, is added. */
INLINE void rms_rows(int64_t rows, int64_t d, float eps, const float *restrict x, const float *restrict w,
                     const float *restrict residual, float *restrict inverse, float *restrict out) {
  for (int64_t row = 0; row < rows; row++, x += d, out += d) {
    float square = 0;
    for (int64_t c = 0; c < d; c++) square += x[c] * x[c];
    const float r = inverse[row] = 1.0f / sqrtf(square / d + eps);
    if (residual)
      for (int64_t c = 0; c < d; c++) out[c] = residual[row * d + c] + x[c] * r * (1.0f + w[c]);
    else
      for (int64_t c = 0; c < d; c++) out[c] = x[c] * r * (1.0f + w[c]);
  }
}

void rms_forward(int64_t models, int64_t rows, int64_t width, int64_t stride, float eps, const float *x,
                 const float *weight, const float *residual, float *inverse, float *out) {
  EACH_MODEL(models) {
    const int64_t at = k * rows * width;
    FOR_WIDTH(width, rms_rows(rows, d, eps, x + at, weight + k * stride, residual ? residual + at : 0,
                              inverse + k * rows, out + at))
  }
}

INLINE void rms_rows_back(int64_t rows, int64_t d, const float *restrict g, const float *restrict x,
                          const float *restrict w, const float *restrict inverse, float *restrict dx,
                          float *restrict dw) {
  float sum[d];
  memset(sum, 0, sizeof(float) * d);
  for (int64_t row = 0; row < rows; row++, x += d, g += d, dx += d) {
    const float r = inverse[row];
    float along = 0;
    for (int64_t c = 0; c < d; c++) {
      sum[c] += g[c] * x[c] * r;
      along += g[c] * (1.0f + w[c]) * x[c];
    }
    along *= r * r / d;
    for (int64_t c = 0; c < d; c++) dx[c] = r * (g[c] * (1.0f + w[c]) - x[c] * along);
  }
  memcpy(dw, sum, sizeof(float) * d);
}

void rms_backward(int64_t models, int64_t rows, int64_t width, int64_t stride, const float *dout, const float *x,
                  const float *weight, const float *inverse, float *dx, float *dweight) {
  EACH_MODEL(models) {
    const int64_t at = k * rows * width;
    FOR_WIDTH(width, rms_rows_back(rows, d, dout + at, x + at, weight + k * stride, inverse + k * rows, dx + at,
                                   dweight + k * width))
  }
}

/* LayerNorm, (x - mean) / deviation * weight + bias. */
INLINE void layer_norm_rows(int64_t rows, int64_t d, float eps, const float *restrict x, const float *restrict w,
                            const float *restrict b, float *restrict mean, float *restrict inverse,
                            float *restrict out) {
  for (int64_t row = 0; row < rows; row++, x += d, out += d) {
    float sum = 0, square = 0;
    for (int64_t c = 0; c < d; c++) sum += x[c];
    const float m = mean[row] = sum / d;
    for (int64_t c = 0; c < d; c++) square += (x[c] - m) * (x[c] - m);
    const float r = inverse[row] = 1.0f / sqrtf(square / d + eps);
    for (int64_t c = 0; c < d; c++) out[c] = (x[c] - m) * r * w[c] + b[c];
  }
}

void layer_norm_forward(int64_t models, int64_t rows, int64_t width, int64_t stride, float eps, const float *x,
                        const float *weight, const float *bias, float *mean, float *inverse, float *out) {
  EACH_MODEL(models) {
    const int64_t at = k * rows * width;
    FOR_WIDTH(width, layer_norm_rows(rows, d, eps, x + at, weight + k * stride, bias + k * stride, mean + k * rows,
                                     inverse + k * rows, out + at))
  }
}

INLINE void layer_norm_rows_back(int64_t rows, int64_t d, const float *restrict g, const float *restrict x,
                                 const float *restrict w, const float *restrict mean, const float *restrict inverse,
                                 float *restrict dx, float *restrict dw, float *restrict db) {
  float turned[d], shifted[d];
  memset(turned, 0, sizeof(float) * d);
  memset(shifted, 0, sizeof(float) * d);
  for (int64_t row = 0; row < rows; row++, x += d, g += d, dx += d) {
    const float m = mean[row], r = inverse[row];
    float level = 0, along = 0;
    for (int64_t c = 0; c < d; c++) {
      turned[c] += g[c] * (x[c] - m) * r;
      shifted[c] += g[c];
      level += g[c] * w[c];
      along += g[c] * w[c] * (x[c] - m);
    }
    level /= d;
    along *= r * r / d;
    for (int64_t c = 0; c < d; c++) dx[c] = r * (g[c] * w[c] - level - (x[c] - m) * along);
  }
  memcpy(dw, turned, sizeof(float) * d);
  memcpy(db, shifted, sizeof(float) * d);
}

void layer_norm_backward(int64_t models, int64_t rows, int64_t width, int64_t stride, const float *dout, const float *x,
                         const float *weight, const float *mean, const float *inverse, float *dx, float *dweight,
                         float *dbias) {
  EACH_MODEL(models) {
    const int64_t at = k * rows * width;
    FOR_WIDTH(width, layer_norm_rows_back(rows, d, dout + at, x + at, weight + k * stride, mean + k * rows,
                                          inverse + k * rows, dx + at, dweight + k * width, dbias + k * width))
  }
}

/* gelu(gate) * up, where a row holds `d` gates and, if `gated`, `d` ups after them. GELU in its tanh form. */
void gelu_forward(int64_t rows, int64_t d, int64_t gated, const float *x, float *out) {
  const int64_t width = gated ? 2 * d : d;
  for (int64_t row = 0; row < rows; row++) {
    const float *restrict in = x + row * width;
    float *restrict to = out + row * d;
    for (int64_t c = 0; c < d; c++) {
      const float g = in[c], t = 1.59576912f * (g + 0.044715f * g * g * g);
      to[c] = g / (1.0f + exponential(-t));
    }
    if (gated)
      for (int64_t c = 0; c < d; c++) to[c] *= in[d + c];
  }
}

void gelu_backward(int64_t rows, int64_t d, int64_t gated, const float *dout, const float *x, float *dx) {
  const int64_t width = gated ? 2 * d : d;
  for (int64_t row = 0; row < rows; row++) {
    const float *restrict in = x + row * width, *restrict g = dout + row * d;
    float *restrict to = dx + row * width;
    for (int64_t c = 0; c < d; c++) {
      const float v = in[c], t = 1.59576912f * (v + 0.044715f * v * v * v);
      const float s = 1.0f / (1.0f + exponential(-t));
      const float slope = s + v * s * (1.0f - s) * 1.59576912f * (1.0f + 0.134145f * v * v);
      const float up = gated ? in[d + c] : 1.0f;
      if (gated) to[d + c] = g[c] * v * s;
      to[c] = g[c] * up * slope;
    }
  }
}

/* Embedding rows, scaled; and what flows back into them. */
void embed_forward(int64_t models, int64_t rows, int64_t d, int64_t stride, float scale, const int64_t *tokens,
                   const float *table, float *out) {
  EACH_MODEL(models) for (int64_t row = k * rows; row < (k + 1) * rows; row++) {
    const float *from = table + k * stride + tokens[row] * d;
    for (int64_t c = 0; c < d; c++) out[row * d + c] = scale * from[c];
  }
}

void embed_backward(int64_t models, int64_t rows, int64_t d, int64_t symbols, float scale, const int64_t *tokens,
                    const float *dout, float *dtable) {
  EACH_MODEL(models) {
    memset(dtable + k * symbols * d, 0, sizeof(float) * symbols * d);
    for (int64_t row = k * rows; row < (k + 1) * rows; row++) {
      float *to = dtable + (k * symbols + tokens[row]) * d;
      for (int64_t c = 0; c < d; c++) to[c] += scale * dout[row * d + c];
    }
  }
}

/* The largest of some numbers, in lanes: compilers vectorise these, but not one running maximum, for the sake of NaN. */
INLINE float largest(int64_t count, const float *restrict z) {
  float tops[LANES], top = z[0];
  for (int lane = 0; lane < LANES; lane++) tops[lane] = z[0];
  const int64_t even = count - count % LANES;
  for (int64_t c = 0; c < even; c += LANES)
    for (int lane = 0; lane < LANES; lane++) tops[lane] = z[c + lane] > tops[lane] ? z[c + lane] : tops[lane];
  for (int lane = 0; lane < LANES; lane++) top = tops[lane] > top ? tops[lane] : top;
  for (int64_t c = even; c < count; c++) top = z[c] > top ? z[c] : top;
  return top;
}

/* Turn logits into their gradient, in place, where a row's loss counts `share`; and return each row's loss in nats. */
void cross_entropy(int64_t models, int64_t rows, int64_t symbols, float share, const int64_t *targets, float *logits,
                   float *loss) {
  EACH_MODEL(models) for (int64_t row = k * rows; row < (k + 1) * rows; row++) {
    float *restrict z = logits + row * symbols, sum = 0;
    const float top = largest(symbols, z);
    const float right = z[targets[row]] - top;
    for (int64_t c = 0; c < symbols; c++) sum += z[c] = exponential(z[c] - top);
    loss[row] = logf(sum) - right;
    const float scale = share / sum;
    for (int64_t c = 0; c < symbols; c++) z[c] *= scale;
    z[targets[row]] -= share;
  }
}

/* One step of AdamW: `rate` and `root` hold, per model, rate / (1 - beta1^t) and 1 / sqrt(1 - beta2^t). */
void adamw(int64_t models, int64_t size, float beta1, float beta2, float eps, const float *rate, const float *root,
           const float *restrict gradient, float *restrict weights, float *restrict first,
           float *restrict second) {
  EACH_MODEL(models) for (int64_t i = k * size; i < (k + 1) * size; i++) {
    const float g = gradient[i];
    first[i] = beta1 * first[i] + (1.0f - beta1) * g;
    second[i] = beta2 * second[i] + (1.0f - beta2) * g * g;
    weights[i] -= rate[k] * first[i] / (sqrtf(second[i]) * root[k] + eps);
  }
}
