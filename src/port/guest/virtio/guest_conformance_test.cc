// The suite of lane_conformance.h on a guest's lane, with every format of ring.
#include "port/fake/lane_conformance.h"
#include "port/guest/virtio/guest_test_fixture.h"
#include "port/guest/virtio/ring/refilled_device.h"

namespace sluice::test {
namespace {

// Both rings' drivers have their turn before each read of either.
class BothDrivers final : public DriverModel {
 public:
  explicit BothDrivers(RefilledDevice& refilled) : refilled_(refilled) {}
  ~BothDrivers() override { driver_model = nullptr; }
  void begin_call() {
    refilled_.rx().begin_call();
    refilled_.tx().begin_call();
    driver_model = this;
  }
  void before_read() override {
    refilled_.rx().before_read();
    refilled_.tx().before_read();
  }

 private:
  RefilledDevice& refilled_;
};

class GuestUnderTest final : public LaneUnderTest {
 public:
  explicit GuestUnderTest(const Variant& variant)
      : memory_({{MockMemory::kBase, 64 << 20}}),
        device_({.port = kGuestPort, .uplink = kUplink, .macs = {{2, 0, 0, 0, 0, 1}}}, {WorkerId{0}}, 1),
        guest_(memory_, {.format = variant.format, .entries = 256, .features = variant.features}),
        refilled_(device_, guest_, sluice::numbered_frame(1, 300)),
        drivers_(refilled_) {
    guest_.attach(device_);
    guest_.fill_receive();
  }

  Lane& lane() override { return device_.lane(WorkerId{0}); }
  std::optional<Bytes> read() override { return guest_.receive(); }
  bool send(std::span<const std::byte> frame) override {
    guest_.reap_sent();
    if (!guest_.send(frame)) {
      return false;
    }
    if (guest_.tx().kick_needed()) {
      guest_.tx().kick();
    }
    return true;
  }
  bool give_without_end() override {
    if (!std::exchange(refilling_, true)) {
      start_afresh(device_, guest_);
      refilled_.begin(1, RefilledDevice::Mood::kAnything);
    }
    drivers_.begin_call();
    return true;
  }

 private:
  MockMemory memory_;
  GuestDevice device_;
  MockGuest guest_;
  RefilledDevice refilled_;
  BothDrivers drivers_;
  bool refilling_ = false;
};

template <std::size_t kVariant>
std::unique_ptr<LaneUnderTest> make_guest(std::string&) {
  return std::make_unique<GuestUnderTest>(all_variants()[kVariant]);
}

// By the places that all_variants() gives them.
SLUICE_LANE_CONFORMANCE(Split, LaneFactory{&make_guest<0>}, LaneFactory{&make_guest<1>},
                        LaneFactory{&make_guest<2>}, LaneFactory{&make_guest<3>});
SLUICE_LANE_CONFORMANCE(Packed, LaneFactory{&make_guest<4>}, LaneFactory{&make_guest<5>},
                        LaneFactory{&make_guest<6>}, LaneFactory{&make_guest<7>});

}  // namespace
}  // namespace sluice::test
