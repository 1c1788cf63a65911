/* Stands in for mlx-c's half.h, which gives these types on ARM only; mlx-rs names them everywhere.
   They cross the C interface only behind pointers and as 16 bits. */
#ifndef MLX_HALF_H
#define MLX_HALF_H

#include <stdint.h>

#define HAS_FLOAT16
#define HAS_BFLOAT16

typedef struct {
  uint16_t bits;
} float16_t;
typedef uint16_t bfloat16_t;

#endif
