// Whether a checker of threads (ThreadSanitizer) watches this program.
#pragma once

namespace sluice::test {

#if defined(__SANITIZE_THREAD__)
inline constexpr bool kThreadsAreChecked = true;
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
inline constexpr bool kThreadsAreChecked = true;
#else
inline constexpr bool kThreadsAreChecked = false;
#endif
#else
inline constexpr bool kThreadsAreChecked = false;
#endif

}  // namespace sluice::test
