// The layouts of both ring formats, as the kernel's headers have them: without its helpers, which are C.
#pragma once

#ifndef VIRTIO_RING_NO_LEGACY
#define VIRTIO_RING_NO_LEGACY
#endif
#include <linux/virtio_ring.h>

#include <bit>

static_assert(std::endian::native == std::endian::little, "virtio 1 rings are little-endian");
