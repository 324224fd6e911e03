// A program that speaks the app handshake itself, without libsluice: with the daemon's port, it can do wrong
// whatever a program can.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "port/app/app_peer.h"
#include "test/support/eventually.h"
#include "test/system/fixture.h"

namespace sluice::test {

// A hello at `path` and its welcome; the daemon is not told that the memory is mapped. Throws what was wrong.
inline std::pair<UniqueFd, Answer> welcome_at(const std::string& path) {
  UniqueFd socket = connect_to(path);
  const sluice_app_hello hello = good_hello("raw");
  need(socket && send_raw(socket.get(), &hello, sizeof(hello)), "cannot say hello");
  std::optional<Answer> answer;
  need(eventually([&] { return (answer = read_answer(socket.get())).has_value(); }), "no welcome");
  need(answer->welcome.status == SLUICE_APP_OK, answer->welcome.message);
  return {std::move(socket), std::move(*answer)};
}

// Maps what it was given, and waits until it is served.
inline std::unique_ptr<AppPeer> serve(UniqueFd socket, Answer answer) {
  auto peer = std::make_unique<AppPeer>(std::move(socket), std::move(answer));
  need(eventually([&] { return peer->take_served(); }), "it is not served");
  return peer;
}

inline std::unique_ptr<AppPeer> attach_at(const std::string& path) {
  auto [socket, answer] = welcome_at(path);
  return serve(std::move(socket), std::move(answer));
}

}  // namespace sluice::test
