// For tests and benches: BPF_PROG_TEST_RUN of an XDP program.
#pragma once

#include <bpf/bpf.h>
#include <linux/bpf.h>

#include <cerrno>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

namespace sluice::testing {

struct RunResult {
  int error = 0;                     // errno; the rest holds only when it is 0
  std::uint32_t verdict = 0;         // XDP_*
  std::uint32_t ns_per_packet = 0;
  std::vector<std::uint8_t> output;  // metadata, then the frame
};

inline RunResult test_run(int program_fd, std::span<const std::uint8_t> frame, std::uint32_t repeat = 1) {
  RunResult result;
  result.output.resize(frame.size() + 256);
  LIBBPF_OPTS(bpf_test_run_opts, options, .data_in = frame.data(), .data_out = result.output.data(),
              .data_size_in = static_cast<std::uint32_t>(frame.size()),
              .data_size_out = static_cast<std::uint32_t>(result.output.size()), .repeat = static_cast<int>(repeat));
  int status = bpf_prog_test_run_opts(program_fd, &options);
  result.error = status == 0 ? 0 : (errno != 0 ? errno : -status);
  result.verdict = options.retval;
  result.ns_per_packet = options.duration;
  result.output.resize(status == 0 ? options.data_size_out : 0);
  return result;
}

}  // namespace sluice::testing
