// For tests and benches: BPF_PROG_TEST_RUN of an XDP program.
#pragma once

#include <bpf/bpf.h>
#include <linux/bpf.h>

#include <cerrno>
#include <cstdint>
#include <span>
#include <vector>

namespace sluice::testing {

struct RunOptions {
  std::uint32_t repeat = 1;
  std::uint32_t metadata_bytes = 0;  // of the input, in front of the frame
  bool live = false;                 // carries out what the program decides; no output then
};

struct RunResult {
  int error = 0;              // errno; the rest holds only when it is 0
  std::uint32_t verdict = 0;  // XDP_*
  std::uint32_t ns_per_packet = 0;
  std::vector<std::uint8_t> output;  // metadata, then the frame
};

inline RunResult test_run(int program_fd, std::span<const std::uint8_t> input, const RunOptions& run = {}) {
  RunResult result;
  LIBBPF_OPTS(bpf_test_run_opts, options, .data_in = input.data(),
              .data_size_in = static_cast<std::uint32_t>(input.size()),
              .repeat = static_cast<int>(run.repeat));
  xdp_md context{};
  if (run.metadata_bytes != 0) {
    context.data = run.metadata_bytes;
    context.data_end = static_cast<std::uint32_t>(input.size());
    options.ctx_in = &context;
    options.ctx_size_in = sizeof context;
  }
  if (run.live) {
    options.flags = BPF_F_TEST_XDP_LIVE_FRAMES;
  } else {
    result.output.resize(input.size() + 256);
    options.data_out = result.output.data();
    options.data_size_out = static_cast<std::uint32_t>(result.output.size());
  }
  errno = 0;
  int status = bpf_prog_test_run_opts(program_fd, &options);
  result.error = status == 0 ? 0 : (errno != 0 ? errno : -status);
  result.verdict = options.retval;
  result.ns_per_packet = options.duration;
  result.output.resize(status == 0 && !run.live ? options.data_size_out : 0);
  return result;
}

}  // namespace sluice::testing
