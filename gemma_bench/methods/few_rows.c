/* x·Wᵀ for a few rows x: a weight is read from memory once and meets them all, so that a row more costs arithmetic only.
 *
 * W is float32 or bfloat16, sums are float32, each taken in one order whatever the number of rows and of threads.
 */
#include <stdint.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))
#define WEIGHTS 4    /* rows of W that share the loads of x; so many rows of x share those of W: */
#ifdef __AVX512F__
#define LANES 16
#define MOST 6       /* twenty-four sums stay in thirty-two registers */
#else
#define LANES 8
#define MOST 3       /* twelve sums stay in sixteen registers */
#endif
#define SHARE 64     /* rows of W that a thread takes at a time */
#define AHEAD 20480  /* bytes: eight rows of arithmetic are too long for the processor to see what comes next */
#define LINE 32      /* bfloat16 weights that a cache line has */
#define LONGEST 8192 /* columns */

typedef float lanes __attribute__((vector_size(4 * LANES)));

INLINE lanes loaded(const float *from) {
  lanes values;
  memcpy(&values, from, sizeof values);
  return values;
}

INLINE float sum(lanes values) {
  float total = 0;
  for (int lane = 0; lane < LANES; lane++) total += values[lane];
  return total;
}

/* Multiply four rows of W with so many of x, perhaps while the next of W are fetched. */
INLINE void tile(int is_fetching, int rows, int64_t columns, const float *x, const float *weights, int64_t count,
                 float *out) {
  lanes sums[MOST][WEIGHTS] = {0};
  for (int64_t c = 0; c < columns; c += LANES)
#pragma GCC unroll 4
    for (int w = 0; w < WEIGHTS; w++) {
      const lanes weight = loaded(weights + w * columns + c);
      if (is_fetching) __builtin_prefetch((const char *)(weights + w * columns + c) + AHEAD);
#pragma GCC unroll 6
      for (int r = 0; r < rows; r++) sums[r][w] += weight * loaded(x + r * columns + c);
    }
  for (int r = 0; r < rows; r++)
    for (int w = 0; w < WEIGHTS; w++) out[r * count + w] = sum(sums[r][w]);
}

static void all_rows(int is_widened, int64_t rows, int64_t columns, const float *x, const float *weights, int64_t count,
                     float *out) {
  for (int64_t r = 0; r < rows;) {
    const int64_t left = rows - r, tiles = (left + MOST - 1) / MOST, now = (left + tiles - 1) / tiles;
    const int is_fetching = r == 0 && !is_widened;
    const float *here = x + r * columns;
    float *there = out + r * count;
    if (now == 1) tile(is_fetching, 1, columns, here, weights, count, there);
    if (now == 2) tile(is_fetching, 2, columns, here, weights, count, there);
    if (now == 3) tile(is_fetching, 3, columns, here, weights, count, there);
#if MOST > 3
    if (now == 4) tile(is_fetching, 4, columns, here, weights, count, there);
    if (now == 5) tile(is_fetching, 5, columns, here, weights, count, there);
    if (now == 6) tile(is_fetching, 6, columns, here, weights, count, there);
#endif
    r += now;
  }
}

INLINE const float *widened(const uint16_t *weights, int64_t size, float *into) {
  for (int64_t line = 0; line < size; line += LINE) {
    __builtin_prefetch((const char *)(weights + line) + AHEAD);
    for (int64_t i = line; i < line + LINE; i++) {
      const uint32_t bits = (uint32_t)weights[i] << 16;
      memcpy(into + i, &bits, sizeof bits);
    }
  }
  return into;
}

/* `out` is rows × count. Rows of W come in fours, columns in 16 and at most `LONGEST`. */
void few_rows(int64_t threads, int64_t rows, int64_t count, int64_t columns, int64_t is_bfloat, const float *x,
              const void *weights, float *out) {
#pragma omp parallel for schedule(static) num_threads(threads)
  for (int64_t first = 0; first < count; first += SHARE) {
    float wide[WEIGHTS * LONGEST];
    for (int64_t w = first; w < count && w < first + SHARE; w += WEIGHTS) {
      const int64_t size = WEIGHTS * columns;
      const float *here = is_bfloat ? widened((const uint16_t *)weights + w * columns, size, wide)
                                    : (const float *)weights + w * columns;
      all_rows(is_bfloat, rows, columns, x, here, count, out + w);
    }
  }
}
