#include "abi/app.h"
#include "abi/demux.h"
#include "abi/packet_meta.h"
#include "abi/ring.h"

#include "abi/abi_test.h"

int main(void) {
  return 0;
} /* the compiler has done the test */
