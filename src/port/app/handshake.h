// The handshake of abi/app.h: what a hello must be, how a welcome is sent. Nothing here waits (control
// thread).
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "abi/app.h"
#include "base/result.h"
#include "port/app/app_port.h"

namespace sluice {

// What came of a hello: the client's name, or why it is refused.
struct Hello {
  sluice_app_status status = SLUICE_APP_OK;
  std::string sentence;  // for a person; empty when OK
  std::string client;    // printable
};

// Pure: judges one message, whatever it holds. `message` is a private copy.
Hello judge_hello(std::span<const std::byte> message);

// Reads one message of `socket`, if there is one. Descriptors that a peer attaches never enter this process:
// without a control buffer the kernel drops them and says MSG_CTRUNC (recvmsg(2)), which is a bad hello.
enum class HelloRead : std::uint8_t { kNotYet, kClosed, kJudged };
HelloRead read_hello(int socket, Hello& hello);
// The same of what somebody else has read (door/one_message.h).
HelloRead judge_read(std::span<const std::byte> message, bool had_descriptors, Hello& hello);

// Likewise the app's word that it has mapped its memory. kWrong: it said something else.
enum class MappedRead : std::uint8_t { kNotYet, kClosed, kWrong, kMapped };
MappedRead read_mapped(int socket);
MappedRead judge_mapped(std::span<const std::byte> message, bool had_descriptors);

// Whether the other side has closed, or is gone.
bool has_ended(int socket);

// What the welcome says of the port and not of the session's memory: from where and by which lanes it sends.
void describe_port(const AppPortOptions& options, sluice_app_welcome& welcome);

// Says no. Best effort: who does not listen does not hear.
void send_refusal(int socket, sluice_app_status status, const std::string& sentence);
// `welcome` without magic, version and status, which are filled in here.
Result<void> send_served(int socket);
Result<void> send_welcome(int socket, sluice_app_welcome welcome, std::span<const int> fds);

}  // namespace sluice
