// The kernels for portable; see linear_kernels.inc.
#define ROWS 3
#define BLOCKS 1
#define SET "portable"
#include "linear_kernels.inc"

const tokloom::Kernels& tokloom::kernels_portable() { return set; }
