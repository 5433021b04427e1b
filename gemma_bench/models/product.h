/* A matrix of 4 or 8 bits as MLX packs it, w = code·scale + bias, and its products with float32 inputs. */
#include <stdint.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))

typedef struct {
  int64_t rows, columns, group, bits;
  const uint8_t *codes;            /* row by row; of two codes in a byte the first one is the lower half */
  const uint16_t *scales, *biases; /* bfloat16, a row's groups side by side */
} matrix;

INLINE float bfloat(uint16_t bits) {
  const union { uint32_t i; float f; } wide = {(uint32_t)bits << 16};
  return wide.f;
}

/* Write x·Wᵀ for `count` inputs of W's columns; an input's results lie side by side, the next one's `stride` floats on.
 * `room` holds 2 floats a column of every input. */
void product(int64_t threads, int64_t count, const matrix *w, const float *x, float *room, float *out, int64_t stride);
