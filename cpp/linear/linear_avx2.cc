// The kernels for AVX2; see linear_kernels.inc.
#include <immintrin.h>
#define SET "avx2"
#define ROWS 3
#define BLOCKS 2
#define LEVEL_ROWS_8 2
#define LEVEL_ROWS_24 1
#define LEVEL_BLOCKS 1
#define LEVEL_ONE 1
#include "linear/linear_kernels.inc"

const tokloom::Kernels& tokloom::kernels_avx2() { return set; }
