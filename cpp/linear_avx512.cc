// The kernels for AVX-512 with VNNI; see linear_kernels.inc.
#include <immintrin.h>
#define SET "avx512"
#define ROWS 6
#define BLOCKS 4
#define LEVEL_ROWS_8 6
#define LEVEL_ROWS_24 3
#define LEVEL_BLOCKS 2
#define LEVEL_ONE 4
#include "linear_kernels.inc"

const tokloom::Kernels& tokloom::kernels_avx512() { return set; }
