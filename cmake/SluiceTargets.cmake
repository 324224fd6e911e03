# How every target of Sluice is made: one set of flags, one way to name a library, a test, a bench.

set(CMAKE_CXX_STANDARD 23)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_C_STANDARD 11)
set(CMAKE_C_STANDARD_REQUIRED ON)
set(CMAKE_C_EXTENSIONS OFF)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)

set(SLUICE_SANITIZE "" CACHE STRING "sanitizers, as -fsanitize= takes them: address,undefined or thread; empty for none")
option(SLUICE_FUZZ "build the libFuzzer targets (clang only)" OFF)

find_package(Threads REQUIRED)
find_package(PkgConfig REQUIRED)
find_package(GTest REQUIRED)

add_library(sluice_flags INTERFACE)
target_compile_options(sluice_flags INTERFACE
  -Wall -Wextra -Wconversion -Wshadow -Werror -Wno-missing-field-initializers
  -fno-omit-frame-pointer -fstack-protector-strong)
target_compile_definitions(sluice_flags INTERFACE _GNU_SOURCE)
target_include_directories(sluice_flags INTERFACE ${PROJECT_SOURCE_DIR} ${PROJECT_SOURCE_DIR}/src)
target_link_libraries(sluice_flags INTERFACE Threads::Threads)
target_link_options(sluice_flags INTERFACE -Wl,--as-needed)  # a door loads no library that only the daemon calls
# What tests, and what is around the product, is compiled in half the time; what is tested stands in the
# libraries, as it is shipped.
set(SLUICE_TEST_LEVEL -O1)
if(SLUICE_SANITIZE)
  set(SLUICE_TEST_LEVEL -O0)
  target_compile_options(sluice_flags INTERFACE -fsanitize=${SLUICE_SANITIZE} -fno-sanitize-recover=all)
  target_link_options(sluice_flags INTERFACE -fsanitize=${SLUICE_SANITIZE})
endif()
if(SLUICE_FUZZ)
  # Every object counts edges; only a fuzz target links the driver.
  target_compile_options(sluice_flags INTERFACE -fsanitize=fuzzer-no-link)
  target_link_options(sluice_flags INTERFACE -fsanitize=fuzzer-no-link)
endif()

# sluice_library(memory SOURCES arena.cc pool.cc USES base stats LINKS PkgConfig::LIBXDP)
# makes target sluice_memory, which others name `memory` in USES.
function(sluice_library name)
  cmake_parse_arguments(arg "" "" "SOURCES;USES;LINKS" ${ARGN})
  list(TRANSFORM arg_USES PREPEND sluice_)
  if(arg_SOURCES)
    add_library(sluice_${name} STATIC ${arg_SOURCES})
    target_link_libraries(sluice_${name} PUBLIC sluice_flags ${arg_USES} ${arg_LINKS})
  else()
    add_library(sluice_${name} INTERFACE)
    target_link_libraries(sluice_${name} INTERFACE sluice_flags ${arg_USES} ${arg_LINKS})
  endif()
endfunction()

# Every test that is no `system` test: what runs under the sanitizers.
add_custom_target(units)
add_custom_target(fuzzers)

# sluice_test(pool_test SOURCES pool_test.cc USES memory [LABELS root net slow system] [TIMEOUT seconds])
# Labels: `root` needs CAP_NET_ADMIN and makes its own network namespaces, `net` carries real traffic, `system` runs the whole daemon.
# A test that cannot run here says so by GTEST_SKIP with the reason; `./dev test` prints the list.
function(sluice_test name)
  cmake_parse_arguments(arg "" "TIMEOUT" "SOURCES;USES;LINKS;LABELS;ARGS" ${ARGN})
  list(TRANSFORM arg_USES PREPEND sluice_)
  add_executable(${name} ${arg_SOURCES})
  target_link_libraries(${name} PRIVATE sluice_flags ${arg_USES} ${arg_LINKS} GTest::gtest GTest::gtest_main)
  target_compile_options(${name} PRIVATE ${SLUICE_TEST_LEVEL} -g1)
  if(NOT "system" IN_LIST arg_LABELS)
    add_dependencies(units ${name})
  endif()
  add_test(NAME ${name} COMMAND ${name} ${arg_ARGS})
  if(NOT arg_TIMEOUT)
    set(arg_TIMEOUT 120)
  endif()
  set_tests_properties(${name} PROPERTIES TIMEOUT ${arg_TIMEOUT} LABELS "${arg_LABELS}")
endfunction()

# sluice_bench(pool_bench SOURCES pool_bench.cc USES memory): the tests run it only where it is one of Google
# Benchmark's, for a moment, to see that it ends.
function(sluice_bench name)
  cmake_parse_arguments(arg "" "" "SOURCES;USES;LINKS" ${ARGN})
  list(TRANSFORM arg_USES PREPEND sluice_)
  add_executable(${name} ${arg_SOURCES})
  target_link_libraries(${name} PRIVATE sluice_flags ${arg_USES} ${arg_LINKS})
  if("benchmark::benchmark" IN_LIST arg_LINKS AND NOT SLUICE_SANITIZE)
    add_test(NAME ${name}_ends COMMAND ${name} --benchmark_min_time=0.001)
    set_tests_properties(${name}_ends PROPERTIES TIMEOUT 60)
  endif()
endfunction()

# sluice_fuzz(rule_fuzz SOURCES rule_fuzz.cc USES demux): a libFuzzer target, in the asan preset.
function(sluice_fuzz name)
  if(NOT SLUICE_FUZZ)
    return()
  endif()
  cmake_parse_arguments(arg "" "" "SOURCES;USES;LINKS" ${ARGN})
  list(TRANSFORM arg_USES PREPEND sluice_)
  add_executable(${name} ${arg_SOURCES})
  target_link_libraries(${name} PRIVATE sluice_flags ${arg_USES} ${arg_LINKS} -fsanitize=fuzzer)
  add_dependencies(fuzzers ${name})
endfunction()
