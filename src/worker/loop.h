// Loop: what a worker's thread does, over and over. Everything here is that thread's alone, except the
// counters.
#pragma once

#include <poll.h>

#include <array>
#include <cstdint>
#include <memory>
#include <vector>

#include "base/fd.h"
#include "stats/counter.h"
#include "worker/active_lanes.h"
#include "worker/forward/forward.h"
#include "worker/haltpoll.h"
#include "worker/mailbox.h"
#include "worker/port_meter.h"
#include "worker/residence.h"
#include "worker/rest.h"
#include "worker/worker.h"

namespace sluice {

class Loop {
 public:
  Loop(const WorkerOptions& options, Mailbox& mailbox);

  // Until a task of the mailbox calls stop().
  void run();
  void stop() { stopped_ = true; }
  // Before run(), on the loop's thread, when that is pinned.
  void start_keeper();

  // Only on the loop's thread, that is, in a task of the mailbox.
  Worker::Tables& tables() { return tables_; }
  const Forwarder& forwarder() const { return forwarder_; }
  void visit(CounterVisitor& visitor) const;
  PortMeter& meter() { return meter_; }
  std::uint64_t turns() const { return turns_.value(); }  // any thread

 private:
  void turn();
  template <typename Sources, typename Visit>
  void serve_all(const Sources& sources, Visit visit);
  bool serve(PortId port, Source& source);
  void run_calls();
  void look_at_resting();

  void note_burst(std::uint64_t seen, bool from_wire, std::uint32_t count);
  void note_residence();
  void rest();
  void yield_to_peers();
  void announce_rest();
  void spin();
  void nap(std::uint32_t ns);
  void nap_for_wire();
  void sleep();
  UniqueFd make_wake_set();
  template <typename Visit>
  void for_each_lane(Visit visit);

  const WorkerId id_;
  const WorkerOptions::Idle idle_;
  const std::uint32_t nap_ns_;
  Mailbox& mailbox_;
  Worker::Tables tables_;
  PortMeter meter_;
  Forwarder forwarder_;
  ActiveLanes active_;
  std::uint32_t turns_since_look_ = 0;   // at the resting lanes
  std::uint32_t turns_since_yield_ = 0;  // that left more to do
  bool stopped_ = false;

  // Of the present turn.
  bool more_ = false;  // somebody gave as much as a turn allows: no rest before the next turn
  std::array<Packet, kBurst> packets_in_hand_;
  std::size_t first_ = 0;         // who begins this turn
  std::uint64_t first_seen_ = 0;  // when it looked for its first packets, in ticks; 0: there were none
  bool first_received_ = false;   // and they came from the wire

  // Since the last rest.
  RestPolicy policy_;
  RestPolicy::Work since_rest_;
  std::uint32_t naps_in_a_row_ = 0;
  std::unique_ptr<Haltpoll> keeper_;  // of a worker that keeps its core awake
  UniqueFd wake_set_;  // epoll over all wake_fd() and the mailbox; none after a call, which may have changed
                       // the tables
  std::vector<pollfd> wire_;  // the mailbox's descriptor and the NIC queues'

  Residence received_stays_, sent_stays_;
  Counter turns_, packets_, tx_packets_, spins_, naps_, wire_naps_, kept_awake_, yields_, sleeps_,
      sleeps_refused_, wakeups_;
};

}  // namespace sluice
