/* One token through all layers of Gemma 3 in one call: what `Decoder.forward` does, less a launch for every operation.
 *
 * Legend: a layer's room is [2, key head, slot, width] in bfloat16, keys and then values (see `ring_cache`).
 */
#include "product.h"
#include <math.h>

#define PARTS 3     /* that a projection may have */
#define WIDTH 512   /* that a head may have */
#define SHARING 64  /* query heads that may read one key head */
#define CHUNK 64    /* columns of the values that a thread takes at a time */
#define EPSILON 1e-6f

typedef struct {
  int64_t count;
  matrix parts[PARTS];
} projection;

typedef struct {
  projection query_key_value, output, gate_up, down;
  const float *before, *after, *before_mlp, *after_mlp; /* 1 + the norms' weights */
  const float *query_key_norm;                          /* one for every query and key head */
  const float *frequencies;                             /* of the rotation, half a width */
  int64_t window;                                       /* 0 for a global layer */
} layer;

typedef struct {
  int64_t hidden, inner, width, query_count, key_count, layer_count;
  float scale;
  const layer *layers;
  const float *norm;
  projection head;
} model;

typedef struct {
  int64_t threads, position;
  float *x, *normed, *joined, *mixed, *product_room, *scores;
} run;

static void project(const run *now, const projection *w, const float *x, float *out) {
  for (int64_t p = 0; p < w->count; out += w->parts[p++].rows)
    product(now->threads, 1, &w->parts[p], x, now->product_room, out, 0);
}

/* Write x over its root mean square, times a weight. */
INLINE void norm(int64_t size, const float *x, const float *weight, float *out) {
  float squares = 0;
  for (int64_t c = 0; c < size; c++) squares += x[c] * x[c];
  const float inverse = 1 / sqrtf(squares / size + EPSILON);
  for (int64_t c = 0; c < size; c++) out[c] = x[c] * inverse * weight[c];
}

INLINE uint16_t rounded(float value) { /* to the nearest bfloat16, ties to even */
  union { float f; uint32_t i; } bits = {value};
  return (uint16_t)((bits.i + 0x7fff + (bits.i >> 16 & 1)) >> 16);
}

static void rotate(const model *m, const layer *l, int64_t position, float *heads) {
  const int64_t half = m->width / 2;
  for (int64_t c = 0; c < half; c++) {
    const float angle = position * l->frequencies[c], cosine = cosf(angle), sine = sinf(angle);
    for (int64_t h = 0; h < m->query_count + m->key_count; h++) {
      float *head = heads + h * m->width;
      const float low = head[c], high = head[half + c];
      head[c] = low * cosine - high * sine;
      head[half + c] = high * cosine + low * sine;
    }
  }
}

/* Weigh all tokens that a key head holds for each of its queries. */
static void score(const run *now, const model *m, const uint16_t *keys, int64_t seen, const float *queries,
                  float *scores) {
  const int64_t sharing = m->query_count / m->key_count;
#pragma omp parallel for schedule(static) num_threads(now->threads)
  for (int64_t t = 0; t < seen; t++) {
    float key[WIDTH];
    for (int64_t c = 0; c < m->width; c++) key[c] = bfloat(keys[t * m->width + c]);
    for (int64_t q = 0; q < sharing; q++) {
      float sum = 0;
      for (int64_t c = 0; c < m->width; c++) sum += queries[q * m->width + c] * key[c];
      scores[q * seen + t] = sum * m->scale;
    }
  }
  for (int64_t q = 0; q < sharing; q++, scores += seen) {
    float largest = scores[0], sum = 0;
    for (int64_t t = 1; t < seen; t++) largest = scores[t] > largest ? scores[t] : largest;
    for (int64_t t = 0; t < seen; t++) sum += scores[t] = expf(scores[t] - largest);
    for (int64_t t = 0; t < seen; t++) scores[t] /= sum;
  }
}

static void mix(const run *now, const model *m, const uint16_t *values, int64_t seen, const float *scores,
                float *out) {
  const int64_t sharing = m->query_count / m->key_count;
#pragma omp parallel for schedule(static) num_threads(now->threads)
  for (int64_t from = 0; from < m->width; from += CHUNK) {
    const int64_t size = from + CHUNK < m->width ? CHUNK : m->width - from;
    float sums[SHARING][CHUNK] = {0};
    for (int64_t t = 0; t < seen; t++)
      for (int64_t q = 0; q < sharing; q++)
        for (int64_t c = 0; c < size; c++)
          sums[q][c] += scores[q * seen + t] * bfloat(values[t * m->width + from + c]);
    for (int64_t q = 0; q < sharing; q++) memcpy(out + q * m->width + from, sums[q], size * sizeof(float));
  }
}

/* Keep this token's key and value, and write what the queries gather from all that the layer may see. */
static void attend(const run *now, const model *m, const layer *l, uint16_t *room, int64_t slots) {
  float *keys = now->joined + m->query_count * m->width, *values = keys + m->key_count * m->width;
  const int64_t width = m->width, sharing = m->query_count / m->key_count, position = now->position;
  const int64_t slot = l->window ? position % l->window : position;
  const int64_t seen = l->window && position >= l->window ? l->window : position + 1;
  for (int64_t h = 0; h < m->query_count + m->key_count; h++)
    norm(width, now->joined + h * width, l->query_key_norm + h * width, now->joined + h * width);
  rotate(m, l, position, now->joined);
  for (int64_t k = 0; k < m->key_count; k++) {
    uint16_t *kept_keys = room + k * slots * width, *kept_values = kept_keys + m->key_count * slots * width;
    for (int64_t c = 0; c < width; c++) kept_keys[slot * width + c] = rounded(keys[k * width + c]);
    for (int64_t c = 0; c < width; c++) kept_values[slot * width + c] = rounded(values[k * width + c]);
    score(now, m, kept_keys, seen, now->joined + k * sharing * width, now->scores);
    mix(now, m, kept_values, seen, now->scores, now->mixed + k * sharing * width);
  }
}

static void gate(const run *now, int64_t inner, float *joined) {
#pragma omp parallel for schedule(static) num_threads(now->threads)
  for (int64_t c = 0; c < inner; c++) {
    const float x = joined[c], bent = 0.79788456f * (x + 0.044715f * x * x * x);
    joined[c] = x / (1 + expf(-2 * bent)) * joined[inner + c]; /* ½(1 + tanh b) = 1 / (1 + e^−2b) */
  }
}

static void add(const run *now, const model *m, const float *weight, const float *x) {
  norm(m->hidden, x, weight, now->normed);
  for (int64_t c = 0; c < m->hidden; c++) now->x[c] += now->normed[c];
}

/* Read the scaled embedding `x` at a position, grow the rooms and write the logits. */
void step(const model *m, const run *now, uint16_t *const *rooms, const int64_t *slots, float *logits) {
  for (int64_t i = 0; i < m->layer_count; i++) {
    const layer *l = &m->layers[i];
    norm(m->hidden, now->x, l->before, now->normed);
    project(now, &l->query_key_value, now->normed, now->joined);
    attend(now, m, l, rooms[i], slots[i]);
    project(now, &l->output, now->mixed, now->joined);
    add(now, m, l->after, now->joined);
    norm(m->hidden, now->x, l->before_mlp, now->normed);
    project(now, &l->gate_up, now->normed, now->joined);
    gate(now, m->inner, now->joined);
    project(now, &l->down, now->joined, now->mixed);
    add(now, m, l->after_mlp, now->mixed);
  }
  norm(m->hidden, now->x, m->norm, now->normed);
  project(now, &m->head, now->normed, logits);
}
