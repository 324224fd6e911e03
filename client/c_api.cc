// The C functions: nothing but Port with other words. No exception crosses.
#include <array>
#include <exception>

#include "port_state.h"
#include "version.h"

struct sluice_port {
  sluice::Port port;
  sluice::client::PortState& state() const { return *port.state_; }
};

namespace {

using sluice::client::Lane;

thread_local std::array<char, 512> last_error{};

int fail(int code, const char* message) {
  std::snprintf(last_error.data(), last_error.size(), "%s", message);
  return code;
}

int fail(const sluice::Error& error) {
  return fail(static_cast<int>(error.code), error.message.c_str());
}

sluice::AttachOptions to_cpp(const sluice_attach_options* options) {
  sluice::AttachOptions result;
  if (options != nullptr) {
    result.client_name = options->client_name != nullptr ? options->client_name : "";
    result.timeout = std::chrono::milliseconds(options->timeout_ms != 0 ? options->timeout_ms : 5000);
    result.reattach = options->no_reattach == 0;
    result.spin_us = options->spin_us;
  }
  return result;
}

}  // namespace

extern "C" {

int sluice_attach(const char* port_name, const sluice_attach_options* options, sluice_port** port) {
  *port = nullptr;
  if (port_name == nullptr) {
    return fail(SLUICE_ERROR_INVALID, "the name of the port is missing");
  }
  try {
    auto attached = sluice::Port::attach(port_name, to_cpp(options));
    if (!attached) {
      return fail(attached.error());
    }
    *port = new sluice_port{std::move(*attached)};
    return 0;
  } catch (const std::exception& exception) {
    return fail(SLUICE_ERROR_SYSTEM, exception.what());
  }
}

void sluice_detach(sluice_port* port) {
  delete port;
}

int sluice_split(sluice_port* port, sluice_port** parts, size_t part_count) {
  if (part_count == 0) {
    return fail(SLUICE_ERROR_INVALID, "a port is split into 1 .. 64 parts");
  }
  try {
    auto ports = std::move(port->port).split(part_count);
    if (!ports) {
      return fail(ports.error());
    }
    for (size_t i = 0; i < part_count; ++i) {
      parts[i] = new sluice_port{std::move((*ports)[i])};
    }
    delete port;
    return 0;
  } catch (const std::exception& exception) {
    return fail(SLUICE_ERROR_SYSTEM, exception.what());
  }
}

size_t sluice_receive(sluice_port* port, sluice_packet* packets, size_t count) {
  return port->state().receive(packets, count);
}

size_t sluice_receive_wait(sluice_port* port, sluice_packet* packets, size_t count, int64_t timeout_ns) {
  return port->state().receive_for(packets, count, timeout_ns);
}

void sluice_release(sluice_packet* packets, size_t count) {
  for (size_t i = 0; i < count; ++i) {
    if (void* owner = std::exchange(packets[i].owner, nullptr); owner != nullptr) {
      static_cast<Lane*>(owner)->give_back(packets[i].page);
    }
  }
}

void sluice_flush(sluice_port* port) {
  port->state().flush();
}
int sluice_fd(const sluice_port* port) {
  return port->state().fd();
}
int sluice_arm(sluice_port* port) {
  return port->state().arm() ? 1 : 0;
}
void sluice_disarm(sluice_port* port) {
  port->state().disarm();
}

size_t sluice_send(sluice_port* port, const struct iovec* frames, size_t count) {
  return port->state().send(count,
                            [&](size_t i) { return std::pair(frames[i].iov_base, frames[i].iov_len); });
}

size_t sluice_reserve(sluice_port* port, sluice_frame* frames, size_t count) {
  return port->state().reserve(frames, count);
}

size_t sluice_commit(sluice_port* port, const sluice_frame* frames, size_t count) {
  return port->state().commit(frames, count);
}

void sluice_get_counters(const sluice_port* port, sluice_counters* counters) {
  *counters = port->state().counters();
}
void sluice_get_info(const sluice_port* port, sluice_info* info) {
  *info = port->state().info();
}

const char* sluice_strerror(int error) {
  switch (error) {
    case 0:
      return "no error";
    case SLUICE_ERROR_SYSTEM:
      return "a system call failed";
    case SLUICE_ERROR_DENIED:
      return "denied";
    case SLUICE_ERROR_BUSY:
      return "another program is attached";
    case SLUICE_ERROR_INVALID:
      return "invalid argument";
    case SLUICE_ERROR_PROTOCOL:
      return "the other side does not speak as sluiced does";
    case SLUICE_ERROR_VERSION:
      return "the daemon speaks another version";
    case SLUICE_ERROR_REFUSED:
      return "the daemon could not make a session";
    case SLUICE_ERROR_TIMEOUT:
      return "the daemon did not answer in time";
    case SLUICE_ERROR_NO_DAEMON:
      return "no daemon";
    default:
      return "unknown error";
  }
}

const char* sluice_last_error(void) {
  return last_error.data();
}
const char* sluice_version(void) {
  return SLUICE_VERSION;
}

}  // extern "C"
