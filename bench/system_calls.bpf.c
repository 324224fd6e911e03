/* SPDX-License-Identifier: (GPL-2.0 OR BSD-2-Clause) */
#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>

char LICENSE[] SEC("license") = "Dual BSD/GPL";

#define MAX_PROCESSES 4

__u32 processes[MAX_PROCESSES];
__u64 calls;

SEC("raw_tracepoint/sys_enter")
int count_system_call(void* context) {
  __u32 process = (__u32)(bpf_get_current_pid_tgid() >> 32);
  for (int i = 0; i < MAX_PROCESSES; i++) {
    if (process && processes[i] == process) {
      __sync_fetch_and_add(&calls, 1);
      break;
    }
  }
  return 0;
}
