#include "control/port_types/port_type.h"

#include <gtest/gtest.h>

namespace sluice {
namespace {

TEST(ServingFirst, WorkersThatSendByTheUplinkComeFirstAndEachHalfKeepsItsOrder) {
  PortPlace place;
  place.workers = {WorkerId{0}, WorkerId{1}, WorkerId{2}, WorkerId{3}};
  place.worker_sends = {false, true, false, true};
  const ServingFirst order = serving_first(place);
  EXPECT_EQ(order.workers, (std::vector{WorkerId{1}, WorkerId{3}, WorkerId{0}, WorkerId{2}}));
  EXPECT_EQ(order.serving, 2u);
}

TEST(ServingFirst, WithoutAnUplinkAllWorkersAreAlike) {
  PortPlace place;
  place.workers = {WorkerId{0}, WorkerId{1}};
  place.worker_sends = {false, false};
  const ServingFirst order = serving_first(place);
  EXPECT_EQ(order.workers, place.workers);
  EXPECT_EQ(order.serving, 0u);
}

}  // namespace
}  // namespace sluice
