// The kernels for AMX with bfloat16, and AVX-512 for what is not made of tiles; see linear_kernels.inc.
#include <immintrin.h>
#define SET "amx"
#define ROWS 6
#define BLOCKS 4
#define LEVEL_ROWS_8 6
#define LEVEL_ROWS_24 3
#define LEVEL_BLOCKS 2
#define LEVEL_ONE 4
#include "linear_kernels.inc"

const tokloom::Kernels& tokloom::kernels_amx() { return set; }
