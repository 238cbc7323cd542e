// The kernels for any processor; see linear_kernels.inc.
#define SET "portable"
#define ROWS 3
#define BLOCKS 1
#define LEVEL_ROWS_8 2
#define LEVEL_ROWS_24 2
#define LEVEL_BLOCKS 1
#define LEVEL_ONE 1
#include "linear/linear_kernels.inc"

const tokloom::Kernels& tokloom::kernels_portable() { return set; }
