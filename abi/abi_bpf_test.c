/* Compiled with -target bpf, for which there are no headers of a C library. */
#include "abi/demux.h"
#include "abi/packet_meta.h"

#include "abi/abi_test.h"
